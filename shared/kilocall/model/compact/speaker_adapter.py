"""A speaker adapter: what makes the compact renderer one person's, small enough to be sent in a call.

It holds how the stored weights (`renderer.safetensors`, see `int8_checkpoint.py`) differ from those of the package:
8-bit weights as differences in their own steps, modulo 256, halves as their new values, all deflated into one tensor.
Most differences are a few steps, so two million weights become a few hundred kilobytes.

    metadata   format, family, base (what it belongs to), hash (SHA-256 of all else), names of the tensors, figures
    changes    uint8 [n], deflate

A receiver needs no torch: folding the batch norms and rounding to the shipped networks' 8 bits is a few lines of numpy,
and the results take the place of constants in the ONNX files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, load_file, save

from kilocall.model.compact.onnx_constants import Graph, Node
from kilocall.proto.control import MAX_PERSONAL_BYTES
from kilocall.proto.errors import BadInput, WrongFamily
from kilocall.runtime.files import write_whole

__all__ = ["MOST_BYTES", "SpeakerAdapter", "adapted_folder", "base_hash", "read_speaker_adapter"]

Array = NDArray[Any]
State = dict[str, Array]

FORMAT: Final = 1
#: Larger files are refused before they are read, and a call takes none.
MOST_BYTES: Final = MAX_PERSONAL_BYTES
WEIGHTS: Final = "renderer.safetensors"
#: The networks that a speaker adapter changes.
NETWORKS: Final = ("appearance.onnx", "field.onnx", "generator.onnx")
_SCALE: Final = ".scale"
#: Of an 8-bit weight: seven bits, so that sums of two products do not overflow 16 (`train/quantise.py`).
MOST_STEPS: Final = 64
#: One convolution of several that stand in place of a wide one, see `export_modules.Joined`.
_PART: Final = re.compile(r"(.*)/parts\.(\d+)/Conv")
_KEPT: Final = 4


@dataclass(frozen=True)
class SpeakerAdapter:
    """A speaker adapter that is whole: its hash has been checked. Whether it fits some weights, `changed` says."""

    family: str
    base: str  # `base_hash` of the weights that it changes
    hash: str  # SHA-256 of family, base, names, figures and changes
    names: tuple[str, ...]  # stored tensors that differ, sorted
    figures: dict[str, Any]  # what training said about it; nothing depends on it
    changes: bytes  # deflated

    @staticmethod
    def between(before: Mapping[str, Array], after: Mapping[str, Array], *, family: str, base: str) -> SpeakerAdapter:
        """The difference of two stored states; scales of 8-bit weights must be the same in both."""
        names, parts = [], []
        for name in sorted(before):
            old, new = before[name], after[name]
            if np.array_equal(old, new):
                continue
            if name.endswith(_SCALE) or old.dtype != new.dtype or old.shape != new.shape:
                raise ValueError(f"{name} cannot be told as a difference")
            names.append(name)
            parts.append((new.view(np.uint8) - old.view(np.uint8) if old.dtype == np.int8 else new).tobytes())
        changes = zlib.compress(b"".join(parts), 9)
        return SpeakerAdapter(family, base, "", tuple(names), {}, changes).with_figures({})

    def with_figures(self, figures: dict[str, Any]) -> SpeakerAdapter:
        """The same changes with other figures, and the hash that then holds."""
        digest = _digest(self.family, self.base, self.names, figures, self.changes)
        return SpeakerAdapter(self.family, self.base, digest, self.names, figures, self.changes)

    def __bytes__(self) -> bytes:
        metadata = {
            "format": str(FORMAT),
            "family": self.family,
            "base": self.base,
            "hash": self.hash,
            "names": json.dumps(self.names),
            "figures": json.dumps(self.figures, sort_keys=True),
        }
        return save({"changes": np.frombuffer(self.changes, np.uint8)}, metadata)

    @staticmethod
    def parse(data: bytes) -> SpeakerAdapter:
        """Raises BadInput for bytes that are no speaker adapter, too many, or damaged."""
        if len(data) > MOST_BYTES:
            raise BadInput(f"personal file is {len(data)} bytes, allowed are {MOST_BYTES}")
        try:
            metadata = _metadata(data)
            changes = load(data)["changes"]
            number = int(metadata["format"])
            names = tuple(json.loads(metadata["names"]))
            figures = dict(json.loads(metadata["figures"]))
            found = SpeakerAdapter(
                metadata["family"], metadata["base"], metadata["hash"], names, figures, changes.tobytes()
            )
            if not all(isinstance(name, str) for name in names) or changes.dtype != np.uint8:
                raise ValueError("names or changes are of the wrong type")
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadInput(f"not a personal file: {' '.join(str(error).split())[:120]}") from error
        if number != FORMAT:
            raise BadInput(f"personal file has format {number}, allowed is {FORMAT}")
        if found.hash != _digest(found.family, found.base, names, figures, found.changes):
            raise BadInput("personal file is damaged: its content does not have the hash that it names")
        return found

    def changed(self, folder: Path) -> State:
        """The stored state of the weights in `folder` with the changes made.

        WrongFamily where it belongs to other weights; BadInput where the changes are not as long as they must be.
        """
        self.check(folder)
        state = load_file(folder / WEIGHTS)
        unknown = [n for n in self.names if n not in state or n.endswith(_SCALE)]
        if unknown or len(set(self.names)) != len(self.names):
            what = repr(unknown[0][:60]) if unknown else "a tensor twice"
            raise BadInput(f"personal file changes {what}, which the weights do not have")
        wanted = sum(state[name].nbytes for name in self.names)
        inflate = zlib.decompressobj()
        try:
            plain = inflate.decompress(self.changes, wanted + 1)
        except zlib.error as error:
            raise BadInput(f"personal file is damaged: {error}") from error
        if len(plain) != wanted:
            raise BadInput(f"personal file has changes of {len(plain)} bytes or more, the weights need {wanted}")
        at = 0
        for name in self.names:
            old = state[name]
            given = np.frombuffer(plain, np.uint8, old.nbytes, at)
            at += old.nbytes
            if old.dtype == np.int8:
                state[name] = (old.view(np.uint8) + given.reshape(old.shape)).view(np.int8)
            else:
                state[name] = given.view(old.dtype).reshape(old.shape).copy()
                if not np.isfinite(state[name]).all():
                    raise BadInput(f"personal file has numbers in {name} that are not finite")
        return state

    def check(self, folder: Path) -> None:
        """Raises WrongFamily unless the file was made for the weights in `folder`."""
        manifest = json.loads((folder / "manifest.json").read_text())
        if self.family != manifest["family"]:
            own = manifest["family"]
            raise WrongFamily(f"personal file is for family {self.family[:40]!r}, these weights are {own}")
        here = base_hash(manifest["files"])
        if self.base != here:
            raise WrongFamily(
                f"personal file was made from weights {self.base[:12]}, these are {here[:12]}; make it again with "
                "`kilocall finetune`"
            )


def read_speaker_adapter(path: Path) -> SpeakerAdapter:
    """A speaker adapter from disk; BadInput with its name for one that cannot be used."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise BadInput(f"personal file {path}: {error.strerror or error}") from error
    try:
        return SpeakerAdapter.parse(data)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


