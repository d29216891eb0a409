"""Reads the public weights of face-vid2vid and LivePortrait, whichever way they are stored, and never runs what is in
them: torch files are read as tensors alone, safetensors files hold nothing else.

Tensors stay in the file until they are used (memory-mapped), so that weights of a gigabyte cost no memory twice.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kilocall.model.facevid2vid import networks as facevid2vid
from kilocall.model.liveportrait import networks as liveportrait
from kilocall.model.volume.appearance import AppearanceExtractor
from kilocall.model.volume.spade import SpadeDecoder
from kilocall.proto.errors import BadInput, WrongFamily
from kilocall.runtime.progress import Progress

__all__ = [
    "FACEVID2VID",
    "LICENCES",
    "LIVEPORTRAIT",
    "Checkpoint",
    "convert",
    "load_into",
    "read_checkpoint",
    "read_tensors",
]

Tensors = dict[str, Tensor]

FACEVID2VID: Final = "facevid2vid"
LIVEPORTRAIT: Final = "liveportrait"
LICENCES: Final = {
    FACEVID2VID: "CC BY-NC 4.0: not for commercial use",
    LIVEPORTRAIT: "MIT",
}
LIVEPORTRAIT_MODULES: Final = ("appearance_feature_extractor", "motion_extractor", "warping_module", "spade_generator")
FACEVID2VID_MODULES: Final = ("generator", "kp_detector", "he_estimator")

#: Larger files are refused before they are read; the largest public training checkpoint has 2 GB.
MOST_BYTES: Final = 8 << 30
_PRECISIONS: Final = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_SUFFIXES: Final = (".pth", ".pt", ".tar", ".safetensors")
_COUNTER: Final = "num_batches_tracked"
_NAMED: Final = 3  # wrong keys that a message names


@dataclass(frozen=True)
class Checkpoint:
    """Weights of one family: every tensor that its networks want, with the right shape."""

    path: Path
    family: str
    version: str
    modules: dict[str, Tensors]
    precision: str
    ignored: tuple[str, ...]
    """Entries that the networks do not want: discriminators, optimisers, counters of epochs."""
    hash: str
    """See `digest`."""

    @property
    def licence(self) -> str:
        return LICENCES[self.family]

    @property
    def parameters(self) -> int:
        return sum(t.numel() for module in self.modules.values() for t in module.values())


def digest(family: str, version: str, modules: Mapping[str, Tensors], progress: Progress) -> str:
    """SHA-256 over all names, shapes and values, 64 hexadecimal digits.

    Values are rounded to half precision before, so that one network has one hash however it is stored.
    """
    total, done = sum(t.numel() for module in modules.values() for t in module.values()), 0
    made = hashlib.sha256(f"{family} {version}".encode())
    for module in sorted(modules):
        for name in sorted(modules[module]):
            tensor = modules[module][name]
            done += tensor.numel()
            if name.endswith(_COUNTER):
                continue
            made.update(f"{module}.{name} {tuple(tensor.shape)}".encode())
            made.update(tensor.half().contiguous().numpy().data)
            progress(done, total)
    return made.hexdigest()


def networks(family: str, version: str) -> dict[str, Callable[[], nn.Module]]:
    """How each module of a family's version is made; version as `Checkpoint` names it."""
    if family == LIVEPORTRAIT:
        return {
            "appearance_feature_extractor": AppearanceExtractor,
            "motion_extractor": liveportrait.MotionExtractor,
            "warping_module": liveportrait.WarpingModule,
            "spade_generator": lambda: SpadeDecoder(double=True),
        }
    return {
        "generator": lambda: facevid2vid.Generator("spade" if "SPADE" in version else "original"),
        "kp_detector": lambda: facevid2vid.KeypointDetector(shrink="new" in version),
        "he_estimator": facevid2vid.HeadEstimator,
    }


