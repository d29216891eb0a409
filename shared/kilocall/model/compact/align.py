"""Aligns the implicit keypoints so that the receiver's copy of the source picture lies on what the camera sees.

The detector finds them in one picture without knowing another, to four pixels or so. The sender holds the source
picture too: it asks the receiver's motion field where every place of the frame would be fetched from, compares the
copy with the frame, and moves the points by one Gauss-Newton step (Lucas and Kanade 1981) a frame:

    I_s(p + d(p)) - I(p)   in grey levels, at the 64x64 places of the motion field
    d(p) moves by -m_k(p)  for each unit that implicit keypoint k moves, m_k as in `renderer.py`

How far the points were moved is kept for the next frame, which starts there: after a few frames the steps are small.
The network that makes the field takes most of the time, so its field is held for a few frames while little moves. No
more numbers are sent, and a receiver need not know of it.
"""

from __future__ import annotations

from typing import Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.model import landmarks as lm
from kilocall.model.compact.held_field import HeldField
from kilocall.model.compact.likeness import MOST_TURNED, face_colour, face_mask, likeness, turned_apart
from kilocall.model.family import Array, Picture, Source, Track
from kilocall.model.interior import BASIS
from kilocall.model.motion import Motion
from kilocall.runtime.engine import Network

__all__ = ["LOOK", "Alignment", "CompactAligner", "look_at"]

#: Side of the grey source picture that copies are fetched from, twice the motion field's.
LOOK: Final = 128
#: Its blur, pixels (standard deviation).
BLUR: Final = 1.0
#: Grey levels; larger differences are something else than a shift and count little (Cauchy's weight).
ROBUST: Final = 12.0
#: Contrast of frame and copy is made equal up to here.
MOST_GAIN: Final = 2.0
#: Keeps points where they are that hardly move anything: grey levels squared a pixel squared, summed over the field.
DAMPING: Final = 250.0
#: So much of what the detector says has moved since the frame before is believed before the step: all of it trembles,
#: none of it lags.
BELIEVED: Final = 0.5
#: Share of the distance from the detector's points that a frame forgets: a wrong track heals within a second or two.
FORGET: Final = 0.03
#: Furthest step of a frame and furthest distance from the detector's points, crop units: 4 and 20 pixels of 256.
MOST_STEP: Final = 4 / 128
MOST_APART: Final = 20 / 128


