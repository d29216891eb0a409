"""Where a square is cut out of a frame, and the cutting itself; the proportions are those of the training pictures.

Places and boxes are in frame pixels, with 0 at the outer edge of the first pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.sender.face_finder import FaceBox

__all__ = [
    "CROP_SIDE",
    "FACE_HEIGHT",
    "FACE_WIDTH",
    "FACE_X",
    "FACE_Y",
    "STRAY_LARGER",
    "STRAY_SMALLER",
    "STRAY_X",
    "STRAY_Y",
    "CropPlace",
    "as_place",
    "as_vector",
    "box_from_landmarks",
    "cut",
    "holds",
    "ideal_place",
    "middle",
    "paste_back_matrix",
]

CROP_SIDE = 256

# The landmark box within the crop, median over 190 training clips (5 to 95 %): centre x 0.498
# (0.45..0.56), y 0.533 (0.45..0.59), width 0.450 (0.36..0.57), height 0.533 (0.43..0.68). The side is
# the larger of what width and height ask for, because a turn narrows the box and a nod shortens it;
# that maximum lies 1.9 % above the single medians, hence 0.458 and 0.543.
FACE_X, FACE_Y = 0.498, 0.533
FACE_WIDTH, FACE_HEIGHT = 0.458, 0.543

# Training crops lay inside their frames. To do the same, a crop shifts by up to 0.10 of its side and
# shrinks by up to 20 % (where a face fills the frame, the training faces were that much larger too).
FIT_SHIFT, FIT_SHRINK = 0.10, 0.80

# Within a training clip the face strays from its median place by -0.14..0.15 in x, -0.09..0.10 in y and
# 0.92..1.13 in size (0.5 to 99.5 %); between clips the size varies by 0.80..1.28.
STRAY_X, STRAY_Y = 0.13, 0.10
STRAY_SMALLER, STRAY_LARGER = 0.82, 1.20

# Of the edge's colours: how far from it (sides of the crop) they are how much blurred (standard deviation).
BLURS = ((0.02, 0.02), (0.10, 0.10), (0.35, 0.40))
EDGE_ROWS = 3
#: Quarter turns that bring each of _Sides to the top.
TURNS = (0, 2, 3, 1)


class _Sides(NamedTuple):
    """Shares of a crop's side."""

    top: float
    bottom: float
    left: float
    right: float


@dataclass(frozen=True)
class CropPlace:
    """A square of the frame: outer corner and side in pixels, may reach past the border."""

    x0: float
    y0: float
    side: float


def ideal_place(box: FaceBox, frame_size: tuple[int, int]) -> CropPlace:
    """Where a training crop would lie around `box`, in a frame of `frame_size` (width, height)."""
    width, height = frame_size
    side = max(box.width / FACE_WIDTH, box.height / FACE_HEIGHT, 16.0)
    limit = min(width, height)
    if side > limit:
        side = max(limit, side * FIT_SHRINK)
    x, y = box.centre
    return CropPlace(_fitted(x - FACE_X * side, side, width), _fitted(y - FACE_Y * side, side, height), side)


def _fitted(start: float, side: float, length: float) -> float:
    """`start` moved so that start..start+side lies in 0..length, by at most FIT_SHIFT sides."""
    wanted = (length - side) / 2 if side > length else min(max(start, 0.0), length - side)
    return start + min(max(wanted - start, -FIT_SHIFT * side), FIT_SHIFT * side)


def box_from_landmarks(points: NDArray[np.float32], place: CropPlace, confidence: float = 1.0) -> FaceBox:
    """Bounding box in the frame of points [K, 2] in [-1, 1] over the crop at `place`."""
    low, high = points.min(axis=0), points.max(axis=0)
    scale = place.side / 2
    return FaceBox(
        float(place.x0 + (low[0] + 1) * scale),
        float(place.y0 + (low[1] + 1) * scale),
        float((high[0] - low[0]) * scale),
        float((high[1] - low[1]) * scale),
        confidence,
    )


def paste_back_matrix(place: CropPlace, size: int = CROP_SIDE) -> NDArray[np.float64]:
    """crop_to_frame [2, 3]: pixel centre (u, v) of the crop [size, size] -> pixel centre of the frame."""
    step = place.side / size
    return np.array([[step, 0, place.x0 + step / 2 - 0.5], [0, step, place.y0 + step / 2 - 0.5]])


