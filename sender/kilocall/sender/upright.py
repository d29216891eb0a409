"""Decoded frames as people see them: upright, of square pixels, in the colours of an ordinary screen."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.frame import VideoFrame
from av.video.reformatter import ColorTrc
from numpy.typing import NDArray
from PIL import ExifTags, Image

__all__ = ["Upright"]

MATTE: Final = 128  # grey behind transparent pictures

#: Candela a square metre of white in a picture of high dynamic range that a screen of ordinary range shows as its
#: own white (ITU-R BT.2408), and of the brightest that HLG is shown at.
REFERENCE_WHITE: Final = 203.0
HLG_PEAK: Final = 1000.0
#: Brighter than this share of white is pressed together rather than cut off.
KNEE: Final = 0.8
#: Linear light from the primaries of ITU-R BT.2020 to those of BT.709 (BT.2087).
TO_709: Final = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
LUMA_2020: Final = np.array([0.2627, 0.6780, 0.0593], np.float32)


class Orientation(NamedTuple):
    """What is to be done with a stored picture, in this order."""

    rows_become_columns: bool = False
    left_right: bool = False
    upside_down: bool = False

    def then(self, other: Orientation) -> Orientation:
        """Both, this one first."""
        swaps, left_right, upside_down = self
        if other.rows_become_columns:
            left_right, upside_down = upside_down, left_right
        return Orientation(
            swaps != other.rows_become_columns,
            left_right != other.left_right,
            upside_down != other.upside_down,
        )


#: By EXIF's number.
EXIF: Final = dict(
    enumerate(
        (
            Orientation(), Orientation(False, True), Orientation(False, True, True), Orientation(False, False, True),
            Orientation(True), Orientation(True, True), Orientation(True, True, True), Orientation(True, False, True),
        ),
        start=1,
    )
)  # fmt: skip


@dataclass(frozen=True)
class Upright:
    """How the frames of one file are to be shown."""

    orientation: Orientation
    pixel_aspect: float
    """A pixel's width by its height."""

    @staticmethod
    def of(path: Path, first: VideoFrame, pixel_aspect: Fraction | None, known: Orientation | None = None) -> Upright:
        """`first` is a frame of the file; its orientation is read unless it is known."""
        wide = float(pixel_aspect or 1)
        # Beyond these it is no picture but a forged number.
        return Upright(_orientation(path, first) if known is None else known, wide if 1 / 4 <= wide <= 4 else 1.0)

    def size(self, frame: VideoFrame) -> tuple[int, int]:
        """Height and width of what `rgb` gives."""
        height, width = self._square_size(frame)
        return (width, height) if self.orientation.rows_become_columns else (height, width)

    def rgb(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Picture [H, W, 3] uint8: turned and mirrored as the file asks, stretched to square pixels, transparency laid
        over grey, high dynamic range (PQ, HLG) brought into that of a screen."""
        if frame.format.has_palette or any(component.is_alpha for component in frame.format.components):
            rgba = np.asarray(frame.to_ndarray(format="rgba"), np.uint16)
            alpha = rgba[..., 3:]
            rgb = ((rgba[..., :3] * alpha + MATTE * (255 - alpha) + 127) // 255).astype(np.uint8)
        elif frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67):
            rgb = _in_screen_range(np.asarray(frame.to_ndarray(format="rgb48le"), np.uint16), ColorTrc(frame.color_trc))
        else:
            rgb = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
        height, width = self._square_size(frame)
        if rgb.shape[:2] != (height, width):
            rgb = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
        swaps, left_right, upside_down = self.orientation
        if swaps:
            rgb = rgb.transpose(1, 0, 2)
        return np.ascontiguousarray(rgb[:: -1 if upside_down else 1, :: -1 if left_right else 1])

    def _square_size(self, frame: VideoFrame) -> tuple[int, int]:
        """Height and width with square pixels; one side stays, the other grows."""
        wide = self.pixel_aspect
        if wide >= 1:
            return frame.height, round(frame.width * wide)
        return round(frame.height / wide), frame.width


def _orientation(path: Path, frame: VideoFrame) -> Orientation:
    try:
        side_data: Any = frame.side_data  # said to be by name, and is by type
        matrix = side_data.get(SideData.DISPLAYMATRIX)
    # What FFmpeg makes of EXIF has a number that PyAV 18.1 does not know.
    except ValueError:
        return _exif_orientation(path)
    if matrix is None:
        return Orientation()
    # [x' y'] = [x y] [[a b] [c d]] in 1/65536, each row followed by a number of the perspective.
    (a, b), (c, d) = np.frombuffer(bytes(matrix), np.int32)[:6].reshape(2, 3)[:, :2].astype(int).tolist()
    return Orientation(False, a < 0, d < 0) if abs(a) >= abs(b) else Orientation(True, c < 0, b < 0)


def _exif_orientation(path: Path) -> Orientation:
    try:
        with Image.open(path) as picture:
            return EXIF.get(picture.getexif().get(ExifTags.Base.Orientation, 1), Orientation())
    except (OSError, ValueError, SyntaxError):
        return Orientation()


def _in_screen_range(rgb: NDArray[np.uint16], curve: ColorTrc) -> NDArray[np.uint8]:
    """BT.2020 pictures [H, W, 3] of high dynamic range as sRGB ones."""
    light = _light(curve)[rgb]  # of the reference white
    if curve == ColorTrc.ARIB_STD_B67:
        # The system gamma of 1.2 for a screen of HLG_PEAK (BT.2100).
        light *= np.maximum(light @ LUMA_2020, 1e-6)[..., None] ** 0.2 * (HLG_PEAK / REFERENCE_WHITE)
    light = np.maximum(light @ TO_709.T, 0)
    most = np.maximum(light.max(-1, keepdims=True), 1e-6)
    over = np.maximum(most - KNEE, 0)
    shown = np.where(most > KNEE, KNEE + (1 - KNEE) * (1 - np.exp(-over / (1 - KNEE))), most)
    # All three by one factor, so that a bright face keeps its colour.
    steps = np.clip(light * (shown / most), 0, 1) * (len(_srgb()) - 1)
    return np.asarray(_srgb()[np.rint(steps).astype(np.int32)], np.uint8)


@functools.cache
def _light(curve: ColorTrc) -> NDArray[np.float32]:
    """Linear light by 16-bit value [65536]: of PQ (SMPTE ST 2084) in reference whites, of HLG (BT.2100) of its peak."""
    x = np.arange(1 << 16) / 65535
    if curve == ColorTrc.SMPTE2084:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        root = x ** (1 / m2)
        light = (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1) * (10000 / REFERENCE_WHITE)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(x <= 0.5, x**2 / 3, (np.exp((x - c) / a) + b) / 12)
    return light.astype(np.float32)


@functools.cache
def _srgb() -> NDArray[np.uint8]:
    """sRGB by linear light 0..1 in 16 bits (IEC 61966-2-1)."""
    x = np.arange(1 << 16) / 65535
    shown = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * shown), np.uint8)
