from __future__ import annotations

from itertools import accumulate, pairwise
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilocall.codec.range_coder import TOTAL, RangeDecoder, RangeEncoder, raw_interval
from kilocall.proto.errors import BadPacket

SKEWED = (0, *accumulate([1, 65000, 2, 533]))
EVEN = tuple(range(0, TOTAL + 1, TOTAL // 16))
LAST_LIKELY = (0, 1, 2, TOTAL)


def encoded(symbols: list[tuple[int, int]], tables: list[tuple[int, ...]]) -> bytes:
    coder = RangeEncoder()
    for table, symbol in symbols:
        start, end = list(pairwise(tables[table]))[symbol]
        coder.encode(start, end - start)
    return coder.finish()


TABLES = [SKEWED, EVEN, LAST_LIKELY]
symbol_lists = st.lists(
    st.one_of(*(st.tuples(st.just(n), st.integers(0, len(t) - 2)) for n, t in enumerate(TABLES))),
    max_size=300,
)


@given(symbol_lists)
def test_symbols_come_back(symbols: list[tuple[int, int]]) -> None:
    decoder = RangeDecoder(encoded(symbols, TABLES))
    assert [(table, decoder.decode(TABLES[table])) for table, _ in symbols] == symbols
    decoder.check_end()


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 16)), max_size=60))
def test_raw_bits_come_back(values: list[tuple[int, int]]) -> None:
    values = [(value % (1 << bits), bits) for value, bits in values]
    coder = RangeEncoder()
    coder.encode_all(raw_interval(value, bits) for value, bits in values)
    decoder = RangeDecoder(coder.finish())
    assert [(decoder.decode_raw(bits), bits) for _, bits in values] == values


def test_length_is_within_a_byte_of_the_ideal() -> None:
    symbols = [(0, 1)] * 400 + [(1, 5)] * 60 + [(0, 3)] * 9
    ideal = -(400 * log2(65000 / TOTAL) + 60 * log2(1 / 16) + 9 * log2(533 / TOTAL))
    # 8 bits for the last byte, 0.5 % because the 32-bit range is divided in whole numbers.
    assert ideal < 8 * len(encoded(symbols, TABLES)) < ideal * 1.005 + 8


def test_nothing_and_the_likeliest_symbols_take_no_bytes() -> None:
    assert RangeEncoder().finish() == b""
    assert encoded([(2, 0)] * 2, TABLES) == b""


def test_carry_runs_through_all_bytes() -> None:
    symbols = [(2, 2)] * 20 + [(1, 15)] * 40
    decoder = RangeDecoder(encoded(symbols, TABLES))
    assert [decoder.decode(TABLES[table]) for table, _ in symbols] == [symbol for _, symbol in symbols]


def test_reading_past_the_end_gives_zeros_and_ends() -> None:
    short, padded = RangeDecoder(b"\x80\x01"), RangeDecoder(b"\x80\x01" + bytes(600))
    symbols = [short.decode(EVEN) for _ in range(1000)]
    assert symbols[0] == 8
    assert symbols == [padded.decode(EVEN) for _ in range(1000)]


def test_left_over_bytes_are_refused() -> None:
    decoder = RangeDecoder(encoded([(1, 3)], TABLES) + b"1234567")
    decoder.decode(EVEN)
    with pytest.raises(BadPacket, match="left over"):
        decoder.check_end()


def test_a_zero_byte_at_the_end_is_refused() -> None:
    decoder = RangeDecoder(b"\x30\x00")
    decoder.decode(EVEN)
    with pytest.raises(BadPacket, match="zero byte"):
        decoder.check_end()


def test_value_outside_every_symbol_is_refused() -> None:
    with pytest.raises(BadPacket, match="outside"):
        RangeDecoder(b"\xff\xff\xff\xff").decode(EVEN)
    with pytest.raises(BadPacket, match="outside"):
        RangeDecoder(b"\xff\xff\xff\xff").decode_raw(3)


@given(st.binary(max_size=40))
def test_random_bytes_decode_or_are_refused(data: bytes) -> None:
    decoder = RangeDecoder(data)
    try:
        symbols = [decoder.decode(SKEWED) for _ in range(100)]
    except BadPacket:
        return
    assert all(0 <= symbol < 4 for symbol in symbols)
