"""Changed copies of valid bytes, each from a seed alone: the same seed gives the same bytes."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack

__all__ = ["changed", "changed_fields", "changed_records", "changed_text"]

#: Lengths, counts and numbers at which something changes: 0, signs, the ends of 8 to 64 bits, powers of two.
EDGES: Final = (0, 1, 2, 7, 8, 127, 128, 255, 256, 1000, 16_383, 32_767, 65_535, 65_536, (1 << 31) - 1, 1 << 31,
                (1 << 32) - 1, (1 << 53) + 1, (1 << 63) - 1, (1 << 64) - 1)  # fmt: skip
VALUES: Final[tuple[Any, ...]] = (
    *EDGES, -1, -(1 << 63), None, True, False, 0.0, -0.0, float("nan"), float("inf"), 1e308, "", "x" * 300,
    "\N{CAT FACE}", b"", bytes(32), bytes(31), bytes(33), bytes(1000), bytes(5000), [], [1], [[[[]]]], {}, {1: 2},
)  # fmt: skip
MOST_BYTES: Final = 1 << 20


def _cut(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _flip(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))


def _number(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    size = rng.choice((1, 2, 4, 8))
    at = rng.randrange(len(data) + 1)
    value = rng.choice(EDGES) & (1 << 8 * size) - 1
    data[at : at + size] = value.to_bytes(size, rng.choice(("big", "little")))


def _remove(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.choice((1, 2, 4, 16))]


def _insert(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16, 200)))


def _repeat(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    piece = bytes(data[at : at + rng.choice((1, 4, 16, 64))])
    data[at:at] = piece * rng.choice((1, 2, 50))


def _splice(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    other = rng.choice(others)
    at = rng.randrange(len(data) + 1)
    data[at:] = other[rng.randrange(len(other) + 1) :]


_WAYS: Final[tuple[Callable[[bytearray, random.Random, Sequence[bytes]], None], ...]] = (
    *(_flip, _flip, _set, _set, _number, _number), _remove, _insert, _repeat, _splice, _cut,
)  # fmt: skip


def changed(seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """One of `seeds`, changed in one to four places."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        rng.choice(_WAYS)(data, rng, seeds)
    return bytes(data[:MOST_BYTES])


def changed_text(seeds: Sequence[bytes], rng: random.Random) -> str:
    return changed(seeds, rng).decode("utf-8", "replace")


def changed_fields(seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """One of `seeds`, msgpack arrays all, with another value in one or two fields: valid msgpack."""
    fields = msgpack.unpackb(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(fields))
        old = fields[at]
        if isinstance(old, bytes) and rng.random() < 0.5:
            fields[at] = changed([old], rng)
        elif type(old) is int and rng.random() < 0.5:
            fields[at] = min(max(old + rng.choice((-1, 1, 1000)), -(1 << 63)), (1 << 64) - 1)
        else:
            fields[at] = rng.choice(VALUES)
    if rng.random() < 0.1:
        fields.insert(rng.randrange(len(fields) + 1), rng.choice(VALUES))
    packed: bytes = msgpack.packb(fields)
    return packed


def changed_records(start: bytes, records: Sequence[tuple[int, bytes]], end: bytes, rng: random.Random) -> bytes:
    """A stream file of `start`, `records` (type, body) and `end`, some of them changed: every checksum fits."""
    kept = list(records)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(kept))
        kind, body = kept[at]
        way = rng.randrange(6)
        if way == 0:
            kept.append((kind, body))
        elif way == 1 and len(kept) > 1:
            del kept[at]
        elif way == 2:
            kept[at] = (rng.randrange(9), body)
        elif way == 3:
            other = rng.randrange(len(kept))
            kept[at], kept[other] = kept[other], kept[at]
        else:
            kept[at] = (kind, changed([body], rng))
    return start + b"".join(_record(kind, body) for kind, body in kept) + (end if rng.random() < 0.5 else b"")


def _record(kind: int, body: bytes) -> bytes:
    """As `wire.md` has it: type, length LEB128, body, CRC-32 of all three."""
    length, digits = len(body), bytearray([kind])
    while length > 127:
        digits.append(length & 127 | 128)
        length >>= 7
    digits.append(length)
    whole = bytes(digits) + body
    return whole + zlib.crc32(whole).to_bytes(4, "big")
