"""Pictures as people have them, made here, come whole and upright, or are refused with what is allowed."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, features

from kilocall.proto.errors import BadInput
from kilocall.runtime.picture_decoder import UPLOAD, decoded
from kilocall.sender.capture import open_clip

Picture = NDArray[np.uint8]

TILE = 64
ROWS, COLUMNS = 2, 3
KINDS = [
    pytest.param("hvc1", marks=pytest.mark.skipif("libx265" not in av.codecs_available, reason="PyAV without x265")),
    pytest.param("av01", marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")),
]


def corners(height: int = 100, width: int = 170) -> Picture:
    """No tile is like another, nor any corner; the sides are no multiple of the tiles'."""
    y, x = np.mgrid[:height, :width]
    return np.stack((40 + x, 50 + 1.5 * y, 230 - 0.4 * x - y), -1).astype(np.uint8)


def first_frame(path: Path) -> NDArray[np.int_]:
    clip = open_clip(path)
    rgb = next(iter(clip)).rgb
    assert rgb.shape[:2] == (clip.height, clip.width)
    return rgb.astype(int)


def apart(seen: NDArray[np.int_], true: Picture) -> float:
    assert seen.shape == true.shape
    return float(np.abs(seen - true).mean())


# HEIF files, put together from stills


def box(kind: bytes, *parts: bytes, full: int | None = None) -> bytes:
    """`full`: version in the highest byte, flags below."""
    body = (b"" if full is None else struct.pack(">I", full)) + b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def numbers(layout: str, *values: int) -> bytes:
    return struct.pack(f">{layout}", *values)


def irot(quarters_left: int) -> bytes:
    return box(b"irot", bytes([quarters_left]))


def imir(axis: int) -> bytes:
    return box(b"imir", bytes([axis]))


def named_box(data: bytes, kind: bytes) -> bytes:
    start = data.index(kind) - 4
    return data[start : start + int.from_bytes(data[start : start + 4], "big")]


def coded(rgb: Picture, kind: str) -> tuple[bytes, bytes]:
    """A still's decoder configuration, as a box, and its data."""
    file = io.BytesIO()
    if kind == "av01":
        Image.fromarray(rgb).save(file, "AVIF", quality=90, speed=10)
        return named_box(file.getvalue(), b"av1C"), named_box(file.getvalue(), b"mdat")[8:]
    with av.open(file, "w", format="mp4") as sink:
        # Of a single frame x265 makes no sure decoding time where it could have B-frames.
        settings = {"crf": "8", "x265-params": "bframes=0:pools=none:frame-threads=1:log-level=none"}
        stream: Any = sink.add_stream("libx265", rate=25, options=settings)
        stream.height, stream.width, stream.pix_fmt = *rgb.shape[:2], "yuv420p"
        frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
        frame.pts = 0
        sink.mux(stream.encode(frame))
        sink.mux(stream.encode(None))
    with av.open(io.BytesIO(file.getvalue()), "r") as container:
        data = next(bytes(packet) for packet in container.demux(video=0) if packet.size)
    return named_box(file.getvalue(), b"hvcC"), data