def base_hash(files: Mapping[str, str]) -> str:
    """What a speaker adapter belongs to: SHA-256 over the manifest's hashes of the files that it changes."""
    listed = json.dumps({name: files.get(name) for name in (WEIGHTS, *NETWORKS)}, sort_keys=True)
    return hashlib.sha256(listed.encode()).hexdigest()


def adapted_folder(adapter: SpeakerAdapter, folder: Path, cache: Path) -> Path:
    """A weights folder below `cache` with the changed networks alone, made anew; the last few are kept.

    Where `cache` cannot be written it lies in the folder for temporary files.
    """
    state = adapter.changed(folder)
    files = {WEIGHTS: save(state)}
    plain = unpacked(state)
    for name in NETWORKS:
        graph = Graph((folder / name).read_bytes())
        replace_convolutions(graph, plain)
        files[name] = bytes(graph.data)
    try:
        # Nobody else may be able to put networks there.
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        out = cache / adapter.hash[:16]
        out.mkdir(mode=0o700, exist_ok=True)
        os.utime(out)
        for old in sorted((p for p in cache.iterdir() if p != out), key=lambda p: p.stat().st_mtime)[: -_KEPT + 1]:
            shutil.rmtree(old, ignore_errors=True)
        return _write(files, out)
    except OSError:
        return _write(files, Path(tempfile.mkdtemp(prefix="kilocall-")))


