"""Cuts a steady 256x256 picture of the face out of each frame.

The crop stands still while the face stays well inside, and glides to a new place only when it must:
a background that swims costs more bits and more trust than a face that is not quite centred. The
proportions are those of the pictures that the networks were trained on.

Places and boxes are in frame pixels, with 0 at the outer edge of the first pixel.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.proto.errors import NoFace
from kilocall.sender.capture import Frame
from kilocall.sender.face_finder import FaceBox, FaceFinder

__all__ = [
    "CROP_SIDE",
    "CropPlace",
    "CropPlan",
    "FaceCrop",
    "FaceCropper",
    "LandmarkTracker",
    "ReframePolicy",
    "box_from_landmarks",
    "cut",
    "find_first_face",
    "ideal_place",
    "paste_back_matrix",
    "plan_crops",
]

logger = logging.getLogger(__name__)

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
EDGE_MARGIN = 0.02

GLIDE_RATE = 8.0  # 1/s; critically damped: 95 % of the way after 0.6 s
MAX_SPEED = 1.5  # crop sides per second
PATIENCE = 3  # frames that must agree before the crop leaves its place
JUMP = 0.5  # crop sides between two looks: a cut, not a walk

EASE_US = 600_000
VERIFY_EVERY = 25  # frames between cheap checks of a followed face
COUNT_EVERY = 100  # frames between counts of all faces
HAAR_EVERY = 5  # frames between looks when there is no landmark tracker, or no face
WEAK_FRAMES = 5  # weak landmark frames before the cascades look again
MISSES = 12  # looks in a row without a face before the whole picture is searched
CUT_LEVEL = 24.0  # mean grey difference of two thumbnails that means a new scene


@dataclass(frozen=True)
class CropPlace:
    """A square of the frame: outer corner and side in pixels, may reach past the border."""

    x0: float
    y0: float
    side: float


@dataclass(frozen=True)
class FaceCrop:
    """What the cropper makes of one frame.

    `rgb` uint8 [256, 256, 3]; `place` is exactly what was cut. `found`: there is a face at `place`.
    `faces`: how many were seen at the last count. `reframed`: the place differs from that of the
    frame before. `landmarks` [K, 2] in [-1, 1] over the crop with their `confidence`, None without a
    tracker.
    """

    rgb: NDArray[np.uint8]
    place: CropPlace
    found: bool
    faces: int
    reframed: bool
    landmarks: NDArray[np.float32] | None = None
    confidence: float = 0.0


class LandmarkTracker(Protocol):
    """Finds landmarks in a crop; the points must reach from ear to ear and from hair line to chin."""

    def landmarks(self, crop_rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
        """Points [K, 2] in [-1, 1] over the crop [256, 256, 3], and a confidence 0..1."""
        ...


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


def cut(
    rgb: NDArray[np.uint8], place: CropPlace, size: int = CROP_SIDE
) -> tuple[NDArray[np.uint8], CropPlace]:
    """The crop [size, size, 3] and the place that was really cut; past the border the frame is mirrored.

    From `size` px up the place is rounded to whole pixels (at most 0.5 px of the crop) so that area
    averaging can reduce it without aliasing; smaller ones are enlarged in place.
    """
    if place.side < size:
        inverse = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        crop = cv2.warpAffine(
            rgb,
            paste_back_matrix(place, size),
            (size, size),
            flags=inverse,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        return np.asarray(crop, np.uint8), place
    x0, y0, side = round(place.x0), round(place.y0), round(place.side)
    height, width = rgb.shape[:2]
    left, top = max(0, x0), max(0, y0)
    right, bottom = min(width, x0 + side), min(height, y0 + side)
    if right - left < 1 or bottom - top < 1:
        raise ValueError(f"crop {x0},{y0} side {side} lies outside the {width}x{height} frame")
    part = rgb[top:bottom, left:right]
    if part.shape[:2] != (side, side):
        part = np.asarray(
            cv2.copyMakeBorder(
                part, top - y0, y0 + side - bottom, left - x0, x0 + side - right, cv2.BORDER_REFLECT_101
            ),
            np.uint8,
        )
    crop = cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(crop, np.uint8), CropPlace(float(x0), float(y0), float(side))


class ReframePolicy:
    """Decides when the crop moves, and how: stands still, glides when it must, jumps at a cut.

    Causal and free of pictures: boxes in, places out.
    """

    def __init__(self, frame_size: tuple[int, int]) -> None:
        self.frame_size = frame_size
        self._place: NDArray[np.float64] | None = None  # centre x, centre y, log side
        self._velocity = np.zeros(3)
        self._target = np.zeros(3)
        self._moving = False
        self._strikes = 0

    @property
    def place(self) -> CropPlace | None:
        """Where to cut now; None before the first box."""
        return None if self._place is None else _as_place(self._place)

    @property
    def moving(self) -> bool:
        return self._moving

    def restart(self, box: FaceBox) -> CropPlace:
        """Jumps to `box`: the first one, or another scene."""
        self._place = _as_vector(ideal_place(box, self.frame_size))
        self._velocity = np.zeros(3)
        self._moving = False
        self._strikes = 0
        return _as_place(self._place)

    def step(self, box: FaceBox, elapsed_s: float) -> CropPlace:
        """Place for the next frame, given the box of this one and the time since the one before."""
        if self._place is None:
            return self.restart(box)
        ideal = _as_vector(ideal_place(box, self.frame_size))
        stray = self._stray(ideal)
        if max(abs(stray[0]), abs(stray[1])) > JUMP:
            return self.restart(box)
        outside = self._outside(box)
        if not self._moving:
            holds = _holds(_as_place(self._place), box, self.frame_size)
            self._strikes = 0 if holds else self._strikes + 1
            if self._strikes < PATIENCE and not outside:
                return _as_place(self._place)
            self._moving = True
            self._strikes = 0
            self._target = ideal
        self._glide(ideal, min(max(elapsed_s, 0.0), 0.5))
        self._keep_inside(box)
        return _as_place(self._place)

    def _stray(self, ideal: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far `ideal` is from the present place: x and y in sides, size as logarithm."""
        assert self._place is not None
        side = math.exp(self._place[2])
        stray: NDArray[np.float64] = (ideal - self._place) / np.array([side, side, 1.0])
        return stray

    def _outside(self, box: FaceBox) -> bool:
        assert self._place is not None
        place = _as_place(self._place)
        margin = EDGE_MARGIN * place.side
        return (
            box.x0 < place.x0 + margin
            or box.y0 < place.y0 + margin
            or box.x0 + box.width > place.x0 + place.side - margin
            or box.y0 + box.height > place.y0 + place.side - margin
        )

    def _glide(self, ideal: NDArray[np.float64], elapsed_s: float) -> None:
        """One exact step of a critically damped spring towards the target."""
        assert self._place is not None
        side = math.exp(self._place[2])
        unit = np.array([side, side, 1.0])
        # The target has a dead zone too, or the jitter of the box would be followed while gliding.
        if np.abs((ideal - self._target) / unit).max() > 0.04:
            self._target = ideal
        away = self._place - self._target
        pull = self._velocity + GLIDE_RATE * away
        decay = math.exp(-GLIDE_RATE * elapsed_s)
        move = self._target + (away + pull * elapsed_s) * decay - self._place
        self._velocity = (self._velocity - GLIDE_RATE * pull * elapsed_s) * decay
        longest = float(np.hypot(*(move[:2] / side)))
        if longest > MAX_SPEED * elapsed_s:
            shorten = MAX_SPEED * elapsed_s / longest
            move[:2] *= shorten
            self._velocity[:2] *= shorten
        self._place = self._place + move
        rest = np.abs((self._place - self._target) / unit).max()
        if rest < 0.004 and np.abs(self._velocity / unit).max() < 0.05:
            self._moving = False
            self._velocity = np.zeros(3)

    def _keep_inside(self, box: FaceBox) -> None:
        """The last resort for a face that outruns the glide: the crop takes it along."""
        assert self._place is not None
        self._place[2] = max(self._place[2], math.log(max(box.width, box.height)))
        half = math.exp(self._place[2]) / 2
        for axis, (start, length) in enumerate(((box.x0, box.width), (box.y0, box.height))):
            self._place[axis] = min(max(self._place[axis], start + length - half), start + half)


