from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilocall.proto.errors import BadPacket
from kilocall.runtime.obu import checked_unit, is_key, without_delimiter

DELIMITER = b"\x12\x00"
SEQUENCE_HEADER = bytes([1 << 3 | 2, 3]) + b"abc"
FRAME = bytes([6 << 3 | 2, 5]) + b"12345"


def test_a_key_unit_is_a_sequence_header_and_a_frame() -> None:
    unit = without_delimiter(DELIMITER + SEQUENCE_HEADER + FRAME)
    assert unit == SEQUENCE_HEADER + FRAME
    assert checked_unit(unit) == DELIMITER + unit
    assert is_key(unit)


def test_any_other_unit_is_a_frame_alone() -> None:
    assert checked_unit(FRAME) == DELIMITER + FRAME
    assert not is_key(FRAME)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "allowed are"),
        (FRAME + FRAME, "allowed are"),
        (SEQUENCE_HEADER, "allowed are"),
        (FRAME + SEQUENCE_HEADER, "allowed are"),
        (DELIMITER + FRAME, "allowed are"),
        (bytes([3 << 3 | 2, 1, 0]), "allowed are"),
        (bytes([6 << 3 | 2 | 4, 0, 1, 0]), "header 0x36"),
        (bytes([6 << 3 | 2 | 128, 1, 0]), "header 0xb2"),
        (bytes([6 << 3, 1, 0]), "header 0x30"),
        (FRAME[:-1], "breaks off"),
        (bytes([6 << 3 | 2, 0x85]), "no end"),
        (bytes([6 << 3 | 2]) + b"\xff\xff\xff\xff\x01", "no end"),
    ],
)
def test_what_is_no_single_picture_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(BadPacket, match=why):
        checked_unit(data)


@given(st.binary(max_size=40))
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    try:
        taken = checked_unit(data)
    except BadPacket:
        return
    assert taken == DELIMITER + data
