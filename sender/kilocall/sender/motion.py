"""Motion extraction: face crops to steady motion against one source picture."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kilocall.model.family import Family, Picture, Source, Track, retarget
from kilocall.model.motion import POSE_NUMBERS, Motion
from kilocall.sender.keypoint_aligner import KeypointAligner
from kilocall.sender.speaker_check import Speaker, SpeakerCheck

# One Euro (Casiez et al. 2012): cut-off in Hz at rest, and how fast it opens with speed. Lids and lips move within
# two frames, so the expression is hardly filtered; poses carry the jitter that makes a still head tremble.
POSE_CUTOFF_HZ = 3.0
EXPRESSION_CUTOFF_HZ = 6.0
POSE_OPENING = 25.0
EXPRESSION_OPENING = 12.0
SPEED_CUTOFF_HZ = 4.0
# A longer pause is a new beginning.
LONGEST_GAP_S = 0.5


class OneEuroFilter:
    """Low-pass filter of a vector [D] whose cut-off opens with its speed: steady at rest, no lag in motion."""

    def __init__(self, cutoff_hz: NDArray[np.float64], opening: NDArray[np.float64]) -> None:
        self.cutoff_hz, self.opening = cutoff_hz, opening
        self.reset()

    def reset(self) -> None:
        self._value: NDArray[np.float64] | None = None
        self._speed = np.zeros_like(self.cutoff_hz)
        self._time_us = 0

    def __call__(self, value: NDArray[np.float32], time_us: int) -> NDArray[np.float32]:
        elapsed = (time_us - self._time_us) / 1e6
        self._time_us = time_us
        if self._value is None or not 0 < elapsed < LONGEST_GAP_S:
            self._value, self._speed = value.astype(np.float64), np.zeros_like(self.cutoff_hz)
            return value
        keep = _share(np.full_like(self.cutoff_hz, SPEED_CUTOFF_HZ), elapsed)
        self._speed += keep * ((value - self._value) / elapsed - self._speed)
        self._value = self._value + _share(self.cutoff_hz + self.opening * np.abs(self._speed), elapsed) * (
            value - self._value
        )
        return self._value.astype(np.float32)


def _share(cutoff_hz: NDArray[np.float64], elapsed: float) -> NDArray[np.float64]:
    """Share of the new value that a first-order low-pass takes."""
    turn = 2 * math.pi * cutoff_hz * elapsed
    share: NDArray[np.float64] = turn / (turn + 1)
    return share


class MotionExtractor:
    """Follows one speaker: crop in, Motion out. The state is the last fit and the filter's.

    With `target`, the picture of somebody else, the speaker is followed against `source` and what changes is applied
    to the other picture (relative motion).

    Nobody else than the speaker moves a picture of the speaker: frames that may show another person hold the motion
    before them, and when that lasts the source picture rests.
    """

    def __init__(
        self,
        family: Family,
        source: Source,
        *,
        target: Source | None = None,
        smooth: bool = True,
        check_speaker: bool = True,
    ) -> None:
        self.family, self.source, self.target = family, source, target
        size = len(source.pose.vector)
        pose = np.arange(size) < POSE_NUMBERS
        self._filter = OneEuroFilter(
            np.where(pose, POSE_CUTOFF_HZ, EXPRESSION_CUTOFF_HZ),
            np.where(pose, POSE_OPENING, EXPRESSION_OPENING),
        )
        self.smooth = smooth
        # On somebody else's picture there is nothing to lie on.
        self.keypoint_aligner = KeypointAligner(family, source) if target is None else None
        self.check_speaker = check_speaker
        self._check = SpeakerCheck()
        self.other_frames = 0
        """Frames so far that were not taken for the speaker's."""
        self.reset()

    def reset(self) -> None:
        """The next frame starts anew: after a cut or another speaker."""
        self._previous: Motion | None = None
        self._track: Track | None = None
        #: Of the last frame, as its landmarks and the detector have it; None if it may be of somebody else.
        self.plain: Motion | None = None
        self._given: Motion | None = None
        if self.keypoint_aligner is not None:
            self.keypoint_aligner.reset()
        self._filter.reset()

    @property
    def speaker(self) -> Speaker:
        """Whom the last frames show."""
        return self._check.speaker

    @property
    def rest(self) -> Motion:
        """That of the picture that is shown: nothing moves."""
        return (self.source if self.target is None else self.target).pose

    def extract(self, crop: Picture, time_us: int) -> Motion:
        return self.from_track(self.track(crop), time_us)

    def track(self, crop: Picture) -> Track:
        """Finds the face in the next frame's crop."""
        self._track = self.family.track(crop, self._track)
        return self._track

    def from_track(self, track: Track, time_us: int) -> Motion:
        """Where the landmarks are known already (the cropper finds them too)."""
        fitted = self.family.motion(track, self.source, self._previous)
        self._previous = fitted
        self.plain = fitted
        if self.keypoint_aligner is not None:
            fitted = self.keypoint_aligner.align(fitted, track)
            speaker = self._check.look(self.keypoint_aligner.likeness, time_us)
            if self.check_speaker and speaker != "same":
                self.plain = None
                self.other_frames += 1
                return self.rest if speaker == "another" or self._given is None else self._given
        motion = Motion.from_vector(self._filter(fitted.vector, time_us)) if self.smooth else fitted
        self._given = retarget(motion, self.source.pose, self.target.pose) if self.target else motion
        return self._given
