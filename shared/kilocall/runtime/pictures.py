"""The source picture as bytes: AVIF or WebP within a budget, and back.

What this program has encoded itself is decoded here; what others have made, in a process of its own
(`picture_process.py`).

On 18 training stills of 256x256 at no more than 6144 bytes (quality bisected, Pillow 13):

    AVIF speed 6  37.65 dB  SSIM .9595  0.2 s     AVIF speed 4  37.99 dB  SSIM .9623  1.3 s
    WebP method 6 36.83 dB  SSIM .9528  0.1 s     WebP method 4 36.60 dB  SSIM .9522

OpenCV writes the same within 0.03 dB; Pillow is used because it tells the size before it decodes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from kilocall.proto.errors import BadInput
from kilocall.runtime.picture_decoder import FROM_OTHERS, decoded

__all__ = [
    "DEFAULT_MAX_BYTES", "LARGE_MAX_BYTES", "PictureFormat", "as_jpeg", "as_png", "best_format", "decode_picture",
    "encode_picture", "fitted", "with_bars",
]  # fmt: skip

PictureFormat = Literal["avif", "webp"]

#: 6 KB: at 30 kbit/s a first picture then takes 1.6 s.
DEFAULT_MAX_BYTES: Final = 6144
#: For 512x512: where four times the pixels look as good.
LARGE_MAX_BYTES: Final = 14 * 1024
MAX_SIDE: Final = FROM_OTHERS.max_side
# 92: no blocks to be seen, and the loopback does not mind the bytes.
JPEG_QUALITY: Final = 92


def best_format() -> PictureFormat:
    """AVIF where this Pillow was built with it, otherwise WebP."""
    return "avif" if features.check("avif") else "webp"


def encode_picture(
    rgb: NDArray[np.uint8],
    max_bytes: int = DEFAULT_MAX_BYTES,
    format: PictureFormat | None = None,
    *,
    thorough: bool = False,
) -> tuple[PictureFormat, bytes]:
    """Compresses `rgb` [H, W, 3] uint8 as well as `max_bytes` allow.

    `thorough` takes 2.4 times as long for 0.35 dB (AVIF only). Raises BadInput for a picture over 1024x1024,
    a format that this Pillow lacks, or when even the lowest quality is too large.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise BadInput(f"source picture is {rgb.dtype} {rgb.shape}, wanted is uint8 [H, W, 3]")
    if max(rgb.shape[:2]) > MAX_SIDE:
        raise BadInput(f"source picture is {rgb.shape[1]}x{rgb.shape[0]}, at most {MAX_SIDE}x{MAX_SIDE}")
    chosen = format or best_format()
    if chosen not in ("avif", "webp") or not features.check(chosen):
        raise BadInput(f"source picture format {chosen!r} cannot be written here, allowed are avif and webp")
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    quality, data = _largest_quality(lambda q: _encoded(picture, chosen, q, speed=6), max_bytes)
    if thorough and chosen == "avif":
        # A slower search needs about as many bytes at the same quality number.
        for finer in (quality + 1, quality, quality - 1):
            better = _encoded(picture, chosen, min(100, max(0, finer)), speed=4)
            if len(better) <= max_bytes:
                return chosen, better
    return chosen, data


def _encoded(picture: Image.Image, format: PictureFormat, quality: int, speed: int) -> bytes:
    out = io.BytesIO()
    if format == "avif":
        picture.save(out, "AVIF", quality=quality, speed=speed, subsampling="4:2:0", max_threads=1)
    else:
        picture.save(out, "WEBP", quality=quality, method=6)
    return out.getvalue()


def _largest_quality(encode: Callable[[int], bytes], max_bytes: int) -> tuple[int, bytes]:
    low, high = 0, 100
    best: tuple[int, bytes] | None = None
    smallest = max_bytes
    while low <= high:
        quality = (low + high) // 2
        data = encode(quality)
        smallest = len(data)
        if len(data) <= max_bytes:
            best = (quality, data)
            low = quality + 1
        else:
            high = quality - 1
    if best is None:
        raise BadInput(f"source picture does not fit into {max_bytes} bytes: the lowest quality takes {smallest}")
    return best


def decode_picture(data: bytes) -> NDArray[np.uint8]:
    """Picture [H, W, 3] uint8 from AVIF or WebP bytes that this side has encoded.

    The size is read from the compressed frame itself before anything is decoded. Raises BadInput for bytes that are no
    such still picture, are damaged, over 256 KiB, or larger than 1024x1024.
    """
    return np.array(decoded(data, FROM_OTHERS), np.uint8)


def fitted(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A square picture [S, S, 3] at [side, side, 3]; the picture itself where it fits already.

    Raises BadInput for anything but a square uint8 RGB picture.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.shape[0] != rgb.shape[1]:
        raise BadInput(f"source picture is {rgb.dtype} {list(rgb.shape)}; allowed: uint8 square [S, S, 3]")
    if rgb.shape[0] == side:
        return rgb
    how = cv2.INTER_AREA if rgb.shape[0] > side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(rgb, (side, side), interpolation=how), np.uint8)


def with_bars(rgb: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """A picture [H, W, 3] as large as fits, in the middle of black."""
    scale = min(width / rgb.shape[1], height / rgb.shape[0])
    inner = max(1, round(scale * rgb.shape[1])), max(1, round(scale * rgb.shape[0]))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = np.asarray(cv2.resize(rgb, inner, interpolation=how), np.uint8)
    if inner == (width, height):
        return resized
    whole = np.zeros((height, width, 3), np.uint8)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    whole[top : top + inner[1], left : left + inner[0]] = resized
    return whole


def as_jpeg(rgb: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> bytes:
    """A picture [H, W, 3] for a page: a few milliseconds, about 20 KB at 256x256."""
    return _as_file(rgb, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def as_png(rgb: NDArray[np.uint8]) -> bytes:
    """A picture [H, W, 3] without loss."""
    return _as_file(rgb, ".png", [])


def _as_file(rgb: NDArray[np.uint8], suffix: str, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, np.ascontiguousarray(rgb[..., ::-1]), options)
    if not done:
        raise BadInput(f"a picture of {rgb.shape[1]}x{rgb.shape[0]} cannot be written as {suffix}")
    return data.tobytes()