class Tiles:
    """One picture cut into coded tiles, or coded as it is."""

    def __init__(self, rgb: Picture, kind: str, rows: int, columns: int) -> None:
        self.height, self.width = rgb.shape[:2]
        self.kind, self.rows, self.columns = kind, rows, columns
        if rows * columns > 1:
            below, right = rows * TILE - self.height, columns * TILE - self.width
            whole = np.pad(rgb, ((0, below), (0, right), (0, 0)), mode="edge")
            parts = [np.hsplit(row, columns) for row in np.vsplit(whole, rows)]
            self.coded = [coded(np.ascontiguousarray(tile), kind) for row in parts for tile in row]
        else:
            self.coded = [coded(rgb, kind)]

    def heif(
        self,
        properties: Sequence[bytes] = (),
        *,
        exif: bytes = b"",
        main_kind: bytes = b"grid",
        size: tuple[int, int] | None = None,
        in_meta: bool = False,
    ) -> bytes:
        """The file; a grid's own bytes lie in the description with `in_meta`, where phones write them."""
        width, height = size or (self.width, self.height)
        grid = len(self.coded) > 1
        own = [10 + number for number in range(len(self.coded))]
        main = 40 if grid else own[0]
        kinds = [(item, self.kind.encode(), int(grid)) for item in own]
        placed = [(item, 0, data) for item, (_, data) in zip(own, self.coded, strict=True)]
        links = b""
        description = b""
        if grid:
            kinds.append((main, main_kind, 0))
            description = numbers("BBBBHH", 0, 0, self.rows - 1, self.columns - 1, width, height)
            placed.append((main, int(in_meta), description))
            links += box(b"dimg", numbers(f"HH{len(own)}H", main, len(own), *own))
        if exif:
            kinds.append((41, b"Exif", 1))
            placed.append((41, 0, numbers("I", 0) + exif))
            links += box(b"cdsc", numbers("HHH", 41, 1, main))
        entries = [box(b"infe", numbers("HH", i, 0), kind, b"\0", full=2 << 24 | hidden) for i, kind, hidden in kinds]
        side = (TILE, TILE) if grid else (width, height)
        known = [self.coded[0][0], box(b"ispe", numbers("II", *side), full=0)]
        known += [box(b"ispe", numbers("II", width, height), full=0), *properties]
        of_main = [3, *range(4, 4 + len(properties))]
        of = {item: [1, 2] for item in own}
        of[main] = of_main if grid else [1, 2, *of_main[1:]]
        linked = b"".join(numbers("HB", item, len(of[item])) + bytes(of[item]) for item in sorted(of))

        def meta(start: int) -> bytes:
            places = b""
            for item, method, data in placed:
                places += numbers("HHHHII", item, method, 0, 1, 0 if method else start, len(data))
                start += 0 if method else len(data)
            return box(
                b"meta",
                box(b"hdlr", numbers("I", 0), b"pict", bytes(13), full=0),
                box(b"pitm", numbers("H", main), full=0),
                box(b"iloc", b"\x44\x00", numbers("H", len(placed)), places, full=1 << 24),
                box(b"iinf", numbers("H", len(entries)), *entries, full=0),
                box(b"iref", links, full=0) if links else b"",
                box(b"iprp", box(b"ipco", *known), box(b"ipma", numbers("I", len(of)), linked, full=0)),
                box(b"idat", description) if in_meta else b"",
                full=0,
            )

        brand = b"avif" if self.kind == "av01" else b"heic"
        head = box(b"ftyp", brand, bytes(4), b"mif1", brand)
        data = b"".join(data for _, method, data in placed if not method)
        return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", data)


@pytest.fixture(scope="module")
def tiles() -> Callable[[str], Tiles]:
    made: dict[str, Tiles] = {}

    def _tiles(kind: str) -> Tiles:
        if kind not in made:
            made[kind] = Tiles(corners(), kind, ROWS, COLUMNS)
        return made[kind]

    return _tiles


