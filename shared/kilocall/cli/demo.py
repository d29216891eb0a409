"""demo: the built-in speakers through the whole path, with something to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel

from kilocall.api import DecodeReport, EncodeReport, StreamInfo, decode, encode, info
from kilocall.bench.contact_sheet import SheetPair, SheetRow, contact_sheet, sheet_frames
from kilocall.cli.screen import console, print_table, progress_bar, warn
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import Picture
from kilocall.proto.control import CropPlace
from kilocall.proto.stream_file import StreamReader
from kilocall.receiver.video_file import VideoFile
from kilocall.runtime.files import check_output_folder, write_whole
from kilocall.runtime.pictures import as_png, decode_picture
from kilocall.sample import NAMES, sample_clip
from kilocall.sender import face_crop
from kilocall.sender.capture import open_clip

__all__ = ["DemoReport", "SampleReport", "run_demo"]

SIDE: Final = 256


class SampleReport(BaseModel):
    """One speaker's numbers."""

    name: str
    clip: Path
    clip_bytes: int
    encode: EncodeReport
    decode: DecodeReport
    stream: StreamInfo


class DemoReport(BaseModel):
    """What `report.json` holds."""

    engine: str
    threads: int
    samples: list[SampleReport]


def run_demo(out: Path, *, engine: str, threads: int) -> None:
    """Writes to `out`, for each speaker, NAME.mp4, NAME.kcs and NAME_decoded.mp4.

    Beside them are `decoded.mp4` (clips left, decoded right), `side_by_side.png` and `report.json`.
    """
    check_output_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    chosen = choose_engine(engine, threads)
    samples = [_through(name, out, chosen.name, chosen.threads) for name in NAMES]
    side_by_side = contact_sheet([_sheet_row(sample) for sample in samples])
    write_whole(out / "side_by_side.png", as_png(side_by_side))
    _write_video(out / "decoded.mp4", samples)
    report = DemoReport(engine=chosen.name, threads=chosen.threads, samples=samples)
    write_whole(out / "report.json", (report.model_dump_json(indent=2) + "\n").encode())
    _print(report)
    console().print(f"wrote {out}/decoded.mp4, side_by_side.png, report.json and the clips", soft_wrap=True)


def _through(name: str, out: Path, engine: str, threads: int) -> SampleReport:
    with progress_bar(f"{name}: making the clip"):
        clip = sample_clip(name, out, engine=engine, threads=threads)
    stream, decoded = out / f"{name}.kcs", out / f"{name}_decoded.mp4"
    with progress_bar(f"{name}: encoding") as progress:
        encoded = encode(clip, stream, engine=engine, threads=threads, progress=progress)
    for warning in encoded.warnings:
        warn(warning)
    with progress_bar(f"{name}: decoding") as progress:
        report = decode(stream, decoded, size=SIDE, engine=engine, threads=threads, progress=progress)
    return SampleReport(
        name=name, clip=clip, clip_bytes=clip.stat().st_size, encode=encoded, decode=report, stream=info(stream)
    )


def _pairs(sample: SampleReport) -> Iterator[tuple[float, Picture, Picture]]:
    """Seconds, the clip's frame cut as it was coded, and what was decoded in its place."""
    places = [r for r in StreamReader(sample.encode.stream).records() if isinstance(r, CropPlace)]
    for original, decoded in zip(open_clip(sample.clip), open_clip(sample.decode.video), strict=False):
        held = [p for p in places if p.time_us <= original.capture_us] or places
        crop = original.rgb
        if held:
            crop, _ = face_crop.cut(crop, face_crop.CropPlace(held[-1].x0, held[-1].y0, held[-1].side))
        yield original.capture_us / 1e6, crop, decoded.rgb


def _sheet_row(sample: SampleReport) -> SheetRow:
    packed = StreamReader(sample.encode.stream).source_picture()
    assert packed is not None, "the encoder always writes one"
    shown = set(sheet_frames(sample.decode.frames))
    pairs = [SheetPair(*pair) for number, pair in enumerate(_pairs(sample)) if number in shown]
    found = sample.stream
    lines = (
        f"{found.payload_bits_mean:.1f} bits a frame",
        f"{found.payload_kbps:.2f} kbit/s",
        f"source {found.source_bytes} bytes",
    )
    return SheetRow(sample.name, lines, decode_picture(packed.data), tuple(pairs))


def _write_video(path: Path, samples: list[SampleReport]) -> None:
    """A row per speaker: the clip beside what was decoded."""
    fps = StreamReader(samples[0].encode.stream).header.fps
    grid = 2 * SIDE
    with VideoFile(path, fps=fps, size=grid) as video:
        for number, pairs in enumerate(zip(*(_pairs(sample) for sample in samples), strict=False)):
            rows = [np.concatenate((crop, decoded), 1) for _, crop, decoded in pairs]
            picture = np.zeros((grid, grid, 3), np.uint8)
            both = np.concatenate(rows, 0)[:grid]
            picture[: len(both)] = both
            video.write(picture, round(number * 1_000_000 / fps))


def _print(report: DemoReport) -> None:
    facts: list[tuple[str, Callable[[SampleReport], str]]] = [
        ("frames", lambda s: str(s.encode.frames)),
        ("clip, bytes", lambda s: str(s.clip_bytes)),
        ("stream, bytes", lambda s: str(s.encode.file_bytes)),
        ("of it the source picture", lambda s: str(s.encode.source_bytes)),
        ("motion, bits a frame", lambda s: f"{s.stream.payload_bits_mean:.1f}"),
        ("motion, kbit/s", lambda s: f"{s.stream.payload_kbps:.2f}"),
        ("on a data channel, kbit/s", lambda s: f"{s.stream.wire[-1].forward_kbps:.1f}"),
        ("encoding, frames/s", lambda s: f"{s.encode.frames / s.encode.wall_s:.0f}"),
        ("decoding, frames/s", lambda s: f"{s.decode.frames / s.decode.wall_s:.0f}"),
    ]
    print_table(
        f"{report.engine}, {report.threads} threads",
        ["", *(s.name for s in report.samples)],
        [[title, *(fact(s) for s in report.samples)] for title, fact in facts],
    )
