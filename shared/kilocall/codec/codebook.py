"""The codebook: everything both sides must share, to the bit, to read motion bits.

It ships with the weights of a model family: how many coefficients there are, how finely each is quantised,
the bank of frequency tables, and which table stands for which coefficient in which context. All of it is
frozen as integers when it is fitted (`fit.py`); nothing is computed from floats at load, so no machine can
come to another table. Only the step sizes are float32, and they touch values, never bits.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from math import log2
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from kilocall.codec.range_coder import TOTAL, TOTAL_BITS
from kilocall.proto.errors import BadInput
from kilocall.proto.limits import LEVELS

__all__ = [
    "ACTIVITY_CLASSES",
    "BASE_LEVEL",
    "CONTEXTS",
    "ESCAPE",
    "FORMAT_VERSION",
    "KINDS",
    "LARGEST",
    "NEIGHBOUR_CLASSES",
    "SYMBOLS",
    "USUAL_QUALITY",
    "Codebook",
    "context_index",
    "level_of_quality",
    "rescale",
    "usual_quality",
]

FORMAT_VERSION = 1

BASE_LEVEL = 4
"""The level at which a step is the codebook's base step; quality 50."""

USUAL_QUALITY = 50.0
FINE_QUALITY = 75.0
FINE_FROM_KBPS = 3.0
"""Beside a video layer of so much or more, .56 kbit/s of finer motion bring .2 dB, 1.1 of VMAF, .09 px of the landmarks
and a tenth of the flicker. As much more of the layer would bring .2 dB, 1.3 of VMAF and .015 px."""

LARGEST = 15
"""Largest residual with a symbol of its own; symbol i stands for the residual i - 15."""
ESCAPE = 2 * LARGEST + 1
"""The symbol that announces a larger residual."""
SYMBOLS = ESCAPE + 1

KINDS = 6
"""Key frame; predicted from 1, 2, 3-4, 5-8, 9 or more frames before."""
ACTIVITY_CLASSES = 8
"""How much the coefficient itself has moved lately."""
NEIGHBOUR_CLASSES = 6
"""How much the coefficients before it moved in this frame."""
CONTEXTS = KINDS * ACTIVITY_CLASSES * NEIGHBOUR_CLASSES

MAX_COEFFICIENTS = 1024
MAX_TABLES = 256
MAX_SHIFT = 12
MAX_FILE_BYTES = 4 << 20

# 2**(n/2) in units of 2**-16 for n = -8..8. Written out: a library's square root must not choose an integer.
_SQRT2_POWERS = (
    4096, 5793, 8192, 11585, 16384, 23170, 32768, 46341, 65536,
    92682, 131072, 185364, 262144, 370728, 524288, 741455, 1048576,
)  # fmt: skip
_SQRT2 = np.float32(1.41421354)


def rescale(value: int, from_level: int, to_level: int) -> int:
    """A quantised value of one level as the nearest one of another; integers only, ties up."""
    return (value * _SQRT2_POWERS[to_level - from_level + LEVELS - 1] + 0x8000) >> 16


def level_of_quality(quality: float) -> int:
    """The level 0..8 of a quality 0..100; 50 is the base level. Raises BadInput outside."""
    if not 0 <= quality <= 100:
        raise BadInput(f"quality is {quality}, allowed is 0 to 100")
    return int(quality * (LEVELS - 1) / 100 + 0.5)


def usual_quality(layer_kbps: float) -> float:
    """How precisely motion is coded beside a video layer of so many kbit/s where nobody says otherwise, 0..100."""
    return FINE_QUALITY if layer_kbps >= FINE_FROM_KBPS else USUAL_QUALITY


def context_index(kind: int, activity: int, neighbour: int) -> int:
    """Row of `Codebook.table_of` for three classes."""
    return (kind * ACTIVITY_CLASSES + activity) * NEIGHBOUR_CLASSES + neighbour


