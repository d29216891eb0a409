"""How a family's motion is coded: the codebook and the expression basis, in one file that `kilocall fit` writes.

Families whose weights people bring along have a default that suits any keypoints (`universal`): every delta is sent by
itself, with tables that all of them share. A fit to streams of one speaker or of many finds the few combinations that
really occur.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from kilocall.codec.codebook import MAX_FILE_BYTES, Codebook
from kilocall.model.motion import POSE_NUMBERS
from kilocall.proto.errors import BadInput, WrongFamily
from kilocall.runtime.files import write_whole

Array = NDArray[np.float32]

__all__ = ["UNIVERSAL", "MotionCoding", "universal"]

#: A codebook for the pose and one delta, repeated for as many deltas as a family has.
UNIVERSAL: Final = Path(__file__).parent / "weights" / "universal" / "codebook.safetensors"


@dataclass(frozen=True, eq=False)
class MotionCoding:
    """`basis` [E, N]: expression coefficients to the family's own N expression numbers; None: they are the same."""

    family: str
    codebook: Codebook
    basis: Array | None = None

    def __post_init__(self) -> None:
        if self.basis is None:
            return
        if self.basis.ndim != 2 or len(self.basis) != self.codebook.coefficients - POSE_NUMBERS:
            wanted = self.codebook.coefficients - POSE_NUMBERS
            raise BadInput(f"coding: basis has shape {list(self.basis.shape)}, wanted are {wanted} rows")
        if not np.isfinite(self.basis).all():
            raise BadInput("coding: basis holds a value that is not finite")

    def coefficients(self, expression: Array) -> Array:
        """What is sent [..., E] of the family's expression numbers [..., N]; the rows of a basis are orthonormal."""
        return expression if self.basis is None else (expression @ self.basis.T).astype(np.float32)

    def expression(self, coefficients: Array) -> Array:
        """The reverse, as near as the basis allows."""
        return coefficients if self.basis is None else (coefficients @ self.basis).astype(np.float32)

    def save(self, path: Path) -> None:
        """Writes the file whole or not at all."""
        tensors: dict[str, NDArray[np.generic]] = {"codebook": np.frombuffer(self.codebook.to_bytes(), np.uint8)}
        if self.basis is not None:
            tensors["basis"] = self.basis
        write_whole(path, bytes(save_tensors(tensors, metadata={"family": self.family, "kind": "kilocall coding"})))

    @classmethod
    def load(cls, path: Path, family: str, numbers: int) -> MotionCoding:
        """Reads what `save` wrote for this family with its expression numbers. Raises BadInput or WrongFamily."""
        if not path.is_file():
            raise BadInput(f"codebook {path}: no such file")
        if path.stat().st_size > 2 * MAX_FILE_BYTES:
            raise BadInput(f"codebook {path} is larger than {2 * MAX_FILE_BYTES} bytes")
        data = path.read_bytes()
        try:
            tensors = load_tensors(data)
            named = _metadata(data).get("family", "")
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise BadInput(f"codebook {path} is no file of `kilocall fit`: {error}") from error
        stored = tensors.get("codebook")
        if stored is None or stored.dtype != np.uint8:
            raise BadInput(f"codebook {path} is no file of `kilocall fit`: it holds no codebook")
        if named != family:
            raise WrongFamily(f"codebook {path} was fitted for family {named}, this is {family}")
        basis = tensors.get("basis")
        try:
            made = cls(named, Codebook.from_bytes(stored.tobytes()), None if basis is None else _float32(basis))
        except BadInput as error:
            raise BadInput(f"codebook {path}: {error}") from None
        found = made.codebook.coefficients - POSE_NUMBERS if made.basis is None else made.basis.shape[1]
        if found != numbers:
            raise WrongFamily(f"codebook {path} is for {found} expression numbers, {family} has {numbers}")
        return made


def universal(family: str, numbers: int) -> MotionCoding:
    """The default for a family with so many expression numbers."""
    stored = Codebook.load(UNIVERSAL)
    columns = np.minimum(np.arange(POSE_NUMBERS + numbers), POSE_NUMBERS)
    return MotionCoding(
        family,
        Codebook(
            base_steps=stored.base_steps[columns],
            mean=stored.mean[columns],
            frequencies=stored.frequencies,
            shifts=stored.shifts,
            table_of=stored.table_of[:, columns],
        ),
    )


def _float32(array: NDArray[np.generic]) -> Array:
    if array.dtype != np.float32:
        raise BadInput(f"coding: basis is {array.dtype}, wanted is float32")
    return array.astype(np.float32)


def _metadata(data: bytes) -> dict[str, str]:
    """The safetensors file's own notes; the library's reader of bytes leaves them out."""
    import json

    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    notes = header.get("__metadata__", {})
    return notes if isinstance(notes, dict) else {}
