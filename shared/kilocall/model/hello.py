"""A side's Hello, of the family that it has loaded."""

from __future__ import annotations

from kilocall.model.family import Family
from kilocall.proto.control import Hello

__all__ = ["hello_of"]


def hello_of(family: Family, fps: float) -> Hello:
    """What the other side must share, and the frames a second that this one has at most."""
    return Hello(family.name, family.weights_hash, family.codebook.hash, round(1000 * fps), 1000, family.size)
