"""What is installed here, whether it works together, and which engine would run."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

from kilocall.model.engine_choice import MOST_AUTO_THREADS, choose_engine
from kilocall.model.engine_factory import make_engine
from kilocall.model.family import weights_folder
from kilocall.proto.errors import BadInput
from kilocall.runtime.engine import EngineName, how_to_install, installed_engines
from kilocall.runtime.findings import Finding, Section, State
from kilocall.runtime.machine import cpu_model, cuda_driver_present, instruction_sets, physical_cores
from kilocall.runtime.timing import frame_ms, network_files, time_networks

MIN_PYTHON: Final = (3, 11)
#: All runs of one engine's networks together; loading comes on top.
ENGINE_BUDGET_S: Final = 0.3
#: Codec, whether it is for reading or writing, and what it is needed for.
CODECS: Final[tuple[tuple[str, Literal["r", "w"], str], ...]] = (
    ("h264", "r", "reading clips"),
    ("libx264", "w", "writing clips"),
    ("libx265", "w", "comparisons"),
    ("libsvtav1", "w", "comparisons"),
    ("libopus", "w", "sound"),
)
NEEDED_CODECS: Final = ("h264", "libx264")
CASCADES: Final = (
    "haarcascade_frontalface_alt2.xml",
    "haarcascade_frontalface_default.xml",
    "haarcascade_eye.xml",
    "haarcascade_profileface.xml",
)


@dataclass(frozen=True)
class Diagnosis:
    sections: tuple[Section, ...]

    @property
    def broken(self) -> tuple[Finding, ...]:
        return tuple(f for s in self.sections for f in s.findings if f.state == "broken")

    @property
    def exit_code(self) -> int:
        """0, or 2 if something that is needed does not work."""
        return 2 if self.broken else 0


def diagnose(engine: str = "auto", threads: int = 0, weights: Path | None = None) -> Diagnosis:
    """Looks at everything once; nothing is changed and nothing is sent. `weights` replaces the packaged weights."""
    parts: tuple[tuple[str, Iterable[Finding]], ...] = (
        ("program", _program()),
        ("processor", _processor()),
        ("engines", _engines(engine, threads)),
        ("pictures and clips", _media()),
        ("weights", _weights(weights)),
    )
    return Diagnosis(tuple(Section(title, tuple(findings)) for title, findings in parts))


def _program() -> Iterator[Finding]:
    try:
        yield Finding("kilocall", version("kilocall"))
    except PackageNotFoundError:
        yield Finding("kilocall", "run from its source folders")
    wanted = ".".join(map(str, MIN_PYTHON))
    fits = sys.version_info >= MIN_PYTHON
    yield Finding(
        "Python",
        platform.python_version() + ("" if fits else f", wanted is {wanted} or newer"),
        "ok" if fits else "broken",
    )
    yield Finding("system", f"{platform.system()} {platform.release()} {platform.machine()}")


def _processor() -> Iterator[Finding]:
    yield Finding("model", cpu_model())
    yield Finding("physical cores", str(physical_cores()))
    found = instruction_sets()
    if found is not None:
        yield Finding("instruction sets", ", ".join(found) or "none that matter")


def _engines(engine: str, threads: int) -> Iterator[Finding]:
    for name, number in installed_engines().items():
        if number is None:
            yield Finding(name, f"not installed: {how_to_install(name)}", "missing")
        else:
            yield _timed(name, number, threads)
    yield Finding("CUDA", *_cuda())
    try:
        chosen = choose_engine(engine, threads)
    except (BadInput, ImportError, OSError) as error:
        yield Finding("chosen", str(error), "broken")
        return
    count = f"{chosen.threads} thread{'s' if chosen.threads > 1 else ''}"
    if chosen.device_name != "CPU":
        count = f"{chosen.device_name}, {count}"
    yield Finding("chosen", f"{chosen.name} on {count} ({chosen.reason})")


def _timed(name: EngineName, number: str, threads: int) -> Finding:
    """How long the packaged networks take on an installed engine.

    One that does not work is no more than missing here: what needs it says so where it is chosen.
    """
    try:
        engine = make_engine(name, threads or min(physical_cores(), MOST_AUTO_THREADS), "doctor")
        times = time_networks(engine, network_files(weights_folder()), ENGINE_BUDGET_S)
    except Exception as error:  # a library or driver that is broken may raise anything
        return Finding(name, f"{number}, does not work: {error}", "missing")
    each = ", ".join(f"{network} {ms:.1f}" for network, ms in times.items())
    return Finding(name, f"{number} on {engine.device_name}: {frame_ms(times):.1f} ms a frame ({each})", "ok", times)


def _cuda() -> tuple[str, State]:
    if not cuda_driver_present():
        return "no driver", "missing"
    if installed_engines()["torch"] is None:
        return "a driver, but torch is not installed", "missing"
    from kilocall.model.compact.torch_engine import cuda_device

    name = cuda_device()
    return (name, "ok") if name else ("a driver, but torch finds no device", "missing")


def _media() -> Iterator[Finding]:
    try:
        import cv2

        yield Finding("OpenCV", cv2.__version__)
        for name in CASCADES:
            path = Path(cv2.__file__).parent / "data" / name
            works = path.is_file() and not cv2.CascadeClassifier(str(path)).empty()
            yield Finding(name, "found" if works else f"{path} cannot be read", "ok" if works else "broken")
    except ImportError as error:
        yield Finding("OpenCV", str(error), "broken")
    try:
        import av
        from av.codec import Codec

        yield Finding("PyAV", av.__version__)
        for name, mode, purpose in CODECS:
            try:
                Codec(name, mode)
                yield Finding(name, f"for {purpose}")
            except ValueError:  # av.codec.UnknownCodecError
                yield Finding(name, f"missing, for {purpose}", "broken" if name in NEEDED_CODECS else "missing")
    except ImportError as error:
        yield Finding("PyAV", str(error), "broken")
    from PIL import features

    avif = features.check("avif")
    yield Finding("AVIF", "for source pictures" if avif else "missing, WebP instead", "ok" if avif else "missing")


def _weights(folder: Path | None) -> Iterator[Finding]:
    try:
        place = folder or weights_folder()
        manifest: dict[str, Any] = json.loads((place / "manifest.json").read_text())
        files: dict[str, str] = {**manifest["files"], **manifest.get("local_files", {})}
        family = str(manifest["family"])
    except (BadInput, OSError, ValueError, KeyError, TypeError) as error:
        yield Finding("manifest", f"missing or damaged: {error}", "broken")
        return
    yield Finding("family", f"{family} in {place}")
    steps = manifest.get("trained_steps", {})
    if steps:
        yield Finding("trained steps", ", ".join(f"{part} {count}" for part, count in steps.items()))
    for name, wanted in sorted(files.items()):
        yield _file(place / name, wanted)


def _file(path: Path, wanted: str) -> Finding:
    try:
        data = path.read_bytes()
    except OSError as error:
        return Finding(path.name, f"cannot be read: {error}", "broken")
    found = hashlib.sha256(data).hexdigest()
    if found != wanted:
        return Finding(path.name, f"SHA-256 is {found[:12]}…, the manifest says {wanted[:12]}…", "broken")
    return Finding(path.name, f"{len(data) / 1e6:.2f} MB, hash matches")
