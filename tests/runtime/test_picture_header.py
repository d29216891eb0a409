"""The size that is checked is the one that a decoder would find, whatever the container says."""

from __future__ import annotations

import io
import random
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, features

from kilocall.proto.errors import BadInput
from kilocall.runtime.picture_header import PictureHeader, read_header
from kilocall.runtime.pictures import PictureFormat, decode_picture, encode_picture
from runtime.attacks import avif_that_lies

AVIF = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
FORMATS: list[PictureFormat] = [name for name in ("avif", "webp") if features.check(name)]


def saved(format: str, picture: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [(256, 256), (512, 512), (1, 1), (17, 1000), (1024, 1024)])
def test_size_of_what_is_encoded_here_is_read(format: PictureFormat, size: tuple[int, int]) -> None:
    data = encode_picture(np.zeros((size[1], size[0], 3), np.uint8), 6000, format)[1]
    assert read_header(data) == PictureHeader(format, *size)


def test_size_of_lossless_webp_is_read() -> None:
    data = saved("WEBP", Image.new("RGB", (300, 20)), lossless=True)
    assert read_header(data) == PictureHeader("webp", 300, 20)


@AVIF
def test_avif_tells_the_size_of_its_bitstream_and_not_of_its_container() -> None:
    data = avif_that_lies(256, 3000)
    assert len(data) < 2000
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (256, 256)
    assert read_header(data) == PictureHeader("avif", 3000, 3000)
    with pytest.raises(BadInput, match="3000x3000, at most 1024x1024"):
        decode_picture(data)


@AVIF
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (lambda: saved("AVIF", Image.new("RGBA", (64, 64), (1, 2, 3, 4))), "several"),
        (
            lambda: saved(
                "AVIF", Image.new("RGB", (64, 64)), save_all=True, append_images=[Image.new("RGB", (64, 64), "red")]
            ),
            "brand b'avis'",
        ),
    ],
    ids=["alpha", "sequence"],
)
def test_avif_of_more_than_one_still_is_refused(data: object, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        read_header(data())  # type: ignore[operator]


def test_webp_of_more_than_one_still_is_refused() -> None:
    film = saved("WEBP", Image.new("RGB", (64, 64)), save_all=True, append_images=[Image.new("RGB", (64, 64), "red")])
    with pytest.raises(BadInput, match="VP8X"):
        read_header(film)


@pytest.mark.parametrize("format", FORMATS)
def test_every_cut_and_change_is_refused_or_gives_a_size_within_the_format(format: PictureFormat) -> None:
    data = encode_picture(np.zeros((256, 256, 3), np.uint8), 6000, format)[1]
    for length in range(len(data)):
        with suppress(BadInput):
            assert read_header(data[:length]).width == 256
    rng = random.Random(3)
    for _ in range(3000):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        with suppress(BadInput):
            assert 0 <= read_header(bytes(changed)).width <= 1 << 16
