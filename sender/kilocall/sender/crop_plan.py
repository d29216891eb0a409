"""Places for a whole clip, made with a look ahead: as few as hold the face, each as long as possible."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kilocall.proto.errors import BadInput
from kilocall.sender.capture import Frame
from kilocall.sender.crop_place import (
    STRAY_LARGER,
    STRAY_SMALLER,
    STRAY_X,
    STRAY_Y,
    CropPlace,
    as_place,
    as_vector,
    cut,
    ideal_place,
)
from kilocall.sender.face_finder import FaceBox, FaceFinder
from kilocall.sender.face_locator import FaceLocator, LandmarkTracker, SceneCut, no_face

__all__ = ["LOOK_EVERY", "CropPlan", "PlanPart", "plan_crops", "whole_frame"]

EASE_US = 600_000
#: Overlap of the face's boxes before and after a cut of the scene, when both show it at the same place.
SAME_AFTER_CUT = 0.6
#: Frames from one look for the face to the next.
LOOK_EVERY = 5


@dataclass(frozen=True)
class PlanPart:
    """One still place from `start_us` on; `eased`: the crop glides into it rather than jumps."""

    start_us: int
    place: CropPlace
    eased: bool


@dataclass(frozen=True)
class CropPlan:
    """Places for a whole clip, made with a look ahead; the first part also covers all before it."""

    parts: tuple[PlanPart, ...]
    faces: int

    def place_at(self, capture_us: int) -> CropPlace:
        here = 0
        for i, part in enumerate(self.parts[1:], 1):
            if not part.eased and capture_us < part.start_us:
                break
            if part.eased and capture_us < part.start_us - self._half_ease_us(i):
                break
            here = i
        part = self.parts[here]
        if here == 0 or not part.eased:
            return part.place
        half = self._half_ease_us(here)
        share = min(1.0, (capture_us - part.start_us + half) / (2 * half))
        share = share * share * (3 - 2 * share)
        old, new = self.parts[here - 1].place, part.place
        if share >= 1.0:
            return new
        return CropPlace(
            *((1 - share) * p + share * q for p, q in ((old.x0, new.x0), (old.y0, new.y0), (old.side, new.side)))
        )

    def _half_ease_us(self, i: int) -> float:
        """Half the length of the glide into part `i`: glides must not overlap."""
        starts = [part.start_us for part in self.parts]
        room = [EASE_US, starts[i] - starts[i - 1]]
        if i + 1 < len(starts):
            room.append(starts[i + 1] - starts[i])
        return max(1.0, min(room) / 2)


def whole_frame(width: int, height: int, what: str) -> CropPlan:
    """For a clip that was cut to the face before: all of it, which must be square but for a pixel. Raises BadInput,
    which says that `what` is not."""
    if abs(width - height) > 1:
        raise BadInput(
            f"{what} is {width}x{height}: to be taken whole it must be square; --crop face finds the face in it"
        )
    return CropPlan((PlanPart(0, CropPlace(0.0, 0.0, float(max(width, height))), eased=False),), faces=1)


def plan_crops(
    frames: Iterable[Frame],
    tracker: LandmarkTracker | None = None,
    *,
    finder: FaceFinder | None = None,
    every: int = LOOK_EVERY,
    min_confidence: float = 0.5,
) -> CropPlan:
    """First pass over a whole clip: as few places as hold the face, each as long as possible.

    Looks for the face in each `every`-th frame and after cuts. Frames are not kept, so the clip is
    read once more for the crops. Raises NoFace when there is none in the whole clip.
    """
    locator = FaceLocator(tracker, finder or FaceFinder(), min_confidence)
    scene_cut = SceneCut()
    looks: list[tuple[int, FaceBox, bool]] = []
    size = (0, 0)
    faces = count = 0
    for count, frame in enumerate(frames, 1):
        cut_here = scene_cut(frame.rgb)
        if (count - 1) % every and not cut_here:
            continue
        size = (frame.rgb.shape[1], frame.rgb.shape[0])
        jumped = _look(locator, frame.rgb, size, cut_here)
        faces = max(faces, locator.faces)
        if locator.box is not None and locator.found:
            looks.append((frame.capture_us, locator.box, jumped))
    if not looks:
        raise no_face(count)
    return CropPlan(tuple(_parts(looks, size)), faces)


def _look(locator: FaceLocator, rgb: NDArray[np.uint8], size: tuple[int, int], cut_here: bool) -> bool:
    """One look of the planning pass; True when the face is not where it was."""
    before = locator.box
    if before is None or cut_here:
        locator.search(rgb, at_once=True)
    elif locator.tracker is None:
        near = locator.finder.find_near(rgb, before)
        if near is None:
            locator.search(rgb, at_once=True)
        else:
            locator.box = near
    if locator.tracker is not None:
        for _ in range(2):
            if locator.box is not None:
                locator.track(*cut(rgb, ideal_place(locator.box, size)))
        locator.check(rgb)
    now = locator.box
    # Behind a cut of the scene nothing glides that is not where it was.
    return before is not None and now is not None and now.overlap(before) < (SAME_AFTER_CUT if cut_here else 0.1)


def _parts(looks: list[tuple[int, FaceBox, bool]], size: tuple[int, int]) -> Iterable[PlanPart]:
    """Greedy: each part takes looks for as long as one place serves all of them."""
    places = [as_vector(ideal_place(box, size)) for _, box, _ in looks]
    start = 0
    for end in range(1, len(looks) + 1):
        if end < len(looks) and not looks[end][2] and _shared(np.array(places[start : end + 1])) is not None:
            continue
        place = _shared(np.array(places[start:end]))
        assert place is not None  # one look alone always has a place
        jumped = looks[start][2]
        begin = looks[start][0] if jumped or start == 0 else (looks[start - 1][0] + looks[start][0]) // 2
        yield PlanPart(begin, as_place(place), eased=start > 0 and not jumped)
        start = end


def _shared(ideals: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """A place [3] from which none of `ideals` [N, 3] strays too far, as near to their median as it can be."""
    low, high = ideals.min(axis=0), ideals.max(axis=0)
    if high[2] - low[2] > math.log(STRAY_LARGER / STRAY_SMALLER):
        return None
    log_side = min(
        max(float(np.median(ideals[:, 2])), high[2] - math.log(STRAY_LARGER)),
        low[2] - math.log(STRAY_SMALLER),
    )
    reach = math.exp(log_side) * np.array([STRAY_X, STRAY_Y])
    least, most = high[:2] - reach, low[:2] + reach
    if (least > most).any():
        return None
    centre = np.minimum(np.maximum(np.median(ideals[:, :2], axis=0), least), most)
    return np.array([*centre, log_side])