def _write(files: Mapping[str, bytes], out: Path) -> Path:
    manifest = json.dumps({"files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}})
    for name, data in {**files, "manifest.json": manifest.encode()}.items():
        path = out / name
        if not path.is_file() or path.read_bytes() != data:
            write_whole(path, data)
    return out


def unpacked(stored: Mapping[str, Array]) -> State:
    """`int8_checkpoint.unpack` without torch: float32 of 8-bit weights with their scales and of halves."""
    state = {}
    for name, value in stored.items():
        if name.endswith(_SCALE):
            continue
        plain = value.astype(np.float32)
        if value.dtype == np.int8:
            plain *= stored[name + _SCALE].astype(np.float32).reshape(-1, *[1] * (value.ndim - 1))
        state[name] = plain
    return state


def replace_convolutions(graph: Graph, state: State) -> None:
    """Writes the weights of `state` into every convolution of an exported network.

    8-bit ones get scales of their own; how their inputs are rounded stays as it was calibrated.
    """
    for node in graph.nodes:
        if node.kind != "Conv":
            continue
        weight, bias = _as_exported(graph, node, state)
        source = graph.made_by.get(node.inputs[1])
        if source is not None and source.kind == "DequantizeLinear":
            old_scale = graph.value(source.inputs[1])
            scale = _replace_8_bit(graph, source.inputs, weight, old_scale)
            if bias is not None:
                _replace_bias(graph, graph.made_by[node.inputs[2]].inputs, bias, scale, old_scale)
        else:
            # Large constants are halves with a Cast behind.
            graph.replace(node.inputs[1] if source is None else source.inputs[0], weight)
            if bias is not None:
                graph.replace(node.inputs[2], bias)


def _replace_8_bit(graph: Graph, weights: tuple[str, ...], weight: Array, old_scale: Array) -> Array:
    """Returns the new scale of each channel."""
    largest = np.abs(weight).reshape(len(weight), -1).max(1)
    scale = np.where(largest > 0, largest / MOST_STEPS, old_scale).astype(np.float32)
    steps = np.rint(weight / scale.reshape(-1, 1, 1, 1))
    graph.replace(weights[0], np.clip(steps, -MOST_STEPS, MOST_STEPS))
    graph.replace(weights[1], scale)
    return scale


def _replace_bias(graph: Graph, biases: tuple[str, ...], bias: Array, scale: Array, old_scale: Array) -> None:
    input_scale = graph.value(biases[1]) / old_scale
    bias_scale = (scale * input_scale).astype(np.float32)
    graph.replace(biases[0], np.clip(np.rint(bias / bias_scale), -(2.0**31) + 128, 2.0**31 - 128))
    graph.replace(biases[1], bias_scale)


def _as_exported(graph: Graph, node: Node, state: State) -> tuple[Array, Array | None]:
    """Weight and bias of a convolution as `export_modules.py` arranges them."""
    part = _PART.fullmatch(node.name)
    if part is None:
        module = module_of(node.name, state)
        weight, bias = folded(module, state)
        if module == "generator.paint" and bias is not None:
            sign = np.array([1.0] * 12 + [-1.0] * 4, np.float32)
            return _pixels_first(weight * sign.reshape(-1, 1, 1, 1)), _pixels_first(bias * sign)
        return weight, bias
    whole, number = part[1], int(part[2])
    module = module_of(node.name, state)
    weight, bias = folded(module, state)
    before = [_channels(graph, f"{whole}/parts.{i}/Conv") for i in range(number)]
    columns = weight[:, sum(before) :][:, : _channels(graph, node.name)]
    return columns, bias if number == 0 else None


def _channels(graph: Graph, node: str) -> int:
    """How many channels a convolution of the network reads."""
    found = next((n for n in graph.nodes if n.name == node), None)
    if found is None:
        raise BadInput(f"the network has no convolution {node}")
    source = graph.made_by.get(found.inputs[1])
    name = found.inputs[1] if source is None else source.inputs[0]
    return graph.constants[name].shape[1]


def _pixels_first(x: Array) -> Array:
    """[colour, pixel, ...] of a pixel shuffle to [pixel, colour, ...]."""
    return x.reshape(4, 4, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)


def module_of(node: str, state: State) -> str:
    """Which convolution of the state a node is: "/body/body.0/dw/dw.0/Conv" is generator.body.0.dw.0."""
    path = _path(node.split("/")[1:-1])
    found = [f"{top}.{path}" for top in ("appearance", "field", "generator") if f"{top}.{path}.weight" in state]
    if len(found) != 1:
        raise BadInput(f"convolution {node} of the network is not in its weights")
    return found[0]


def _path(scopes: list[str]) -> str:
    parts: list[str] = []
    for scope in scopes:
        if parts and scope.startswith(parts[-1] + "."):
            parts[-1] = scope  # a child of a sequence names the sequence again
        elif scope != "net":
            parts.append(scope)
    # Of a `export_modules.Joined`: what its parts stand for was the first layer, its depthwise convolution the fourth.
    path = re.sub(r"\.parts\.\d+$", ".0", ".".join(parts))
    return path.replace(".depthwise.0", ".3")


def folded(module: str, state: State) -> tuple[Array, Array | None]:
    """Weight and bias of a convolution with the batch norm behind it folded in, as the exported networks have them."""
    weight = state[module + ".weight"]
    if module + ".bias" in state:
        return weight, state[module + ".bias"]
    above, _, last = module.rpartition(".")
    norm = f"{above}.{int(last) + 1}" if last.isdecimal() else f"{above}.norm"
    if norm + ".running_var" not in state:
        return weight, None
    gain = state[norm + ".weight"] / np.sqrt(state[norm + ".running_var"] + 1e-5)
    bias = state[norm + ".bias"] - state[norm + ".running_mean"] * gain
    return weight * gain.reshape(-1, 1, 1, 1), bias


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return dict(header["__metadata__"])


def _digest(family: str, base: str, names: tuple[str, ...], figures: dict[str, Any], changes: bytes) -> str:
    told = json.dumps([FORMAT, family, base, list(names), figures], sort_keys=True)
    return hashlib.sha256(told.encode() + b"\0" + changes).hexdigest()
