"""Cuts a steady 256x256 picture of the face out of each frame, live or by a plan of the whole clip.

The crop stands still while the face stays well inside, and glides to a new place only when it must (`reframe.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kilocall.model.family import Track
from kilocall.sender.capture import Frame
from kilocall.sender.crop_place import (
    CROP_SIDE,
    CropPlace,
    box_from_landmarks,
    cut,
    holds,
    ideal_place,
    middle,
    paste_back_matrix,
)
from kilocall.sender.crop_plan import CropPlan, plan_crops
from kilocall.sender.face_finder import FaceFinder
from kilocall.sender.face_locator import FaceLocator, LandmarkTracker, SceneCut, find_first_face
from kilocall.sender.reframe import ReframePolicy

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


@dataclass(frozen=True)
class FaceCrop:
    """What the cropper makes of one frame.

    `rgb` uint8 [256, 256, 3]; `place` is exactly what was cut. `found`: there is a face at `place`.
    `faces`: how many were seen at the last count. `reframed`: the place differs from that of the
    frame before. `track` is None without a tracker, and in a frame in which nothing was tracked.
    """

    rgb: NDArray[np.uint8]
    place: CropPlace
    found: bool
    faces: int
    reframed: bool
    track: Track | None = None


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
        track = self._tracker.track(crop)
        return FaceCrop(crop, place, track.certainty >= self._min_confidence, self._plan.faces, False, track)

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
        crop, place = cut(rgb, self._policy.place or middle(size))
        if locator.box is not None:
            locator.track(crop, place)
            if locator.check(rgb) and locator.box is not None:
                self._settle(rgb, self._policy)
                crop, place = cut(rgb, self._policy.place or middle(size))
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
            locator.found_track,
        )
        if locator.box is not None and locator.found:
            elapsed_us = 0 if self._last_us is None else frame.capture_us - self._last_us
            self._policy.step(locator.box, elapsed_us / 1e6)
        return result

    def _settle(self, rgb: NDArray[np.uint8], policy: ReframePolicy) -> None:
        """Takes up a newly found face. A face that comes back to where it was keeps its place."""
        box = self._locator.box
        assert box is not None
        if policy.place is not None and holds(policy.place, box, policy.frame_size):
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
