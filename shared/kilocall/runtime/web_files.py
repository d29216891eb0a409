"""The files of `shared/kilocall/web/` and what goes with them, for whoever serves or exports a page of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = [
    "CALL_PAGE",
    "ENGINE_FILES",
    "NETWORK_FILES",
    "WEB",
    "WEIGHTS",
    "for_browsers",
    "has_engine",
    "modules_of",
    "rewritten_path",
]

WEB: Final = Path(__file__).parents[1] / "web"
#: The page of a call, which is served as `call/` with what is in WEB/call in place of its own.
CALL_PAGE: Final = Path(__file__).parents[1] / "call" / "page"
WEIGHTS: Final = Path(__file__).parents[1] / "model" / "weights" / "compact-256"
#: What `make web` copies to WEB/vendor.
ENGINE_FILES: Final = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
#: What a page asks for at `networks/`.
NETWORK_FILES: Final = (
    "appearance.onnx",
    "field.onnx",
    "generator.onnx",
    "face.onnx",
    "eye.onnx",
    "mouth.onnx",
    "implicit.onnx",
    "fusion.onnx",
    "codebook.safetensors",
    "shape.safetensors",
)
_IMPORT: Final = re.compile(
    r'^(?:import|export|\}) .*from "(\.{1,2}/[\w./-]+\.js)";$|^import "(\.{1,2}/[\w./-]+\.js)";$', re.M
)


def has_engine() -> bool:
    """Whether `make web` has been run."""
    return all((WEB / "vendor" / name).is_file() for name in ENGINE_FILES)


def for_browsers(name: str, stored: bytes) -> bytes:
    """A file of `networks/` as a page gets it, for the one that is `stored` with the weights."""
    path = rewritten_path(WEB / "vendor" / "networks", name, stored)
    return path.read_bytes() if path.is_file() else stored


def rewritten_path(folder: Path, name: str, stored: bytes) -> Path:
    """Where `web_networks.py` puts its version of a network; other weights' networks lie elsewhere."""
    return folder / f"{Path(name).stem}-{hashlib.sha256(stored).hexdigest()[:16]}.onnx"


def modules_of(entries: Iterable[str]) -> frozenset[str]:
    """These modules and all that they import, as paths below WEB."""
    found: set[str] = set()
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        path = WEB / name
        if not path.is_file():
            path = CALL_PAGE / name.removeprefix("call/")
        for one in _IMPORT.finditer(path.read_text()):
            imported = ((WEB / name).parent / one[1]).resolve()
            waiting.append(imported.relative_to(WEB.resolve()).as_posix())
    return frozenset(found)