def _as_vector(place: CropPlace) -> NDArray[np.float64]:
    return np.array([place.x0 + place.side / 2, place.y0 + place.side / 2, math.log(place.side)])


def _as_place(vector: NDArray[np.float64]) -> CropPlace:
    side = math.exp(vector[2])
    return CropPlace(float(vector[0] - side / 2), float(vector[1] - side / 2), side)


class SceneCut:
    """Tells when a picture has nothing to do with the one before."""

    def __init__(self) -> None:
        self._last: NDArray[np.float32] | None = None

    def __call__(self, rgb: NDArray[np.uint8]) -> bool:
        step = max(1, min(rgb.shape[:2]) // 64)
        small = cv2.resize(
            np.ascontiguousarray(rgb[::step, ::step, 1]), (32, 32), interpolation=cv2.INTER_AREA
        )
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
        self.landmarks: NDArray[np.float32] | None = None
        self.confidence = 0.0
        self._weak = 0
        self._misses = 0
        self._age = 0
        self._wait = 0
        self._hurry = False

    def next_frame(self) -> None:
        """Forgets what belongs to one frame only."""
        self.landmarks, self.confidence = None, 0.0

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
        points, confidence = self.tracker.landmarks(crop)
        self.landmarks, self.confidence = np.asarray(points, np.float32), float(confidence)
        # A collapsed or exploded set of points is no face, whatever its confidence says.
        spread = float(np.ptp(self.landmarks, axis=0).max())
        if not 0.3 < spread < 3.0:  # also where a point is not a number
            self.confidence = 0.0
        if self.confidence < self.min_confidence:
            self._weak += 1
            return
        self._weak = 0
        self.box = box_from_landmarks(self.landmarks, place, self.confidence)

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
        (1 - share) * p + share * q
        for p, q in ((a.x0, b.x0), (a.y0, b.y0), (a.width, b.width), (a.height, b.height))
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
    raise _no_face(count)


def _no_face(count: int) -> NoFace:
    wanted = "faces must look at the camera and be wider than 8 % of the frame's longer side"
    return NoFace(f"no face in any of {count} frames; {wanted}")


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
            *(
                (1 - share) * p + share * q
                for p, q in ((old.x0, new.x0), (old.y0, new.y0), (old.side, new.side))
            )
        )

    def _half_ease_us(self, i: int) -> float:
        """Half the length of the glide into part `i`: glides must not overlap."""
        starts = [part.start_us for part in self.parts]
        room = [EASE_US, starts[i] - starts[i - 1]]
        if i + 1 < len(starts):
            room.append(starts[i + 1] - starts[i])
        return max(1.0, min(room) / 2)


