"""Lengths in unsigned LEB128: seven bits a byte, the lowest first, the top bit set in all but the last."""

from __future__ import annotations

__all__ = ["leb128"]


def leb128(value: int) -> bytes:
    """The shortest form."""
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    digits.append(value)
    return bytes(digits)
