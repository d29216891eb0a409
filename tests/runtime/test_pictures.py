"""Source pictures fit their budget, come back alike, and nothing unreadable or huge gets through."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features

from kilocall.proto.errors import BadInput
from kilocall.runtime.pictures import PictureFormat, best_format, decode_picture, encode_picture, with_bars

Picture = NDArray[np.uint8]
CANDIDATES: tuple[PictureFormat, ...] = ("avif", "webp")
FORMATS = [f for f in CANDIDATES if features.check(f)]


@pytest.fixture(scope="module")
def portrait() -> Picture:
    with Image.open(Path(__file__).parents[1] / "data" / "astronaut.webp") as picture:
        return np.array(picture.convert("RGB").crop((100, 0, 356, 256)), np.uint8)


def psnr(a: Picture, b: Picture) -> float:
    return float(10 * np.log10(255**2 / ((a.astype(float) - b) ** 2).mean()))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("budget", [2000, 6144])
def test_the_budget_is_kept_and_used(portrait: Picture, format: PictureFormat, budget: int) -> None:
    used, data = encode_picture(portrait, budget, format)
    assert used == format
    assert 0.8 * budget < len(data) <= budget
    back = decode_picture(data)
    assert back.shape == portrait.shape
    assert back.dtype == np.uint8
    assert psnr(portrait, back) > (27 if budget == 2000 else 31)


def test_more_bytes_give_a_better_picture(portrait: Picture) -> None:
    quality = [psnr(portrait, decode_picture(encode_picture(portrait, n)[1])) for n in (2000, 4000, 8000)]
    assert quality[0] + 1 < quality[1] < quality[2] - 1


@pytest.mark.skipif("avif" not in FORMATS, reason="this Pillow has no AVIF")
def test_avif_is_the_default_and_no_worse_than_webp(portrait: Picture) -> None:
    assert best_format() == "avif"
    assert encode_picture(portrait)[0] == "avif"
    avif, webp = (decode_picture(encode_picture(portrait, 4000, f)[1]) for f in CANDIDATES)
    # The portrait was stored as WebP, which favours WebP; on other pictures AVIF leads by 0.8 dB.
    assert psnr(portrait, avif) > psnr(portrait, webp) - 0.2


@pytest.mark.skipif("avif" not in FORMATS, reason="this Pillow has no AVIF")
def test_thorough_is_no_worse_and_keeps_the_budget(portrait: Picture) -> None:
    quick, slow = encode_picture(portrait, 6144)[1], encode_picture(portrait, 6144, thorough=True)[1]
    assert len(slow) <= 6144
    assert psnr(portrait, decode_picture(slow)) > psnr(portrait, decode_picture(quick)) - 0.05


def test_encoding_is_repeatable(portrait: Picture) -> None:
    assert encode_picture(portrait) == encode_picture(portrait)


@pytest.mark.parametrize("format", FORMATS)
def test_an_impossible_budget_is_refused(portrait: Picture, format: PictureFormat) -> None:
    with pytest.raises(BadInput, match="does not fit into 50 bytes"):
        encode_picture(portrait, 50, format)


@pytest.mark.parametrize("shape", [(256, 256), (256, 256, 4), (0, 256, 3)])
def test_only_rgb_pictures_are_encoded(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="wanted is uint8"):
        encode_picture(np.zeros(shape, np.uint8))


def test_too_large_a_picture_is_not_encoded() -> None:
    with pytest.raises(BadInput, match="1025x8, at most 1024x1024"):
        encode_picture(np.zeros((8, 1025, 3), np.uint8))


@pytest.mark.parametrize("data", [b"", b"x", b"no picture at all" * 100, b"RIFF\0\0\0\0WEBPVP8 "])
def test_bytes_that_are_no_picture_are_refused(data: bytes) -> None:
    with pytest.raises(BadInput):
        decode_picture(data)


@pytest.mark.parametrize("format", FORMATS)
def test_every_truncation_is_refused_or_decoded_to_size(portrait: Picture, format: PictureFormat) -> None:
    _, data = encode_picture(portrait, 3000, format)
    refused = 0
    for length in range(0, len(data), 61):
        try:
            assert decode_picture(data[:length]).shape == portrait.shape
        except BadInput:
            refused += 1
    assert refused > len(data) // 61 // 2


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_bytes_never_raise_anything_else(portrait: Picture, format: PictureFormat) -> None:
    _, data = encode_picture(portrait, 3000, format)
    rng = np.random.default_rng(2)
    outcomes = set()
    for _ in range(60):
        broken = bytearray(data)
        for at in rng.integers(0, min(len(broken), 400), 3):
            broken[at] = int(rng.integers(256))
        try:
            outcomes.add(decode_picture(bytes(broken)).shape[2])
        except BadInput:
            outcomes.add("refused")
    assert "refused" in outcomes
    assert outcomes <= {3, "refused"}


def test_too_large_a_picture_is_refused_undecoded() -> None:
    for format in FORMATS:
        out = io.BytesIO()
        Image.new("RGB", (1030, 10)).save(out, format.upper())
        with pytest.raises(BadInput, match="1030x10, at most 1024x1024"):
            decode_picture(out.getvalue())


def test_too_many_bytes_are_refused_unread() -> None:
    with pytest.raises(BadInput, match="262145 bytes"):
        decode_picture(bytes((256 << 10) + 1))


@pytest.mark.parametrize("format", ["GIF", "JPEG", "PNG"])
def test_formats_that_are_not_written_are_not_read(format: str) -> None:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, format)
    with pytest.raises(BadInput, match="no AVIF or WebP"):
        decode_picture(out.getvalue())


@pytest.mark.parametrize(
    ("shape", "size", "inner"),
    [
        ((90, 160), (64, 64), (slice(14, 50), slice(0, 64))),
        ((160, 90), (64, 64), (slice(0, 64), slice(14, 50))),
        ((30, 30), (100, 50), (slice(0, 50), slice(25, 75))),
        ((50, 100), (100, 50), (slice(0, 50), slice(0, 100))),
        ((1, 500), (64, 64), (slice(31, 32), slice(0, 64))),
    ],
)
def test_a_picture_of_another_shape_lies_in_the_middle_of_black(
    shape: tuple[int, int], size: tuple[int, int], inner: tuple[slice, slice]
) -> None:
    made = with_bars(np.full((*shape, 3), 99, np.uint8), *size)
    assert made.shape == (size[1], size[0], 3)
    assert (made[inner] == 99).all()
    assert made.astype(int).sum() == made[inner].astype(int).sum()
