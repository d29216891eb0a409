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
    "GPU_ENGINE_FILES",
    "GPU_NETWORKS",
    "NETWORK_FILES",
    "WEB",
    "WEIGHTS",
    "for_browsers",
    "gpu_files",
    "gpu_path",
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
#: The same engine with WebGPU, which a call fetches where the browser has a graphics processor; also from `make web`.
GPU_ENGINE_FILES: Final = ("ort.jspi.bundle.min.mjs", "ort-wasm-simd-threaded.jspi.wasm")
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
#: Those of them that may run on a graphics processor: as NETWORKS in `gpu_choice.js`.
GPU_NETWORKS: Final = ("field.onnx", "generator.onnx", "face.onnx", "eye.onnx", "mouth.onnx")
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


def gpu_files() -> dict[str, Path]:
    """What a call needs to run networks on a graphics processor, by the path that a page asks for; all or nothing."""
    vendor = WEB / "vendor"
    found = {f"vendor/{name}": vendor / name for name in GPU_ENGINE_FILES}
    for name in GPU_NETWORKS:
        stored = (WEIGHTS / name).read_bytes()
        found[f"networks/{Path(name).stem}.gpu.onnx"] = gpu_path(vendor / "networks", name, stored)
    return found if all(path.is_file() for path in found.values()) else {}


def rewritten_path(folder: Path, name: str, stored: bytes) -> Path:
    """Where `web_networks.py` puts its version of a network; other weights' networks lie elsewhere."""
    return folder / f"{Path(name).stem}-{hashlib.sha256(stored).hexdigest()[:16]}.onnx"


def gpu_path(folder: Path, name: str, stored: bytes) -> Path:
    """Where `web_networks.py` puts a network for graphics processors."""
    return rewritten_path(folder, name, stored).with_suffix(".gpu.onnx")


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
