"""Finds faces in a whole picture with the Haar cascades that OpenCV carries.

It starts the landmark tracker and checks on it now and then; where the face is from frame to frame
is the tracker's business. Boxes are given as the landmark box would be (ear to ear, hair line to
chin), which is not the square that a cascade reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["FaceBox", "FaceFinder"]

# Square of the frontal cascade -> landmark box, in sides of the square: median over 184 training frames
# (5 to 95 %: x -0.13..0.14, y 0.03..0.12, width 0.76..0.94, height 0.91..1.13).
FRONTAL_DY, FRONTAL_WIDTH, FRONTAL_HEIGHT = 0.075, 0.826, 0.998
# The profile cascade looks to the left; its square reaches past the nose (93 of those frames).
PROFILE_DX, PROFILE_DY, PROFILE_WIDTH, PROFILE_HEIGHT = -0.159, 0.096, 0.796, 0.939

MIN_CASCADE_SIDE = 24  # px in the searched picture; the cascades were trained at 20 to 24
# Windows that agree on a face: a hit that no second cascade confirms needs 8, a confirmed one 3. With
# these, two 720p clips gave no hit beside the face, and 20 noise pictures none at all.
ALONE_NEIGHBOURS, CONFIRMED_NEIGHBOURS = 8, 3
LOCAL_FACE_SIDE = 48  # px of the face when a known place is looked at again


@dataclass(frozen=True)
class FaceBox:
    """A face in frame pixels; x0, y0 is the outer corner of the first pixel. Confidence 0..1."""

    x0: float
    y0: float
    width: float
    height: float
    confidence: float

    @property
    def centre(self) -> tuple[float, float]:
        return self.x0 + self.width / 2, self.y0 + self.height / 2

    def overlap(self, other: FaceBox) -> float:
        """Shared area over joint area, 0..1."""
        across = min(self.x0 + self.width, other.x0 + other.width) - max(self.x0, other.x0)
        down = min(self.y0 + self.height, other.y0 + other.height) - max(self.y0, other.y0)
        if across <= 0 or down <= 0:
            return 0.0
        shared = across * down
        return shared / (self.width * self.height + other.width * other.height - shared)

    def covers_centre_of(self, other: FaceBox) -> bool:
        x, y = other.centre
        return self.x0 <= x <= self.x0 + self.width and self.y0 <= y <= self.y0 + self.height


class FaceFinder:
    """Haar face search. Keeps no state between pictures; not for use by two threads at once.

    `search_side` is the longest side to which a picture is reduced: faces under 24 / search_side of
    it (7.5 % at 320) are not found.
    """

    def __init__(self, search_side: int = 320) -> None:
        self.search_side = search_side
        self._frontal = _cascade("haarcascade_frontalface_alt2.xml")
        self._second = _cascade("haarcascade_frontalface_default.xml")
        self._eyes = _cascade("haarcascade_eye.xml")
        self._profile = _cascade("haarcascade_profileface.xml")

    def find(self, rgb: NDArray[np.uint8]) -> list[FaceBox]:
        """All faces of `rgb` [H, W, 3], largest first; turned faces only where no frontal one is."""
        grey, scale = _reduced(rgb, self.search_side)
        boxes = self._frontal_boxes(grey, (MIN_CASCADE_SIDE, 10_000), factor=1.2)
        if not boxes:
            boxes = self._profile_boxes(grey, (MIN_CASCADE_SIDE, 10_000))
        return [_scaled(box, 1 / scale, 0.0, 0.0) for box in _largest_of_each(boxes)]

    def find_near(self, rgb: NDArray[np.uint8], near: FaceBox, profile: bool = True) -> FaceBox | None:
        """The face at about the place and size of `near`, or None; a fifth of the cost of `find`."""
        size = max(near.width, near.height)
        centre_x, centre_y = near.centre
        x0, y0 = max(0, round(centre_x - size)), max(0, round(centre_y - size))
        part = rgb[y0 : max(0, round(centre_y + size)), x0 : max(0, round(centre_x + size))]
        if min(part.shape[:2]) < MIN_CASCADE_SIDE:
            return None
        grey, scale = _reduced(part, max(part.shape[:2]) * LOCAL_FACE_SIDE / size)
        sides = (max(MIN_CASCADE_SIDE, int(size * scale * 0.6)), int(size * scale * 1.6))
        # A hit where a face was expected needs no second opinion.
        boxes = self._frontal_boxes(grey, sides, factor=1.1, confirm=False)
        if not boxes and profile:
            boxes = self._profile_boxes(grey, sides)
        found = [_scaled(box, 1 / scale, x0, y0) for box in boxes]
        return max(found, key=lambda box: box.overlap(near), default=None)

    def _frontal_boxes(
        self, grey: NDArray[np.uint8], sides: tuple[int, int], factor: float, confirm: bool = True
    ) -> list[FaceBox]:
        boxes = []
        for square, neighbours in _hits(self._frontal, grey, sides, factor, CONFIRMED_NEIGHBOURS):
            confirmed = neighbours < ALONE_NEIGHBOURS and (not confirm or self._confirms(grey, square))
            if neighbours < ALONE_NEIGHBOURS and not confirmed:
                continue
            x, y, side = square
            width, height = FRONTAL_WIDTH * side, FRONTAL_HEIGHT * side
            middle_x, middle_y = x + side / 2, y + side / 2 + FRONTAL_DY * side
            boxes.append(
                FaceBox(
                    middle_x - width / 2,
                    middle_y - height / 2,
                    width,
                    height,
                    min(1.0, (neighbours + 8 * confirmed) / 24),
                )
            )
        return boxes

    def _confirms(self, grey: NDArray[np.uint8], square: tuple[int, int, int]) -> bool:
        """Whether a second cascade, or an eye in the upper half, agrees that `square` is a face."""
        x, y, side = square
        pad = side // 4
        part = grey[max(0, y - pad) : y + side + pad, max(0, x - pad) : x + side + pad]
        part = np.asarray(cv2.resize(part, None, fx=48 / side, fy=48 / side), np.uint8)
        if _hits(self._second, part, (36, 64), 1.1, CONFIRMED_NEIGHBOURS):
            return True
        upper = np.asarray(cv2.resize(grey[y : y + int(0.6 * side), x : x + side], (96, 58)), np.uint8)
        return bool(_hits(self._eyes, upper, (16, 40), 1.1, CONFIRMED_NEIGHBOURS))

    def _profile_boxes(self, grey: NDArray[np.uint8], sides: tuple[int, int]) -> list[FaceBox]:
        boxes = []
        total = grey.shape[1]
        for mirrored in (False, True):
            view = np.ascontiguousarray(grey[:, ::-1]) if mirrored else grey
            for (x, y, side), neighbours in _hits(self._profile, view, sides, 1.15, ALONE_NEIGHBOURS - 2):
                middle_x = x + side / 2 + PROFILE_DX * side
                middle_x = total - middle_x if mirrored else middle_x
                middle_y = y + side / 2 + PROFILE_DY * side
                width, height = PROFILE_WIDTH * side, PROFILE_HEIGHT * side
                boxes.append(
                    FaceBox(middle_x - width / 2, middle_y - height / 2, width, height, min(0.5, neighbours / 24))
                )
        return boxes


def _cascade(name: str) -> cv2.CascadeClassifier:
    folder = Path(cv2.__file__).parent / "data"  # cv2.data.haarcascades, which the type stubs lack
    cascade = cv2.CascadeClassifier(str(folder / name))
    if cascade.empty():
        raise RuntimeError(f"OpenCV came without its cascade {name}")
    return cascade


def _hits(
    cascade: cv2.CascadeClassifier,
    grey: NDArray[np.uint8],
    sides: tuple[int, int],
    factor: float,
    neighbours: int,
) -> list[tuple[tuple[int, int, int], int]]:
    """((x, y, side), number of agreeing windows) of each hit."""
    low, high = sides
    if min(grey.shape) < low or high < low:
        return []
    squares, counts = cascade.detectMultiScale2(
        grey, scaleFactor=factor, minNeighbors=neighbours, minSize=(low, low), maxSize=(high, high)
    )
    return [((int(s[0]), int(s[1]), int(s[2])), int(n)) for s, n in zip(squares, np.ravel(counts), strict=True)]


def _reduced(rgb: NDArray[np.uint8], longest: float) -> tuple[NDArray[np.uint8], float]:
    """Grey picture with levels spread, at most `longest` px on its longer side; and the scale."""
    scale = min(1.0, longest / max(rgb.shape[:2]))
    if scale < 1.0:
        size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
        # Skipping pixels first costs nothing here: what is left is still above the target size.
        step = max(1, int(0.5 / scale))
        rgb = np.asarray(cv2.resize(rgb[::step, ::step], size, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8), scale


def _scaled(box: FaceBox, factor: float, x0: float, y0: float) -> FaceBox:
    return FaceBox(box.x0 * factor + x0, box.y0 * factor + y0, box.width * factor, box.height * factor, box.confidence)


def _largest_of_each(boxes: list[FaceBox]) -> list[FaceBox]:
    """One box for each face, largest first; a box inside or over a surer one goes."""
    kept: list[FaceBox] = []
    for box in sorted(boxes, key=lambda b: -b.confidence):
        if not any(box.overlap(k) > 0.2 or k.covers_centre_of(box) or box.covers_centre_of(k) for k in kept):
            kept.append(box)
    return sorted(kept, key=lambda b: -b.width * b.height)