@pytest.mark.parametrize("in_meta", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_tiles_comes_whole(
    tiles: Callable[[str], Tiles], tmp_path: Path, kind: str, in_meta: bool
) -> None:
    path = tmp_path / "phone.heic"
    path.write_bytes(tiles(kind).heif(in_meta=in_meta))
    assert apart(first_frame(path), corners()) < 3
    assert len(list(open_clip(path))) == 1


@pytest.mark.parametrize(
    ("properties", "turned"),
    [
        ([irot(1)], lambda rgb: np.rot90(rgb, 1)),
        ([irot(2)], lambda rgb: np.rot90(rgb, 2)),
        ([irot(3)], lambda rgb: np.rot90(rgb, 3)),
        ([imir(0)], np.flipud),
        ([imir(1)], np.fliplr),
        ([irot(1), imir(1)], lambda rgb: np.fliplr(np.rot90(rgb, 1))),
        ([imir(0), irot(3)], lambda rgb: np.rot90(np.flipud(rgb), 3)),
    ],
    ids=["left", "half", "right", "upside down", "mirrored", "left, mirrored", "upside down, right"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_tiles_comes_upright(
    tiles: Callable[[str], Tiles],
    tmp_path: Path,
    kind: str,
    properties: list[bytes],
    turned: Callable[[Picture], Picture],
) -> None:
    path = tmp_path / "phone.heic"
    path.write_bytes(tiles(kind).heif(properties))
    assert apart(first_frame(path), turned(corners())) < 3


@pytest.mark.parametrize("kind", KINDS)
def test_what_exif_says_does_not_turn_a_heif_file_once_more(tmp_path: Path, kind: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    whole = Tiles(corners(96, 160), kind, 1, 1)
    note = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    path = tmp_path / "phone.heic"
    path.write_bytes(whole.heif([irot(3)], exif=note))
    assert apart(first_frame(path), np.rot90(corners(96, 160), 3)) < 3
    path.write_bytes(whole.heif(exif=note))
    assert apart(first_frame(path), corners(96, 160)) < 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_whose_tiles_are_not_all_there_is_refused(
    tiles: Callable[[str], Tiles], tmp_path: Path, kind: str
) -> None:
    data = tiles(kind).heif()
    path = tmp_path / "phone.heic"
    for rest in (0.9, 0.5):
        path.write_bytes(data[: data.index(b"mdat") + round(rest * (len(data) - data.index(b"mdat")))])
        with pytest.raises(BadInput, match=r"phone\.heic: (no frame could be decoded|not a readable)"):
            open_clip(path)
    path.write_bytes(tiles(kind).heif(size=(COLUMNS * TILE + 10, TILE)))
    with pytest.raises(BadInput, match="3x2 tiles of 64x64 do not cover 202x64"):
        open_clip(path)
    path.write_bytes(tiles(kind).heif(size=(COLUMNS * TILE, 9000)))
    with pytest.raises(BadInput, match=r"192x9000, at most 8192x8192|not a readable"):
        open_clip(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_put_together_in_another_way_is_refused(
    tiles: Callable[[str], Tiles], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "layers.heic"
    path.write_bytes(tiles(kind).heif(main_kind=b"iovl"))
    with pytest.raises(BadInput, match="pictures of kind 'iovl' are not supported here, allowed are HEVC and AV1"):
        open_clip(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_description_is_refused_or_does_not_matter(
    tiles: Callable[[str], Tiles], tmp_path: Path, kind: str
) -> None:
    data = tiles(kind).heif([irot(1)], in_meta=True)
    path = tmp_path / "phone.heic"
    outcomes = set()
    for at in range(40, data.index(b"mdat"), 11):
        forged = bytearray(data)
        forged[at] ^= 0xFF
        path.write_bytes(forged)
        try:
            outcomes |= {frame.rgb.shape[2] for frame in open_clip(path)}
        except BadInput:
            outcomes.add("refused")
    assert outcomes == {3, "refused"}


# Several pictures in one file


def moving(count: int = 6) -> list[Image.Image]:
    return [Image.fromarray(np.roll(corners(96, 128), 8 * number, 1)) for number in range(count)]


@pytest.mark.parametrize(
    "name",
    [
        "a.gif",
        "a.png",
        pytest.param("a.avif", marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")),
    ],
)
def test_a_moving_picture_is_a_clip(tmp_path: Path, name: str) -> None:
    first, *others = moving()
    first.save(tmp_path / name, save_all=True, append_images=others, duration=40)
    frames = list(open_clip(tmp_path / name))
    assert [frame.capture_us for frame in frames] == [40_000 * number for number in range(6)]
    for frame, true in zip(frames, moving(), strict=True):
        assert apart(frame.rgb.astype(int), np.array(true)) < 12  # a GIF has 256 colours


def test_a_moving_webp_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    first, *others = moving()
    first.save(tmp_path / "a.webp", save_all=True, append_images=others, duration=40)
    with pytest.raises(BadInput, match=r"a\.webp: animated WebP is not supported, give a video, an animated GIF"):
        open_clip(tmp_path / "a.webp")


# What a picture is made of


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.avif"])
@pytest.mark.parametrize("orientation", [3, 5, 6, 8])
def test_what_a_camera_notes_turns_other_pictures_than_jpeg(tmp_path: Path, name: str, orientation: int) -> None:
    if name == "a.avif" and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turned = {3: np.rot90(corners(), 2), 5: corners().transpose(1, 0, 2), 6: np.rot90(corners(), 3)}
    Image.fromarray(corners()).save(tmp_path / name, exif=exif, quality=95)
    assert apart(first_frame(tmp_path / name), turned.get(orientation, np.rot90(corners(), 1))) < 4


def test_colours_for_print_come_as_on_a_screen(tmp_path: Path) -> None:
    Image.fromarray(corners()).convert("CMYK").save(tmp_path / "print.jpg", quality=97)
    assert apart(first_frame(tmp_path / "print.jpg"), corners()) < 3


@pytest.mark.parametrize("grey", [False, True])
def test_sixteen_bits_become_eight(tmp_path: Path, grey: bool) -> None:
    eight = corners()[..., :1].repeat(3, 2) if grey else corners()
    deep = eight.astype(np.uint16) * 257
    path = tmp_path / "deep.png"
    assert cv2.imwrite(str(path), np.ascontiguousarray(deep[..., 0] if grey else deep[..., ::-1]))
    assert apart(first_frame(path), eight) < 2
    assert apart(np.array(decoded(path.read_bytes(), UPLOAD), int), eight) < 2


def test_a_palette_with_transparency_lies_on_grey(tmp_path: Path) -> None:
    picture = Image.new("P", (64, 48), 1)
    picture.putpalette([255, 0, 255, 200, 30, 20, *bytes(3 * 254)])
    picture.paste(0, (32, 0, 64, 48))
    picture.save(tmp_path / "cut_out.png", transparency=0)
    seen = first_frame(tmp_path / "cut_out.png")
    assert seen[10, 10].tolist() == [200, 30, 20]
    assert seen[10, 50].tolist() == [128, 128, 128]
