"""What FFmpeg does not tell of files made of boxes (MP4, QuickTime, HEIC, AVIF).

A photograph of a phone is often a grid: 48 pictures of 512x512, which FFmpeg hands over as streams of their own. How
they lie and which way is up is read here, and whether the file ends inside a box.

Sources: ISO/IEC 14496-12 4.2 and 8.11 (boxes, items), ISO/IEC 23008-12 6.5.10, 6.5.12 and 6.6.2.3 (irot, imir, grid).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from kilocall.proto.errors import BadInput
from kilocall.sender.upright import Orientation

__all__ = ["StillPicture", "missing_bytes", "put_together", "read_still"]

#: A phone's have some kilobytes.
MAX_META_BYTES: Final = 4 << 20
#: Others at the end of a file are rather somebody's remainder than one that was cut off.
PARTS_OF_FILMS: Final = (b"moov", b"moof", b"mdat")
#: By irot's quarter turns to the left.
ROTATION: Final = (
    Orientation(),
    Orientation(True, False, True),
    Orientation(False, True, True),
    Orientation(True, True),
)
#: By imir's axis.
MIRROR: Final = (Orientation(False, False, True), Orientation(False, True))


@dataclass(frozen=True)
class StillPicture:
    """The main picture of a file: one item, or a grid of them."""

    kind: str
    items: tuple[int, ...]
    """Numbers of the coded pictures that it consists of, row by row."""
    columns: int
    width: int
    height: int
    """Of a grid, before it is turned; 0 of a single picture, which says so itself."""
    orientation: Orientation


def read_still(path: Path) -> StillPicture | None:
    """The main picture of a HEIF file (HEIC, AVIF); None for films. Raises BadInput for a damaged one."""
    with path.open("rb") as file:
        meta = None
        for kind, start, length in _top_boxes(file):
            if kind == b"moov":
                return None
            if kind == b"meta" and meta is None:
                if length > MAX_META_BYTES:
                    raise BadInput(f"{path}: its description has {length} bytes, at most {MAX_META_BYTES}")
                file.seek(start)
                meta = file.read(length)
        if meta is None:
            return None
        try:
            return _main_picture(file, meta)
        except (IndexError, KeyError) as error:
            raise BadInput(f"{path}: the description of its picture is damaged") from error


def missing_bytes(path: Path) -> int:
    """How many bytes the last box of a film lacks in a file that was cut off."""
    size = path.stat().st_size
    with path.open("rb") as file:
        return max(0, *(at + length - size for kind, at, length in _top_boxes(file) if kind in PARTS_OF_FILMS), 0)


def put_together(still: StillPicture, tiles: Sequence[VideoFrame]) -> VideoFrame:
    """The whole picture, as stored. Raises BadInput where the tiles do not cover it or differ."""
    first = tiles[0]
    if len({(tile.width, tile.height, tile.format.name) for tile in tiles}) != 1:
        raise BadInput("the tiles of the picture differ in size or format")
    rows = len(tiles) // still.columns
    if first.width * still.columns < still.width or first.height * rows < still.height:
        raise BadInput(
            f"{still.columns}x{rows} tiles of {first.width}x{first.height} do not cover {still.width}x{still.height}"
        )
    whole = VideoFrame(still.width, still.height, first.format.name)
    whole.pts, whole.time_base = first.pts, first.time_base
    whole.color_range, whole.colorspace = first.color_range, first.colorspace
    whole.color_primaries, whole.color_trc = first.color_primaries, first.color_trc
    for number, tile in enumerate(tiles):
        row, column = divmod(number, still.columns)
        for source, sink in zip(_planes(tile), _planes(whole), strict=True):
            height, width = source.shape[:2]
            part = sink[row * height : (row + 1) * height, column * width : (column + 1) * width]
            part[:] = source[: part.shape[0], : part.shape[1]]
    return whole


def _planes(frame: VideoFrame) -> list[NDArray[np.uint8]]:
    """Each plane [H, W, bytes of a sample], as a view; of planar formats, which is what HEVC and AV1 decode to."""
    sample = (frame.format.components[0].bits + 7) // 8
    return [
        np.frombuffer(memoryview(plane), np.uint8)[: plane.height * plane.line_size]
        .reshape(plane.height, plane.line_size)[:, : plane.width * sample]
        .reshape(plane.height, plane.width, sample)
        for plane in frame.planes
    ]


# Boxes


def _top_boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Type, begin of the content and its length as stated; ends where no whole header follows."""
    end = file.seek(0, 2)
    at = 0
    while at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        size, header = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, header = int.from_bytes(head[8:16], "big"), 16
        elif size == 0:
            size = end - at
        if size < header:
            return
        yield head[4:8], at + header, size - header
        at += size


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content; IndexError for one that is cut off."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big") or len(data) - at
        if size < 8 or at + size > len(data):
            raise IndexError
        yield data[at + 4 : at + 8], data[at + 8 : at + size]
        at += size