def load_into(make: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> nn.Module:
    """A network for inference whose parameters are the given tensors themselves, not copies."""
    with torch.device("meta"):
        module = make()
    module.load_state_dict(dict(tensors), strict=True, assign=True)
    return module.eval().requires_grad_(False)


def read_checkpoint(path: Path, family: str | None = None, progress: Progress = lambda done, total: None) -> Checkpoint:
    """Weights from a file (face-vid2vid, or what `convert` wrote) or a folder (LivePortrait).

    Raises BadInput for what is missing, cut off, damaged, holds code or does not fit, with the names of the first
    wrong keys; WrongFamily where `family` names another than is found. `progress` gets numbers read and in all.
    """
    if path.is_dir():
        found, modules, ignored = _read_folder(path)
    elif path.is_file():
        found, modules, ignored = _read_single(path)
    else:
        raise BadInput(f"weights {path}: no such file or folder")
    if family is not None and found != family:
        raise WrongFamily(f"weights {path} are of family {found}, wanted is {family}")
    version = _version(found, modules)
    for name, make in networks(found, version).items():
        _check_fit(path, found, version, name, modules[name], make)
    precision = _precision(path, modules)
    return Checkpoint(path, found, version, modules, precision, ignored, digest(found, version, modules, progress))


def convert(checkpoint: Checkpoint, out: Path, *, half: bool) -> None:
    """Writes a safetensors file with what the networks want and nothing else; `half` rounds to half the size.

    Norms, biases and other vectors stay as they are: they are small, and a variance can be larger than half precision
    holds.
    """
    if out.suffix != ".safetensors":
        raise BadInput(f"output {out} ends in {out.suffix!r}, allowed is .safetensors")
    if not out.parent.is_dir():
        raise BadInput(f"output {out}: the folder {out.parent} does not exist")
    flat: Tensors = {}
    for module, tensors in checkpoint.modules.items():
        for name, tensor in tensors.items():
            rounded = half and tensor.ndim > 1 and tensor.is_floating_point()
            if rounded and not bool(torch.isfinite(tensor.half()).all()):
                raise BadInput(f"{module}.{name} holds values too large for half precision; convert without --fp16")
            flat[f"{module}.{name}"] = (tensor.half() if rounded else tensor).contiguous()
    about = {"family": checkpoint.family, "version": checkpoint.version, "licence": checkpoint.licence}
    partial = out.with_name(f".{out.name}.part")
    try:
        save_file(flat, partial, metadata=about)
        partial.replace(out)
    except SafetensorError as error:
        raise BadInput(f"output {out} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


# What is in a file


def _read_single(path: Path) -> tuple[str, dict[str, Tensors], tuple[str, ...]]:
    content = _read_file(path)
    for family, wanted in ((FACEVID2VID, FACEVID2VID_MODULES), (LIVEPORTRAIT, LIVEPORTRAIT_MODULES)):
        if any(name in content for name in wanted):
            lacking = [name for name in wanted if not isinstance(content.get(name), Mapping)]
            if lacking:
                raise BadInput(f"weights {path}: {family} needs {', '.join(wanted)}; {', '.join(lacking)} is missing")
            modules = {name: _state_dict(path, name, content[name]) for name in wanted}
            return family, modules, tuple(sorted(set(content) - set(wanted)))
    module = _module_of(content)
    if module is not None:
        raise BadInput(f"weights {path} hold {module} of {LIVEPORTRAIT} alone; name the folder that holds all four")
    raise BadInput(
        f"weights {path}: known to no family; found {_named(list(content)) or 'nothing'}, wanted are "
        f"{', '.join(FACEVID2VID_MODULES)} in one file, or a folder with {', '.join(LIVEPORTRAIT_MODULES)}"
    )


def _read_folder(folder: Path) -> tuple[str, dict[str, Tensors], tuple[str, ...]]:
    """LivePortrait's four files, in `folder` or in the `base_models` below it as the public weights are packed."""
    places = [p for p in (folder, folder / "base_models", folder / "liveportrait" / "base_models") if p.is_dir()]
    files: dict[str, Path] = {}
    for place in places:
        for name in LIVEPORTRAIT_MODULES:
            for suffix in _SUFFIXES:
                if name not in files and (place / f"{name}{suffix}").is_file():
                    files[name] = place / f"{name}{suffix}"
    lacking = [name for name in LIVEPORTRAIT_MODULES if name not in files]
    if lacking:
        seen = sorted(p.name for p in folder.iterdir())
        raise BadInput(
            f"weights {folder}: {', '.join(f'{name}.pth' for name in lacking)} not found there; it holds "
            f"{_named(seen) or 'nothing'}. A folder is for {LIVEPORTRAIT}; {FACEVID2VID} is one file"
        )
    modules = {}
    for name, file in files.items():
        content = _read_file(file)
        actual = _module_of(content)
        if actual is not None and actual != name:
            raise BadInput(f"weights {file} hold {actual}; was the file renamed?")
        modules[name] = _state_dict(file, name, content)
    used = {file.name for file in files.values()}
    ignored = sorted(p.name for place in places for p in place.iterdir() if p.is_file() and p.name not in used)
    return LIVEPORTRAIT, modules, tuple(ignored)


def _module_of(content: Mapping[str, Any]) -> str | None:
    """Which of LivePortrait's modules a plain state dict is."""
    heads = {key.removeprefix("module.").split(".")[0] for key in content}
    marks = {
        "appearance_feature_extractor": "resblocks_3d",
        "motion_extractor": "detector",
        "warping_module": "dense_motion_network",
        "spade_generator": "G_middle_0",
    }
    if "generator" in heads or "kp_detector" in heads:
        return None
    return next((name for name, mark in marks.items() if mark in heads), None)


def read_tensors(path: Path) -> Tensors:
    """Every tensor of a file by its whole name, tables within tables joined by dots.

    Raises BadInput for what is cut off, damaged or holds code.
    """
    found: Tensors = {}

    def gather(prefix: str, content: Mapping[str, Any]) -> None:
        for name, value in content.items():
            if isinstance(value, Tensor):
                found[prefix + name] = value.detach()
            elif isinstance(value, Mapping):
                gather(f"{prefix}{name}.", {str(key): one for key, one in value.items()})

    gather("", _read_file(path))
    return found


def _read_file(path: Path) -> dict[str, Any]:
    """Nested or flat content of a torch or safetensors file; a safetensors file's names are nested by module."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise BadInput(f"weights {path} have {size} bytes, most are {MOST_BYTES}")
    with path.open("rb") as file:
        start = file.read(9)
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        return _read_torch(path, zipped=start[:2] == b"PK")
    if len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < size:
        return _read_safetensors(path)
    if len(start) == 9 and start[8:] == b"{":
        raise BadInput(f"weights {path} are cut off: {size} bytes are less than the file's own table of contents")
    first = start[:4].hex(" ") or "missing"
    raise BadInput(f"weights {path} are neither a torch file nor safetensors (the first bytes are {first})")


def _read_torch(path: Path, *, zipped: bool) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            # About storage classes of old files; nothing that whoever reads this can do anything about.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    # A damaged file ends in nearly any exception: of the zip reader, of the unpickler, of tensors that do not fit.
    except Exception as error:
        text = str(error)
        code = re.search(r"GLOBAL ([\w.]+)", text)
        if code is not None or "Unsupported" in text:
            what = f" ({code.group(1)})" if code is not None else ""
            raise BadInput(f"weights {path} hold code{what}, which is never run; wanted are tensors alone") from error
        first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        raise BadInput(f"weights {path} are cut off or damaged: {first[:160]}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise BadInput(f"weights {path} hold a {type(content).__name__}, wanted is a table of named tensors")
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"weights {path} are cut off or damaged: {error}") from error
    modules = (*FACEVID2VID_MODULES, *LIVEPORTRAIT_MODULES)
    nested: dict[str, Any] = {}
    for name, tensor in flat.items():
        module, _, rest = name.partition(".")
        if module in modules:
            nested.setdefault(module, {})[rest] = tensor
        else:
            nested[name] = tensor
    return nested


def _state_dict(path: Path, module: str, content: Mapping[str, Any]) -> Tensors:
    wrong = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if wrong:
        raise BadInput(f"weights {path}: {module} holds {_named(wrong)}, which is no tensor")
    # Trained on several GPUs, every name begins alike.
    parallel = bool(content) and all(name.startswith("module.") for name in content)
    return {name.removeprefix("module.") if parallel else name: value for name, value in content.items()}


def _version(family: str, modules: Mapping[str, Tensors]) -> str:
    if family == LIVEPORTRAIT:
        return "human"
    generation = "new" if "down.weight" in modules["kp_detector"] else "beta"
    decoder = "SPADE" if "decoder.fc.weight" in modules["generator"] else "original"
    return f"Vox-256 {generation}, {decoder} generator"


def _check_fit(
    path: Path, family: str, version: str, module: str, tensors: Tensors, make: Callable[[], nn.Module]
) -> None:
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in make().state_dict().items()}
    missing = [name for name in wanted if name not in tensors]
    extra = [name for name in tensors if name not in wanted]
    shapes = [
        f"{name} {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    problems = [
        f"{len(names)} {what}: {_named(names)}"
        for what, names in (("missing", missing), ("unknown", extra), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise BadInput(f"weights {path} do not fit {family} ({version}), {module}: {'; '.join(problems)}")


def _precision(path: Path, modules: Mapping[str, Tensors]) -> str:
    """What the weights are stored in; BadInput where it is nothing that networks run in, or not a number."""
    kinds = set()
    for module, tensors in modules.items():
        for name, tensor in tensors.items():
            if name.endswith(_COUNTER):
                continue
            if tensor.dtype not in _PRECISIONS:
                allowed = ", ".join(_PRECISIONS.values())
                raise BadInput(f"weights {path}: {module}.{name} is {tensor.dtype}, allowed are {allowed}")
            # Half precision ends at 65504: what was larger has become infinite.
            if tensor.dtype == torch.float16 and not bool(torch.isfinite(tensor).all()):
                raise BadInput(f"weights {path}: {module}.{name} is not finite: too large for half precision")
            if tensor.ndim > 1:
                kinds.add(tensor.dtype)
    return ", ".join(sorted(_PRECISIONS[kind] for kind in kinds))


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown
