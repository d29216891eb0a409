"""AV1 temporal units of the video layer: what is left out of them on the way, and what a receiver takes.

A unit is a run of open bitstream units (AV1 Bitstream & Decoding Process Specification, 5.3). One of the layer is a
sequence header, on key frames alone, and one frame. So a receiver knows before it decodes anything that a unit is one
picture, and the decoder bounds that picture's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kilocall.proto.errors import BadPacket

__all__ = ["checked_unit", "is_key", "without_delimiter"]

_SEQUENCE_HEADER: Final = 1
_TEMPORAL_DELIMITER: Final = 2
_FRAME: Final = 6
_DELIMITER: Final = bytes([_TEMPORAL_DELIMITER << 3 | 2, 0])
_MOST_LENGTH_BYTES: Final = 4


def without_delimiter(unit: bytes) -> bytes:
    """The unit as it is sent: its two first bytes say nothing that a message's end does not."""
    return unit.removeprefix(_DELIMITER)


def checked_unit(data: bytes) -> bytes:
    """The unit for a decoder, with its delimiter. Raises BadPacket for anything but a sequence header and a frame, or
    a frame alone."""
    kinds = [kind for kind, _ in _units(data)]
    if kinds not in ([_SEQUENCE_HEADER, _FRAME], [_FRAME]):
        raise BadPacket(f"layer frame holds open bitstream units {kinds}, allowed are [1, 6] and [6]")
    return _DELIMITER + data


def is_key(data: bytes) -> bool:
    """Whether a unit that was checked can be decoded without any other: its sequence header comes first."""
    return data[0] >> 3 == _SEQUENCE_HEADER


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and payload of each open bitstream unit. Raises BadPacket where one does not fit."""
    at = 0
    while at < len(data):
        header = data[at]
        # Forbidden bit, extension, reserved bit: the layer has neither spatial nor temporal layers of its own.
        if header & 0b1000_0101 or not header & 0b10:
            raise BadPacket(f"layer frame has an open bitstream unit with header {header:#04x}")
        size, at = _leb128(data, at + 1)
        if size > len(data) - at:
            raise BadPacket(f"layer frame breaks off: a unit of {size} bytes has {len(data) - at}")
        yield header >> 3 & 15, data[at : at + size]
        at += size


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for digit in range(_MOST_LENGTH_BYTES):
        if at >= len(data):
            break
        value |= (data[at] & 127) << 7 * digit
        at += 1
        if not data[at - 1] & 128:
            return value, at
    raise BadPacket("layer frame has a unit whose length has no end")
