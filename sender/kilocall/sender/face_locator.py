"""Finds one face and follows it from frame to frame: cascades to find it and check on it, landmarks in between."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.model.family import Track
from kilocall.proto.errors import NoFace
from kilocall.sender.capture import Frame
from kilocall.sender.crop_place import CropPlace, box_from_landmarks
from kilocall.sender.face_finder import FaceBox, FaceFinder

__all__ = ["FaceLocator", "LandmarkTracker", "SceneCut", "find_first_face", "no_face"]

VERIFY_EVERY = 25  # frames between cheap checks of a followed face
COUNT_EVERY = 100  # frames between counts of all faces
HAAR_EVERY = 5  # frames between looks when there is no landmark tracker, or no face
WEAK_FRAMES = 5  # weak landmark frames before the cascades look again
MISSES = 12  # looks in a row without a face before the whole picture is searched
CUT_LEVEL = 24.0  # mean grey difference of two thumbnails that means a new scene


class LandmarkTracker(Protocol):
    """Finds landmarks in a crop; the points must reach from ear to ear and from hair line to chin."""

    def track(self, crop_rgb: NDArray[np.uint8]) -> Track:
        """Of a crop [256, 256, 3]."""
        ...


class SceneCut:
    """Tells when a picture has nothing to do with the one before."""

    def __init__(self) -> None:
        self._last: NDArray[np.float32] | None = None

    def __call__(self, rgb: NDArray[np.uint8]) -> bool:
        step = max(1, min(rgb.shape[:2]) // 64)
        small = cv2.resize(np.ascontiguousarray(rgb[::step, ::step, 1]), (32, 32), interpolation=cv2.INTER_AREA)
        grey = np.asarray(small, np.float32)
        last, self._last = self._last, grey
        return last is not None and float(np.abs(grey - last).mean()) > CUT_LEVEL


class FaceLocator:
    """Follows one face: cascades to find it and check on it, landmarks from frame to frame.

    The largest face is taken and kept, even when another one grows larger.
    """

    def __init__(self, tracker: LandmarkTracker | None, finder: FaceFinder, min_confidence: float) -> None:
        self.tracker = tracker
        self.finder = finder
        self.min_confidence = min_confidence
        self.box: FaceBox | None = None
        self.faces = 0
        self.found_track: Track | None = None
        """Of this frame; one that makes no sense has no certainty."""
        self._weak = 0
        self._misses = 0
        self._age = 0
        self._wait = 0
        self._hurry = False

    def next_frame(self) -> None:
        """Forgets what belongs to one frame only."""
        self.found_track = None

    def search(self, rgb: NDArray[np.uint8], at_once: bool = False) -> bool:
        """Looks through the whole picture; True when `box` is now another place than before.

        Without a face only each fifth call looks, because a fruitless search is the dearest one.
        """
        if self.box is None and not at_once and self._wait > 0:
            self._wait -= 1
            return False
        boxes = self.finder.find(rgb)
        self.faces = len(boxes)
        self._weak = self._misses = self._age = 0
        self._hurry = False
        before = self.box
        if not boxes:
            self.box = None
            self._wait = HAAR_EVERY - 1
            return False
        same = [box for box in boxes if before is not None and box.overlap(before) > 0.2]
        self.box = max(same, key=lambda box: box.overlap(before)) if same and before is not None else boxes[0]
        return not same

    def track(self, crop: NDArray[np.uint8], place: CropPlace) -> None:
        """Landmarks of `crop`, and from them the box."""
        if self.tracker is None:
            return
        found = self.tracker.track(crop)
        # A collapsed or exploded set of points is no face, however certain it is said to be.
        if not 0.3 < float(np.ptp(found.points, axis=0).max()) < 3.0:  # also where a point is not a number
            found = replace(found, certainty=0.0)
        self.found_track = found
        if found.certainty < self.min_confidence:
            self._weak += 1
            return
        self._weak = 0
        self.box = box_from_landmarks(found.points, place, found.certainty)

    def check(self, rgb: NDArray[np.uint8]) -> bool:
        """To be called once a frame after `track`; True when the face turned out to be elsewhere."""
        if self.box is None:
            return False
        self._age += 1
        if self._weak >= WEAK_FRAMES:
            return self.search(rgb)
        if self._age % COUNT_EVERY == 0:
            self.faces = max(1, len(self.finder.find(rgb)))
        if self.tracker is None:
            return (self._hurry or self._age % HAAR_EVERY == 0) and self._follow_by_cascade(rgb)
        if self._age % VERIFY_EVERY == 0 and self.finder.find_near(rgb, self.box) is None:
            return self._doubt(rgb)
        return False

    def _follow_by_cascade(self, rgb: NDArray[np.uint8]) -> bool:
        assert self.box is not None
        seen = self.finder.find_near(rgb, self.box)
        if seen is None:
            self._misses += 1
            self._hurry = True
            # One blink of the cascade is no reason to leave.
            return self.search(rgb) if self._misses > MISSES else False
        self._misses = 0
        away = math.dist(seen.centre, self.box.centre) / max(self.box.width, self.box.height)
        # Cascade boxes jitter by 2 to 3 % of a face: small differences are averaged away, a walk is followed.
        self._hurry = away > 0.10
        self.box = _between(self.box, seen, min(1.0, max(0.4, away / 0.25)))
        return False

    def _doubt(self, rgb: NDArray[np.uint8]) -> bool:
        """The cascades see no face where the tracker is: right only if they see one elsewhere."""
        boxes = self.finder.find(rgb)
        if not boxes or self.box is None or any(box.overlap(self.box) > 0.2 for box in boxes):
            return False  # turned heads escape the cascades, not the tracker
        self.faces = len(boxes)
        self.box = boxes[0]
        return True

    @property
    def found(self) -> bool:
        return self.box is not None and self._weak < WEAK_FRAMES


def _between(a: FaceBox, b: FaceBox, share: float) -> FaceBox:
    x0, y0, width, height = (
        (1 - share) * p + share * q for p, q in ((a.x0, b.x0), (a.y0, b.y0), (a.width, b.width), (a.height, b.height))
    )
    return FaceBox(x0, y0, width, height, b.confidence)


def find_first_face(frames: Iterable[Frame], finder: FaceFinder | None = None) -> tuple[Frame, FaceBox]:
    """The first frame with a face, and its largest face. Raises NoFace when no frame has one."""
    finder = finder or FaceFinder()
    count = 0
    for frame in frames:
        count += 1
        boxes = finder.find(frame.rgb)
        if boxes:
            return frame, boxes[0]
    raise no_face(count)


def no_face(count: int) -> NoFace:
    """What to raise when there was none in `count` frames."""
    wanted = "faces must look at the camera and be wider than 8 % of the frame's longer side"
    return NoFace(f"no face in any of {count} frames; {wanted}")