@dataclass(frozen=True, eq=False)
class Codebook:
    """Frozen tables of one model family. Raises BadInput when the arrays do not fit together.

    base_steps   float32 [D]             step of each coefficient at the base level, in the coefficient's unit
    mean         int32 [D]               what a key frame is coded against, in steps of the finest level
    frequencies  int32 [T, 32]           tables: residuals -15..15 and escape; each row sums to 65536
    shifts       int32 [T]               low bits of a residual that a table sends as they are
    table_of     uint8 [CONTEXTS, D]     the table of each coefficient in each context
    """

    base_steps: NDArray[np.float32]
    mean: NDArray[np.int32]
    frequencies: NDArray[np.int32]
    shifts: NDArray[np.int32]
    table_of: NDArray[np.uint8]
    hash: str = field(init=False)
    """SHA-256 over all arrays, 64 hexadecimal digits."""

    def __post_init__(self) -> None:
        self._check()
        digest = hashlib.sha256(f"kilocall codebook {FORMAT_VERSION}".encode())
        for name, array in self._arrays().items():
            # Bytes are little-endian whatever the machine is.
            stored = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
            digest.update(f"{name} {array.dtype.name} {array.shape}".encode() + stored.tobytes())
            frozen = array.copy()
            frozen.flags.writeable = False
            object.__setattr__(self, name, frozen)
        object.__setattr__(self, "hash", digest.hexdigest())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Codebook) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    @property
    def coefficients(self) -> int:
        """D, the length of a motion vector."""
        return int(self.base_steps.shape[0])

    def steps(self, level: int) -> NDArray[np.float32]:
        """Step sizes [D] at a level, the same float32 everywhere (one exact and one rounded product)."""
        down = BASE_LEVEL - level
        steps = self.base_steps * np.float32(2.0 ** (down // 2))
        return steps * _SQRT2 if down % 2 else steps

    def mean_at(self, level: int) -> list[int]:
        """What a key frame is coded against, in steps of `level`."""
        return [rescale(value, LEVELS - 1, level) for value in self.mean.tolist()]

    @cached_property
    def cumulative(self) -> list[tuple[int, ...]]:
        """Per table the running sums 0..65536, 33 of them."""
        return [(0, *accumulate(row)) for row in self.frequencies.tolist()]

    @cached_property
    def costs(self) -> list[list[int]]:
        """Per table the price of each symbol in 1/256 bit, raw bits included; only the encoder uses it."""
        return [
            [round(256 * (TOTAL_BITS - log2(frequency) + shift)) for frequency in row]
            for row, shift in zip(self.frequencies.tolist(), self.shifts.tolist(), strict=True)
        ]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file, by way of a temporary name beside it."""
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(self.to_bytes())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def to_bytes(self) -> bytes:
        """The safetensors file as bytes; equal codebooks give equal bytes."""
        version = np.array([FORMAT_VERSION], np.int32)
        return bytes(save_tensors({**self._arrays(), "format_version": version}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Codebook:
        """Reads what `save` wrote. Raises BadInput with the reason, OSError when the file cannot be read."""
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        try:
            return cls.from_bytes(data)
        except BadInput as error:
            raise BadInput(f"{os.fspath(path)}: {error}") from None

    @classmethod
    def from_bytes(cls, data: bytes) -> Codebook:
        """Reads what `to_bytes` gave. Raises BadInput with the reason."""
        if len(data) > MAX_FILE_BYTES:
            raise BadInput(f"codebook is larger than {MAX_FILE_BYTES} bytes")
        try:
            arrays = load_tensors(data)
        # KeyError and TypeError: the library's answer to a data type that numpy does not have.
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise BadInput(f"codebook is not a safetensors file: {error}") from None
        version = arrays.pop("format_version", None)
        if version is None or version.shape != (1,) or version.dtype != np.int32:
            raise BadInput("codebook has no format_version")
        if version[0] != FORMAT_VERSION:
            raise BadInput(f"codebook has format version {version[0]}, this program reads {FORMAT_VERSION}")
        names = sorted(_DTYPES)
        if sorted(arrays) != names:
            raise BadInput(f"codebook holds {', '.join(sorted(arrays))}; expected {', '.join(names)}")
        return cls(**arrays)

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        return {name: getattr(self, name) for name in _DTYPES}

    def _check(self) -> None:
        for name, array in self._arrays().items():
            if not isinstance(array, np.ndarray) or array.dtype != _DTYPES[name]:
                raise BadInput(f"codebook {name} has type {getattr(array, 'dtype', type(array))}, not {_DTYPES[name]}")
        if self.base_steps.ndim != 1 or not 1 <= len(self.base_steps) <= MAX_COEFFICIENTS:
            shape = self.base_steps.shape
            raise BadInput(f"codebook base_steps has shape {shape}, allowed are 1 to {MAX_COEFFICIENTS} coefficients")
        tables = len(self.frequencies) if self.frequencies.ndim else 0
        if not 1 <= tables <= MAX_TABLES:
            raise BadInput(f"codebook has {tables} tables, allowed are 1 to {MAX_TABLES}")
        shapes: dict[str, tuple[int, ...]] = {
            "mean": (self.coefficients,),
            "frequencies": (tables, SYMBOLS),
            "shifts": (tables,),
            "table_of": (CONTEXTS, self.coefficients),
        }
        for name, shape in shapes.items():
            if self._arrays()[name].shape != shape:
                raise BadInput(f"codebook {name} has shape {self._arrays()[name].shape}, expected {shape}")
        if not (
            np.isfinite(self.base_steps).all() and (self.base_steps >= 1e-9).all() and (self.base_steps < 1e9).all()
        ):
            raise BadInput("codebook base_steps holds a value outside 1e-9 to 1e9")
        if (np.abs(self.mean.astype(np.int64)) > 32767).any():
            raise BadInput("codebook mean holds a value outside -32767 to 32767")
        if (self.frequencies < 1).any() or (self.frequencies.sum(1, dtype=np.int64) != TOTAL).any():
            raise BadInput(f"codebook frequencies holds a row with a zero, or with a sum other than {TOTAL}")
        if (self.shifts < 0).any() or (self.shifts > MAX_SHIFT).any():
            raise BadInput(f"codebook shifts holds a value outside 0 to {MAX_SHIFT}")
        if (self.table_of >= tables).any():
            raise BadInput(f"codebook table_of names table {int(self.table_of.max())} of {tables}")


_DTYPES = {
    "base_steps": np.dtype(np.float32),
    "mean": np.dtype(np.int32),
    "frequencies": np.dtype(np.int32),
    "shifts": np.dtype(np.int32),
    "table_of": np.dtype(np.uint8),
}
