"""Format and size of a compressed picture as its decoder will find them, read before anything is decoded.

What an AVIF's container says of the size is a claim: the decoder allocates what the AV1 sequence header inside says.
Only pictures as `encode_picture` writes them are read here, AVIF of one still and WebP of one frame: grids, layers,
alpha, sequences and animations are refused, whatever their size.

Sources: ISO/IEC 23008-12 (boxes), AV1 Bitstream & Decoding Process Specification 5.3 and 5.5 (OBUs, sequence header),
RFC 9649 (WebP), RFC 6386 section 9.1 (VP8 frame header).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from kilocall.proto.errors import BadInput

__all__ = ["PictureHeader", "read_header"]

_SEQUENCE_HEADER: Final = 1
#: A still has two OBUs or three; more frames than one are nothing that is sent.
_MOST_OBUS: Final = 16
_MOST_BOXES: Final = 64


class PictureHeader(NamedTuple):
    """What the compressed frame itself says."""

    format: Literal["avif", "webp"]
    width: int
    height: int


def read_header(data: bytes) -> PictureHeader:
    """Raises BadInput for anything but an AVIF or a WebP of one still picture, and for one that is cut short."""
    try:
        if data[4:8] == b"ftyp":
            return PictureHeader("avif", *_avif_size(data))
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return PictureHeader("webp", *_webp_size(data))
    except IndexError:
        raise BadInput(f"picture of {len(data)} bytes is cut inside its header") from None
    raise BadInput(f"picture: these {len(data)} bytes are no AVIF or WebP")


# WebP


def _webp_size(data: bytes) -> tuple[int, int]:
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        raise IndexError
    if kind == b"VP8 ":
        if body[3:6] != b"\x9d\x01\x2a":
            raise BadInput("WebP picture does not begin with a key frame")
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise BadInput(f"WebP picture has a chunk {kind!r} first, allowed is one still picture: VP8 or VP8L")


# AVIF


def _avif_size(data: bytes) -> tuple[int, int]:
    brands = next((data[start:end] for kind, start, end in _boxes(data, 0, len(data)) if kind == b"ftyp"), b"")
    if brands[:4] != b"avif":
        raise BadInput(f"picture is of brand {brands[:4]!r}, allowed is avif: one still picture")
    boxes = list(_boxes(data, 0, len(data)))
    kinds = [kind for kind, _, _ in boxes]
    if kinds.count(b"meta") != 1 or b"moov" in kinds:
        raise BadInput("AVIF picture needs one meta box and no film")
    start, end = next((start, end) for kind, start, end in boxes if kind == b"meta")
    inner = list(_boxes(data, start + 4, end))  # after version and flags
    found = {kind: (begin, stop) for kind, begin, stop in inner}
    if len(found) != len(inner) or b"iref" in found or not {b"iinf", b"iloc", b"iprp"} <= found.keys():
        raise BadInput("AVIF picture is put together from several; allowed is one still picture")
    _check_items(data, *found[b"iinf"])
    first, length = _item_place(data, *found[b"iloc"])
    if length < 1 or first + length > len(data):
        raise BadInput(f"AVIF picture lies at bytes {first} to {first + length}, the file has {len(data)}")
    return _av1_size(data[first : first + length])


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, begin and end of the content of each box in a range."""
    for _ in range(_MOST_BOXES):
        if start == end:
            return
        if start + 8 > end:
            raise IndexError
        size = int.from_bytes(data[start : start + 4], "big")
        if size < 8 or start + size > end:
            raise BadInput(f"AVIF box {data[start + 4 : start + 8]!r} has {size} bytes, here are {end - start}")
        yield data[start + 4 : start + 8], start + 8, start + size
        start += size
    raise BadInput(f"AVIF picture has more than {_MOST_BOXES} boxes")


def _check_items(data: bytes, start: int, end: int) -> None:
    version = data[start]
    begin = start + (6 if version == 0 else 8)
    kinds = [data[a + 8 : a + 12] for kind, a, b in _boxes(data, begin, end) if kind == b"infe" and b - a >= 12]
    count = int.from_bytes(data[start + 4 : begin], "big")
    if count != 1 or kinds != [b"av01"]:
        raise BadInput(f"AVIF picture has {count} items of types {kinds[:4]}, allowed is one of b'av01'")


def _item_place(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Where the only item's bytes lie in the file: offset and length."""
    version = data[start]
    if version > 2:
        raise BadInput(f"AVIF picture's iloc has version {version}, allowed are 0 to 2")
    sizes = data[start + 4], data[start + 5]
    offset_size, length_size, base_size = sizes[0] >> 4, sizes[0] & 15, sizes[1] >> 4
    index_size = sizes[1] & 15 if version else 0
    at = start + 6
    taken: list[int] = []
    wide = 4 if version == 2 else 2
    layout = [wide, wide, *([2] if version else []), 2, base_size, 2, index_size, offset_size, length_size]
    for size in layout:
        if at + size > end:
            raise IndexError
        taken.append(int.from_bytes(data[at : at + size], "big"))
        at += size
    items, extents, base = taken[0], taken[-4], taken[-5]
    method = taken[2] & 15 if version else 0
    reference = taken[3] if version else taken[2]
    if (items, extents, method, reference) != (1, 1, 0, 0):
        raise BadInput("AVIF picture lies in several places or in another file; allowed is one place in this file")
    return base + taken[-2], taken[-1]


def _av1_size(item: bytes) -> tuple[int, int]:
    """The largest frame that the OBUs of an item can hold."""
    sizes: list[tuple[int, int]] = []
    at = 0
    for _ in range(_MOST_OBUS):
        if at == len(item):
            break
        kind, has_extension, has_size = item[at] >> 3 & 15, item[at] & 4, item[at] & 2
        at += 2 if has_extension else 1
        size = len(item) - at
        if has_size:
            size, at = _leb128(item, at)
        if size > len(item) - at or size < 0:
            raise IndexError
        if kind == _SEQUENCE_HEADER:
            sizes.append(_sequence_size(item[at : at + size]))
        at += size
    else:
        raise BadInput(f"AVIF picture has more than {_MOST_OBUS} OBUs, allowed is one still picture")
    if not sizes:
        raise BadInput("AVIF picture has no AV1 sequence header")
    if len(set(sizes)) != 1:
        raise BadInput("AVIF picture has AV1 sequence headers of different sizes")
    return sizes[0]


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        digit = data[at]
        at += 1
        value |= (digit & 127) << shift
        if digit < 128:
            return value, at
    raise BadInput("AVIF picture has an OBU of more than 32 GiB")


def _sequence_size(header: bytes) -> tuple[int, int]:
    """`header` as in 5.5.1. A still with the reduced header has frames of no other size than it says."""
    bits = _Bits(header)
    bits.take(3)  # seq_profile
    still, reduced = bits.take(1), bits.take(1)
    if not still or not reduced:
        raise BadInput("AVIF picture is no still picture with the reduced AV1 header, which is what is sent")
    bits.take(5)  # seq_level_idx
    wide, high = 1 + bits.take(4), 1 + bits.take(4)
    return 1 + bits.take(wide), 1 + bits.take(high)


class _Bits:
    """Bits of bytes from the highest down; IndexError past the end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> int:
        value = 0
        for _ in range(count):
            value = value << 1 | self._data[self._at >> 3] >> 7 - (self._at & 7) & 1
            self._at += 1
        return value