def plan_crops(
    frames: Iterable[Frame],
    tracker: LandmarkTracker | None = None,
    *,
    finder: FaceFinder | None = None,
    every: int = 5,
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
        raise _no_face(count)
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
    return before is not None and now is not None and now.overlap(before) < 0.1


def _parts(looks: list[tuple[int, FaceBox, bool]], size: tuple[int, int]) -> Iterable[PlanPart]:
    """Greedy: each part takes looks for as long as one place serves all of them."""
    places = [_as_vector(ideal_place(box, size)) for _, box, _ in looks]
    start = 0
    for end in range(1, len(looks) + 1):
        if end < len(looks) and not looks[end][2] and _shared(np.array(places[start : end + 1])) is not None:
            continue
        place = _shared(np.array(places[start:end]))
        assert place is not None  # one look alone always has a place
        jumped = looks[start][2]
        begin = looks[start][0] if jumped or start == 0 else (looks[start - 1][0] + looks[start][0]) // 2
        yield PlanPart(begin, _as_place(place), eased=start > 0 and not jumped)
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


class FaceCropper:
    """Frames in, face crops out, one at a time.

    Live (no `plan`) it knows only the past; with a plan from `plan_crops` it follows that. Without a
    `tracker` the cascades alone find the face, coarser and some frames late. `on_warning` gets each
    warning once, as a sentence. Before the first face the crop is the middle of the frame.
    """

    def __init__(
        self,
        tracker: LandmarkTracker | None = None,
        *,
        plan: CropPlan | None = None,
        finder: FaceFinder | None = None,
        min_confidence: float = 0.5,
        on_warning: Callable[[str], None] | None = None,
    ) -> None:
        self._tracker = tracker
        self._plan = plan
        self._finder = finder or FaceFinder()
        self._min_confidence = min_confidence
        self._on_warning = on_warning
        self._warned = False
        self.reset()

    def reset(self) -> None:
        """Forgets the face; the next frame starts anew."""
        self._locator = FaceLocator(self._tracker, self._finder, self._min_confidence)
        self._scene_cut = SceneCut()
        self._policy: ReframePolicy | None = None
        self._last_place: CropPlace | None = None
        self._last_us: int | None = None

    def crop(self, frame: Frame) -> FaceCrop:
        """The face of `frame`. Frames must come in the order of their times."""
        result = self._planned(frame) if self._plan is not None else self._live(frame)
        reframed = self._last_place is not None and result.place != self._last_place
        self._last_place = result.place
        self._last_us = frame.capture_us
        if result.faces > 1 and not self._warned:
            self._warned = True
            self._warn(f"{result.faces} faces in the picture: following the largest one")
        return replace(result, reframed=reframed)

    def _planned(self, frame: Frame) -> FaceCrop:
        assert self._plan is not None
        crop, place = cut(frame.rgb, self._plan.place_at(frame.capture_us))
        if self._tracker is None:
            return FaceCrop(crop, place, True, self._plan.faces, False)
        points, confidence = self._tracker.landmarks(crop)
        return FaceCrop(
            crop, place, confidence >= self._min_confidence, self._plan.faces, False, points, confidence
        )

    def _live(self, frame: Frame) -> FaceCrop:
        rgb, locator = frame.rgb, self._locator
        size = (rgb.shape[1], rgb.shape[0])
        if self._policy is not None and self._policy.frame_size != size:
            self.reset()
            locator = self._locator
        if self._policy is None:
            self._policy = ReframePolicy(size)
        locator.next_frame()
        new_scene = self._scene_cut(rgb)
        if locator.box is None or new_scene:
            lost = locator.box is None
            moved = locator.search(rgb, at_once=new_scene)
            if locator.box is not None and (moved or lost or new_scene):
                self._settle(rgb, self._policy)
        crop, place = cut(rgb, self._policy.place or _middle(size))
        if locator.box is not None:
            locator.track(crop, place)
            if locator.check(rgb) and locator.box is not None:
                self._settle(rgb, self._policy)
                crop, place = cut(rgb, self._policy.place or _middle(size))
                locator.track(crop, place)
        elif self._policy.place is not None:
            # Whoever was hidden mostly comes back to the same place; this look is cheap and finds them at once.
            locator.track(crop, place)
            if locator.box is None:
                locator.next_frame()
        result = FaceCrop(
            crop,
            place,
            locator.found,
            locator.faces if locator.found else 0,
            False,
            locator.landmarks,
            locator.confidence,
        )
        if locator.box is not None and locator.found:
            elapsed_us = 0 if self._last_us is None else frame.capture_us - self._last_us
            self._policy.step(locator.box, elapsed_us / 1e6)
        return result

    def _settle(self, rgb: NDArray[np.uint8], policy: ReframePolicy) -> None:
        """Takes up a newly found face. A face that comes back to where it was keeps its place."""
        box = self._locator.box
        assert box is not None
        if policy.place is not None and _holds(policy.place, box, policy.frame_size):
            return
        policy.restart(box)
        if self._tracker is None:
            return
        # The cascade's box is 5 to 10 % off; landmarks put it right before the first crop is used.
        for _ in range(2):
            assert policy.place is not None
            self._locator.track(*cut(rgb, policy.place))
            policy.restart(self._locator.box or box)

    def _warn(self, message: str) -> None:
        logger.warning(message)
        if self._on_warning is not None:
            self._on_warning(message)


def _holds(place: CropPlace, box: FaceBox, frame_size: tuple[int, int]) -> bool:
    """Whether the crop at `place` need not move for `box`."""
    x, y, size = _as_vector(ideal_place(box, frame_size)) - _as_vector(place)
    return bool(
        abs(x) <= STRAY_X * place.side
        and abs(y) <= STRAY_Y * place.side
        and math.log(STRAY_SMALLER) < size < math.log(STRAY_LARGER)
    )


def _middle(frame_size: tuple[int, int]) -> CropPlace:
    side = float(min(frame_size))
    return CropPlace((frame_size[0] - side) / 2, (frame_size[1] - side) / 2, side)