class _Numbers:
    """Big-endian numbers of bytes, one after the other; IndexError past the end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> int:
        if self.at + size > len(self.data):
            raise IndexError
        self.at += size
        return int.from_bytes(self.data[self.at - size : self.at], "big")

    def version_and_flags(self) -> tuple[int, int]:
        return self.take(1), self.take(3)


# Items


def _main_picture(file: BinaryIO, meta: bytes) -> StillPicture | None:
    parts = dict(_boxes(meta[4:]))  # after version and flags
    if b"pitm" not in parts:
        return None  # an MP4's notes on the music
    numbers = _Numbers(parts[b"pitm"])
    version, _ = numbers.version_and_flags()
    main = numbers.take(4 if version else 2)
    kind = _kind(parts[b"iinf"], main)
    orientation = _orientation(parts[b"iprp"], main)
    if kind != b"grid":
        return StillPicture(kind.decode("latin-1"), (main,), 1, 0, 0, orientation)
    items = _tiles(parts[b"iref"], main)
    numbers = _Numbers(_content(file, parts, main))
    numbers.take(1)
    size = 4 if numbers.take(1) & 1 else 2
    rows, columns = 1 + numbers.take(1), 1 + numbers.take(1)
    width, height = numbers.take(size), numbers.take(size)
    if len(items) != rows * columns or not width or not height:
        raise IndexError
    return StillPicture("grid", items, columns, width, height, orientation)


def _kind(iinf: bytes, item: int) -> bytes:
    numbers = _Numbers(iinf)
    version, _ = numbers.version_and_flags()
    numbers.take(4 if version else 2)
    for kind, entry in _boxes(iinf[numbers.at :]):
        if kind == b"infe":
            fields = _Numbers(entry)
            version, _ = fields.version_and_flags()
            if version >= 2 and fields.take(4 if version == 3 else 2) == item:
                fields.take(2)
                return fields.take(4).to_bytes(4, "big")
    raise KeyError(item)


def _tiles(iref: bytes, item: int) -> tuple[int, ...]:
    size = 4 if iref[0] else 2
    for kind, entry in _boxes(iref[4:]):
        fields = _Numbers(entry)
        if kind == b"dimg" and fields.take(size) == item:
            return tuple(fields.take(size) for _ in range(fields.take(2)))
    raise KeyError(item)


def _content(file: BinaryIO, parts: dict[bytes, bytes], item: int) -> bytes:
    """An item's own bytes, 12 at most: those of a grid."""
    numbers = _Numbers(parts[b"iloc"])
    version, _ = numbers.version_and_flags()
    sizes = numbers.take(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    wide = 4 if version == 2 else 2
    for _ in range(numbers.take(wide)):
        number = numbers.take(wide)
        method = numbers.take(2) & 15 if version else 0
        numbers.take(2)
        base = numbers.take(base_size)
        places = []
        for _ in range(numbers.take(2)):
            numbers.take(index_size)
            places.append((base + numbers.take(offset_size), numbers.take(length_size)))
        if number == item:
            start, length = places[0]
            if method == 1:
                return parts[b"idat"][start:][: min(length, 12)]
            file.seek(start)
            return file.read(min(length, 12))
    raise KeyError(item)


def _orientation(iprp: bytes, item: int) -> Orientation:
    parts = list(_boxes(iprp))
    properties = [one for kind, content in parts if kind == b"ipco" for one in _boxes(content)]
    orientation = Orientation()
    for kind, content in parts:
        if kind == b"ipma":
            for index in _properties(content, item):
                name, value = properties[index - 1] if index else (b"", b"")
                if name == b"irot":
                    orientation = orientation.then(ROTATION[value[0] & 3])
                elif name == b"imir":
                    orientation = orientation.then(MIRROR[value[0] & 1])
    return orientation


def _properties(ipma: bytes, item: int) -> list[int]:
    """Numbers of the item's properties, from 1, in the order in which they apply."""
    numbers = _Numbers(ipma)
    version, flags = numbers.version_and_flags()
    wide = flags & 1
    for _ in range(numbers.take(4)):
        number = numbers.take(4 if version else 2)
        found = [numbers.take(2) & 0x7FFF if wide else numbers.take(1) & 0x7F for _ in range(numbers.take(1))]
        if number == item:
            return found
    return []
