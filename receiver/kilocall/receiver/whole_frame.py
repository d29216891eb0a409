"""Puts the generated face back into the whole frame, so that no seam shows.

The face and what was there before are mixed band by band of detail, each over a width that suits it: fine lines over a
few pixels, brightness over a good part of the face (multiresolution splines, Burt and Adelson 1983).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.model.family import Picture
from kilocall.proto.errors import BadInput

Array = NDArray[np.float32]

__all__ = ["PastePlace", "WholeFrames", "blend", "paste"]

#: The mask falls from one to zero between these distances from the middle, in halves of the side.
INSIDE: Final = 0.72
OUTSIDE: Final = 0.94
#: How far the widest band may reach past the face, in sides.
MARGIN: Final = 0.25


@dataclass(frozen=True)
class PastePlace:
    """Where the face's square lies in the whole frame from `time_us` on, in pixels; may reach past the border."""

    time_us: int
    x0: float
    y0: float
    side: float


class WholeFrames:
    """The frames behind the face, in step with it: (time_us, uint8 RGB [H, W, 3]), and where the face goes."""

    def __init__(self, frames: Iterable[tuple[int, Picture]], places: Sequence[PastePlace]) -> None:
        self._frames: Iterator[tuple[int, Picture]] = iter(frames)
        first = next(self._frames, None)
        if first is None:
            raise BadInput("the background has no frame")
        if not places:
            raise BadInput("the stream does not say where the face was in the frame; name a wide picture with --source")
        self._now, self._next = first, next(self._frames, None)
        self._began_us = first[0]
        self._places = sorted(places, key=lambda place: place.time_us)
        # A picture's colours come in pairs of rows and columns in a video.
        self.height, self.width = (side - side % 2 for side in first[1].shape[:2])

    def put(self, face: Picture, time_us: int) -> Picture:
        """The whole frame of this time (of the last one where there are no more), with the face in it."""
        while self._next is not None and self._next[0] - self._began_us <= time_us:
            self._now, self._next = self._next, next(self._frames, None)
        place = self._places[0]
        for later in self._places:
            if later.time_us > time_us:
                break
            place = later
        return paste(self._now[1], face, place)[: self.height, : self.width]


def paste(frame: Picture, face: Picture, place: PastePlace) -> Picture:
    """A new frame uint8 RGB [H, W, 3] with `face` [S, S, 3] at `place`. The frame comes back if the two do not meet."""
    side = round(place.side)
    margin = round(MARGIN * side)
    x0, y0, size = round(place.x0) - margin, round(place.y0) - margin, side + 2 * margin
    height, width = frame.shape[:2]
    left, top, right, bottom = max(0, x0), max(0, y0), min(width, x0 + size), min(height, y0 + size)
    if side < 8 or right <= left or bottom <= top:
        return frame.copy()
    around = (top - y0, y0 + size - bottom, left - x0, x0 + size - right)
    behind = cv2.copyMakeBorder(frame[top:bottom, left:right], *around, cv2.BORDER_REPLICATE)
    how = cv2.INTER_AREA if face.shape[0] > side else cv2.INTER_CUBIC
    front = cv2.copyMakeBorder(
        cv2.resize(face, (side, side), interpolation=how), margin, margin, margin, margin, cv2.BORDER_REFLECT_101
    )
    mixed = blend(np.asarray(behind, np.uint8), np.asarray(front, np.uint8), _mask(side, margin), _bands(margin))
    whole = frame.copy()
    whole[top:bottom, left:right] = mixed[top - y0 : bottom - y0, left - x0 : right - x0]
    return whole


def blend(behind: Picture, front: Picture, mask: Array, bands: int) -> Picture:
    """`front` where `mask` [H, W] is one, `behind` where it is zero; all uint8 RGB [H, W, 3].

    The pictures are split into `bands` bands of detail and a rest, each mixed by the mask as blurred as the band.
    """
    a, b, weight = behind.astype(np.float32), front.astype(np.float32), mask
    details: list[Array] = []
    for _ in range(bands):
        size = (a.shape[1], a.shape[0])
        small_a, small_b = _half(a), _half(b)
        detail_a, detail_b = a - _double(small_a, size), b - _double(small_b, size)
        details.append(np.asarray(detail_a + (detail_b - detail_a) * weight[..., None], np.float32))
        a, b, weight = small_a, small_b, _half(weight)
    mixed: Array = a + (b - a) * weight[..., None]
    for detail in reversed(details):
        mixed = _double(mixed, (detail.shape[1], detail.shape[0])) + detail
    return np.asarray(np.clip(np.rint(mixed), 0, 255), np.uint8)


def _half(x: Array) -> Array:
    return np.asarray(cv2.pyrDown(x), np.float32)


def _double(x: Array, size: tuple[int, int]) -> Array:
    return np.asarray(cv2.pyrUp(x, dstsize=size), np.float32)


def _bands(margin: int) -> int:
    """As many that the widest, of five taps each way, still ends within the margin."""
    return max(1, int(math.log2(max(2.0, margin / 2.5))))


@lru_cache(maxsize=4)
def _mask(side: int, margin: int) -> Array:
    """[side + 2 margin] squared: one within the face's square, zero outside, rounded corners, smooth between."""
    along = np.abs((np.arange(-margin, side + margin) + 0.5) / side * 2 - 1)
    distance = (along[:, None] ** 4 + along[None] ** 4) ** 0.25
    t = np.clip((OUTSIDE - distance) / (OUTSIDE - INSIDE), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)