def cut(rgb: NDArray[np.uint8], place: CropPlace, size: int = CROP_SIDE) -> tuple[NDArray[np.uint8], CropPlace]:
    """The crop [size, size, 3] and the place that was really cut; past the border colours of the edge fade out.

    From `size` px up the place is rounded to whole pixels (at most 0.5 px of the crop) and reduced without aliasing;
    smaller ones are enlarged in place.
    """
    if place.side < size:
        inverse = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        crop = cv2.warpAffine(
            rgb,
            paste_back_matrix(place, size),
            (size, size),
            flags=inverse,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return _faded(np.asarray(crop, np.uint8), _missing(place, rgb.shape)), place
    x0, y0, side = round(place.x0), round(place.y0), round(place.side)
    height, width = rgb.shape[:2]
    left, top = max(0, x0), max(0, y0)
    right, bottom = min(width, x0 + side), min(height, y0 + side)
    if right - left < 1 or bottom - top < 1:
        raise ValueError(f"crop {x0},{y0} side {side} lies outside the {width}x{height} frame")
    part = rgb[top:bottom, left:right]
    if part.shape[:2] != (side, side):
        edges = (top - y0, y0 + side - bottom, left - x0, x0 + side - right)
        part = np.asarray(cv2.copyMakeBorder(part, *edges, cv2.BORDER_REPLICATE), np.uint8)
    place = CropPlace(float(x0), float(y0), float(side))
    return _faded(_reduced(part, size), _missing(place, rgb.shape)), place


def _missing(place: CropPlace, shape: tuple[int, ...]) -> _Sides:
    """What of a crop lies past the borders of a frame [H, W, 3]."""
    height, width = shape[:2]
    ends = (-place.y0, place.y0 + place.side - height, -place.x0, place.x0 + place.side - width)
    return _Sides(*(max(0.0, end / place.side) for end in ends))


def _faded(crop: NDArray[np.uint8], missing: _Sides) -> NDArray[np.uint8]:
    """A crop [S, S, 3] whose missing sides are filled with the colours at their edge, the further the more blurred.

    Nothing that could be taken for a part of a face: a mirrored one has brows on its forehead, a repeated edge stripes.
    """
    if not any(missing):
        return crop
    made = crop.copy()
    for number, share in enumerate(missing):
        rows = math.ceil(share * len(crop))
        if not 0 < rows < len(crop):
            continue
        # Every side is filled as if it were the top one; those of the corners lie beyond the others' edges.
        turned = np.rot90(made, TURNS[number])
        edge = turned[rows : rows + EDGE_ROWS].mean(0, keepdims=True).astype(np.float32)
        distance = np.arange(rows, 0, -1, dtype=np.float32)[:, None, None] / np.float32(len(crop))
        fill, within = np.broadcast_to(edge, (rows, *edge.shape[1:])), 0.0
        for reach, blur in BLURS:
            wide = cv2.GaussianBlur(edge, (0, 0), sigmaX=blur * len(crop), sigmaY=0.1, borderType=cv2.BORDER_REPLICATE)
            share_of_wide = np.clip((distance - within) / (reach - within), 0, 1)
            fill, within = fill + share_of_wide * (wide - fill), reach
        turned[:rows] = np.rint(fill)
    return made


def _reduced(part: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A square of at least `size` pixels a side as [size, size, 3], without aliasing.

    Averaged where it is a multiple of the size; else interpolated to twice the size (or four times, ...) and halved:
    area averaging by anything but a whole number takes seven times as long, and edges are as sharp within 3 %.
    """
    if len(part) % size == 0:
        return np.asarray(cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    side = 2 * size
    while 2 * side < len(part):
        side *= 2
    if len(part) != side:
        part = np.asarray(cv2.resize(part, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)
    while side > size:
        side //= 2
        part = np.asarray(cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    return part


def as_vector(place: CropPlace) -> NDArray[np.float64]:
    """Centre x and y and the logarithm of the side [3]: what places are averaged and moved in."""
    return np.array([place.x0 + place.side / 2, place.y0 + place.side / 2, math.log(place.side)])


def as_place(vector: NDArray[np.float64]) -> CropPlace:
    """The reverse of `as_vector`."""
    side = math.exp(vector[2])
    return CropPlace(float(vector[0] - side / 2), float(vector[1] - side / 2), side)


def holds(place: CropPlace, box: FaceBox, frame_size: tuple[int, int]) -> bool:
    """Whether the crop at `place` need not move for `box`."""
    x, y, size = as_vector(ideal_place(box, frame_size)) - as_vector(place)
    return bool(
        abs(x) <= STRAY_X * place.side
        and abs(y) <= STRAY_Y * place.side
        and math.log(STRAY_SMALLER) < size < math.log(STRAY_LARGER)
    )


def middle(frame_size: tuple[int, int]) -> CropPlace:
    """The largest square in the middle of a frame."""
    side = float(min(frame_size))
    return CropPlace((frame_size[0] - side) / 2, (frame_size[1] - side) / 2, side)