def look_at(crop: Picture) -> NDArray[np.uint8]:
    """What is compared of a frame's crop [S, S, 3]: grey at the places of the motion field [LOOK / 2, LOOK / 2]."""
    half = (LOOK // 2, LOOK // 2)
    return np.asarray(np.rint(cv2.resize(_smooth(crop), half, interpolation=cv2.INTER_AREA)), np.uint8)


class Alignment:
    """How far one speaker's implicit keypoints are from where the detector has them, frame after frame."""

    def __init__(self, picture: Picture) -> None:
        """`picture` [S, S, 3]: the source."""
        # A frame is seen as means of 2x2 pixels, so the copy is fetched from such means; they lie between the pixels.
        grey = cv2.blur(_smooth(picture), (2, 2), borderType=cv2.BORDER_REPLICATE)
        slopes = (cv2.Sobel(grey, -1, int(axis == 0), int(axis == 1), scale=1 / 8) for axis in (0, 1))
        self._source = np.dstack((grey, *slopes))  # grey, its slope to the right, its slope downwards
        line = np.arange(1, LOOK, 2, dtype=np.float32)
        self._still = np.dstack(np.meshgrid(line, line))
        self.reset()

    def reset(self) -> None:
        """The next frame starts where the detector has the points."""
        self.moved: Array | None = None
        """[N, 2], crop units."""
        self._detected: Array | None = None

    def expect(self, detected: Array) -> None:
        """The next frame, whose points the detector has at `detected` [N, 2]."""
        if self.moved is not None and self._detected is not None:
            kept = self.moved - (1 - BELIEVED) * (detected - self._detected)
            self.moved = np.clip(kept * (1 - FORGET), -MOST_APART, MOST_APART).astype(np.float32)
        self._detected = detected

    def apply(self, keypoints: Array) -> Array:
        """Driving keypoints [K, 2], the implicit ones as far moved as so far."""
        if self.moved is None:
            return keypoints
        return np.concatenate((keypoints[: -len(self.moved)], keypoints[-len(self.moved) :] + self.moved))

    def step(self, look: NDArray[np.uint8], displacement: Array, follows: Array) -> Array:
        """A frame's `look` for which the field with the points as moved so far is `displacement` [F, F, 2]; `follows`
        [N, F, F] is how far each place goes with each point. Returns the copy before the step, grey [F, F]."""
        count = len(follows)
        before = np.zeros((count, 2), np.float32) if self.moved is None else self.moved
        # Crop units are half a picture wide.
        where = self._still + displacement * np.float32(LOOK / 2)
        fetched = cv2.remap(self._source, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
        copy, right, down = cv2.split(fetched)
        # A camera that gets brighter has moved nothing: the frame is seen in the light of the copy.
        gain = np.clip(copy.std() / max(1.0, float(look.std())), 1 / MOST_GAIN, MOST_GAIN)
        apart = ((look - look.mean()) * gain + copy.mean() - copy).astype(np.float32)
        weight = 1 / (1 + (apart * (1 / ROBUST)) ** 2)
        slopes = np.concatenate((follows * right, follows * down)).reshape(2 * count, -1)
        weighted = slopes * weight.reshape(1, -1)
        normal = weighted @ slopes.T + DAMPING * np.eye(2 * count, dtype=np.float32)
        step = np.linalg.solve(normal, weighted @ apart.reshape(-1)).reshape(2, count).T * (-2 / LOOK)
        moved = before + np.clip(step, -MOST_STEP, MOST_STEP)
        self.moved = np.clip(moved, -MOST_APART, MOST_APART).astype(np.float32)
        return np.asarray(copy)


class FieldNetworks(Protocol):
    """What aligning needs of the family: its appearance network and its motion field."""

    def appearance(self, picture: Picture) -> dict[str, Array]: ...
    def motion_field(self) -> Network: ...
    def driving(self, source: Source, motion: Motion) -> dict[str, Array]: ...


class CompactAligner:
    """Aligns frames of one speaker with one source picture; runs the receiver's motion field."""

    def __init__(self, family: FieldNetworks, source: Source) -> None:
        self._family, self._source = family, source
        cue = family.appearance(source.picture)["motion_cue"]
        self.field = HeldField(family.motion_field(), cue, source.keypoints)
        self._alignment = Alignment(source.picture)
        seen = source.keypoints[: lm.LANDMARKS]
        self._colour = face_colour(source.picture, face_mask(seen, LOOK // 2))
        self.likeness: float | None = None

    def reset(self) -> None:
        self._alignment.reset()
        self.field.reset()

    def align(self, motion: Motion, track: Track) -> Motion:
        if track.look is None:
            return motion
        self._alignment.expect(track.implicit)
        driving = self._family.driving(self._source, motion)
        detected, turned = driving["x_d"][0], driving["jacobian"][0]
        driven = self._alignment.apply(detected)
        self.field.expect(driven, turned)
        copy = self._alignment.step(track.look, self.field.at(driven, turned), self.field.follows)
        self.likeness = self._likeness(copy, motion, track)
        return self._moved(motion)

    def _likeness(self, copy: Array, motion: Motion, track: Track) -> float | None:
        if track.look is None or track.colour is None or turned_apart(motion, self._source.pose) > MOST_TURNED:
            return None
        apart = float(np.hypot(*(track.colour - self._colour)))
        return likeness(copy, track.look, face_mask(track.points, len(track.look)), apart)

    def _moved(self, motion: Motion) -> Motion:
        moved = self._alignment.moved
        if moved is None:
            return motion
        expression = motion.expression.copy()
        expression[-len(BASIS) - moved.size : -len(BASIS)] += moved.reshape(-1)
        return Motion(motion.rotation, motion.translation, motion.scale, expression)


def _smooth(picture: Picture) -> Array:
    """Grey and blurred [LOOK, LOOK]."""
    grey = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (LOOK, LOOK), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.GaussianBlur(grey.astype(np.float32), (0, 0), BLUR), np.float32)
