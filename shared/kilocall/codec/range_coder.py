"""Range coder over integer frequency tables: symbols to the fewest whole bytes and back, bit-exact.

A symbol is an interval `[start, start + frequency)` of 0..65535. The coder narrows a 32-bit range by each
interval (Martin, "Range encoding", 1979). The encoder keeps the low end as one Python integer, so that a
carry needs no special case; that costs time quadratic in the length, which does not show at packet sizes
(below 2 KB). The tail is the shortest byte string inside the last interval, without its trailing zero
bytes: the decoder reads zeros past the end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from kilocall.proto.errors import BadPacket

__all__ = ["TOTAL", "TOTAL_BITS", "RangeDecoder", "RangeEncoder", "raw_interval"]

TOTAL_BITS = 16
TOTAL = 1 << TOTAL_BITS
_FULL = 0xFFFF_FFFF
_BOTTOM = 1 << 24  # below this the range is widened by a byte


def raw_interval(value: int, bits: int) -> tuple[int, int]:
    """The interval of `value` in 0..2**bits-1 coded without a model, `bits` at most 16."""
    return value << (TOTAL_BITS - bits), 1 << (TOTAL_BITS - bits)


class RangeEncoder:
    """Collects intervals; `finish()` gives the bytes."""

    def __init__(self) -> None:
        self._low = 0
        self._range = _FULL
        self._shifted = 0

    def encode(self, start: int, frequency: int) -> None:
        """Codes one interval of 0..65535. `frequency` is at least 1."""
        self.encode_all(((start, frequency),))

    def encode_all(self, intervals: Iterable[tuple[int, int]]) -> None:
        """Codes intervals in order."""
        low, width, shifted = self._low, self._range, self._shifted
        for start, frequency in intervals:
            unit = width >> TOTAL_BITS
            low += unit * start
            width = unit * frequency
            while width < _BOTTOM:
                low <<= 8
                width <<= 8
                shifted += 1
        self._low, self._range, self._shifted = low, width, shifted

    def finish(self) -> bytes:
        """The shortest bytes that decode to what was coded; empty when zeros say it all."""
        length = 4 + self._shifted
        for kept in range(length + 1):
            unit = 8 * (length - kept)
            value = -(-self._low >> unit)  # rounded up
            if value << unit < self._low + self._range:
                return value.to_bytes(kept, "big").rstrip(b"\0")
        raise AssertionError("the low end itself lies in the interval")


class RangeDecoder:
    """Reads back what `RangeEncoder` wrote. Never reads past `data`: missing bytes are zero.

    The caller knows how many symbols to ask for, and asks `check_end()` after the last.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 4
        self._code = int.from_bytes(data[:4].ljust(4, b"\0"), "big")
        self._range = _FULL

    def decode(self, cumulative: Sequence[int]) -> int:
        """The next symbol. `cumulative` rises from 0 to 65536, one entry more than there are symbols."""
        unit = self._range >> TOTAL_BITS
        value = self._code // unit
        if value >= TOTAL:
            raise BadPacket("range-coded data names a value outside every symbol")
        symbol = bisect_right(cumulative, value) - 1
        start = cumulative[symbol]
        self._narrow(unit, start, cumulative[symbol + 1] - start)
        return symbol

    def decode_raw(self, bits: int) -> int:
        """The next value in 0..2**bits-1 coded without a model, `bits` at most 16."""
        unit = self._range >> TOTAL_BITS
        value = self._code // unit
        if value >= TOTAL:
            raise BadPacket("range-coded data names a value outside every symbol")
        value >>= TOTAL_BITS - bits
        self._narrow(unit, *raw_interval(value, bits))
        return value

    def check_end(self) -> None:
        """Raises BadPacket when bytes are left over or end in zeros, which the encoder never writes."""
        if len(self._data) > self._position:
            raise BadPacket(f"range-coded data has {len(self._data) - self._position} bytes left over")
        if self._data.endswith(b"\0"):
            raise BadPacket("range-coded data ends in a zero byte, which the encoder leaves out")

    def _narrow(self, unit: int, start: int, frequency: int) -> None:
        code = self._code - unit * start
        width = unit * frequency
        while width < _BOTTOM:
            code <<= 8
            if self._position < len(self._data):
                code |= self._data[self._position]
            self._position += 1
            width <<= 8
        self._code, self._range = code, width
