"""A stream as a folder that any web server can host: the page renders it in the browser, without any program behind it.

    index.html, modules, style   what `shared/kilocall/web/` holds
    replay.css                   the style of `kilocall replay`, of which this page has more
    vendor/                      the engine that runs networks in a browser; `make web` puts it there
    networks/                    of compact-256, its codebook and its expression basis
    stream.kcs                   the stream as it is
    faces.json                   where the face is in each of its pictures

The browser gets the numbers of `faces.json` instead of finding them: it loads the four networks that would only when a
person gives it another picture.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from kilocall import receiver
from kilocall.api.families import check_family, fitted_to
from kilocall.model.compact.family import CompactFamily
from kilocall.model.family import DEFAULT_FAMILY, Family, Picture
from kilocall.model.motion import Motion
from kilocall.model.reference_pictures import ReferencePicture, base_reference, refer
from kilocall.proto.control import SourcePicture
from kilocall.proto.errors import BadInput
from kilocall.proto.stream_file import StreamReader
from kilocall.runtime.picture_process import decode_from_others
from kilocall.runtime.web_files import ENGINE_FILES, NETWORK_FILES, WEB, for_browsers, has_engine, modules_of

__all__ = ["ENGINE_FILES", "WEB", "PageReport", "export_page", "faces_of"]

#: What it looks like as `kilocall replay` does.
REPLAY_STYLE: Final = Path(receiver.__file__).parent / "page" / "style.css"
#: What the page begins with: its own module and the worker's.
ENTRIES: Final = ("page.js", "worker.js")
PAGE_FILES: Final = ("index.html", "style.css", "icon.svg", "LICENSES.txt")
FACES: Final = "faces.json"
FACES_FORMAT: Final = 1


@dataclass(frozen=True)
class PageReport:
    """What was written."""

    folder: Path
    files: int
    bytes: int
    pictures: int
    """Of the speaker, that are moved."""
    truncated: str | None


def export_page(stream: Path | str, out: Path | str, *, family: Family) -> PageReport:
    """Writes the folder `out`, whole or not at all; one that it wrote before is replaced.

    BadInput for a stream that the page could not play, another folder that is in the way, and where the engine for
    browsers is missing.
    """
    stream, out = Path(stream), Path(out)
    _check_engine()
    _check_out(out)
    reader = StreamReader(stream)
    if not isinstance(family, CompactFamily) or reader.header.family != family.name:
        raise BadInput(f"{stream} is of family {reader.header.family}; a page plays {DEFAULT_FAMILY} alone")
    if family.adapter is not None:
        raise BadInput("a page renders with everybody's networks; a personal file does not fit it")
    check_family(reader.header, family, str(stream))
    if not reader.frame_count:
        raise BadInput(f"{stream}: holds no complete motion packet ({reader.damage or 'it is empty'})")
    faces = faces_of(reader, family, stream)
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        _copy_page(partial)
        shutil.copyfile(REPLAY_STYLE, partial / "replay.css")
        (partial / "networks").mkdir()
        for name in NETWORK_FILES:
            (partial / "networks" / name).write_bytes(for_browsers(name, family.stored(name)))
        (partial / "stream.kcs").write_bytes(stream.read_bytes())
        (partial / FACES).write_text(json.dumps(faces, separators=(",", ":")))
        written = [file.stat().st_size for file in partial.rglob("*") if file.is_file()]
        _put_in_place(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return PageReport(out, len(written), sum(written), len(faces["pictures"]), reader.damage)


def _check_engine() -> None:
    if not has_engine():
        raise BadInput("the browser's engine is missing: run `make web`")


def _copy_page(folder: Path) -> None:
    """What this page needs of WEB, which holds the page of a call too."""
    vendor = [f"vendor/{name}" for name in ENGINE_FILES]
    for name in (*PAGE_FILES, *sorted(modules_of(ENTRIES)), *vendor):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(WEB / name, folder / name)


def _check_out(out: Path) -> None:
    if not out.parent.is_dir():
        raise BadInput(f"output {out}: the folder {out.parent} does not exist")
    if out.exists() and not out.is_dir():
        raise BadInput(f"output {out} is a file, wanted is a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / FACES).is_file():
        raise BadInput(f"output {out} is a folder with other files in it; name a new one")


def _put_in_place(partial: Path, out: Path) -> None:
    """What was at `out` goes only when the new folder is there."""
    if not out.exists():
        partial.rename(out)
        return
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old)


def faces_of(reader: StreamReader, family: CompactFamily, stream: Path) -> dict[str, Any]:
    """What `shared/kilocall/web/faces.js` reads."""
    source = reader.source_picture()
    if source is None:
        why = reader.damage or "it has none"
        raise BadInput(f"{stream}: the file breaks off before its source picture ({why}); nothing can be shown")
    try:
        base = family.source(_decoded(source, family))
    except BadInput as error:
        raise BadInput(f"{stream}: its source picture cannot be used: {error}") from error
    pictures = [(0, base_reference(family, base))]
    for number, further in enumerate(reader.references(), 1):
        try:
            pictures.append((number, refer(family, _decoded(further, family), base)))
        except BadInput:
            continue  # as everywhere else, the stream is shown on the others
    return {
        "format": FACES_FORMAT,
        "title": stream.name,
        "family": family.name,
        "weights_hash": family.weights_hash,
        "size": family.size,
        "pictures": [_face(number, reference) for number, reference in pictures],
    }


def _decoded(picture: SourcePicture, family: Family) -> Picture:
    return fitted_to(decode_from_others(picture.data), family)


def _face(number: int, reference: ReferencePicture) -> dict[str, Any]:
    source = reference.source
    return {
        "number": number,
        "pose": _motion(source.pose),
        "shape": _numbers(source.shape),
        "implicit": _numbers(source.implicit),
        "interior": _numbers(source.interior),
        "neck": _numbers(source.neck),
        "motion": _motion(reference.motion),
    }


def _motion(motion: Motion) -> dict[str, Any]:
    pose = (*motion.rotation, *motion.translation, motion.scale)
    return {"pose": _numbers(pose), "expression": _numbers(motion.expression)}


def _numbers(values: Any) -> list[float]:
    """Nine digits say a float32 exactly."""
    return [float(f"{value:.9g}") for value in np.asarray(values, np.float64).reshape(-1)]
