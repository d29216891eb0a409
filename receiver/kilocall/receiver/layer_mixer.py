"""What the video layer changes of the pictures that motion makes: each layer frame at its moment, then moved along."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from kilocall.model.family import Fusion, LayerCorrection, Made, Picture

__all__ = ["LayerMixer"]

#: A layer frame is compared with the picture of its own moment, or one so near to it; the first after a jump with one
#: up to a frame of the slowest layer later, for what was before the jump was not made.
NEAR_US: Final = 60_000
FIRST_NEAR_US: Final = 170_000
#: Comparing takes a third of what a picture does: where pictures are further apart than this, because this computer is
#: slow, every second of them is compared at most. At 25 a second layers of any rate are compared in full.
SPARING_US: Final = 50_000
SPARING: Final = 1.9
#: A layer is as fast as motion where its frames follow each other so soon, so often.
IN_STEP_US: Final = 50_000
IN_STEP: Final = 2
#: A correction of this age counts in full, and one of that age not at all.
FRESH_US: Final = 700_000
OLD_US: Final = 1_400_000
#: Pictures that are kept for a layer frame which comes after them.
MOST_MADE: Final = 12
#: Layer frames that are kept for a picture which is made after they came.
MOST_WAITING: Final = 16


@dataclass(frozen=True)
class _Timed:
    time_us: int
    made: Made


class LayerMixer:
    """Holds the newest layer frames and the pictures they belong to. Times are those of the motion's frames."""

    def __init__(self, fusion: Fusion) -> None:
        self.used = 0
        """Layer frames that a picture was compared with."""
        self._fusion = fusion
        self._waiting: deque[tuple[int, Picture]] = deque(maxlen=MOST_WAITING)
        self._made: deque[_Timed] = deque(maxlen=MOST_MADE)
        self._correction: LayerCorrection | None = None
        self._at_first: LayerCorrection | None = None  # what the next picture shows of it, where that is less
        self._corrected_us = 0
        self._newest_us: int | None = None  # of the layer
        self._soon = 0  # how many of its frames came soon after the one before

    def reset(self) -> None:
        """What follows has nothing to do with what was before."""
        self._waiting.clear()
        self._made.clear()
        self._correction = self._at_first = None
        self._newest_us = None
        self._soon = 0

    def push(self, time_us: int, layer: Picture) -> None:
        """A layer frame [L, L, 3] of this capture time."""
        self._waiting.append((time_us, layer))

    def mix(self, made: Made, time_us: int) -> Picture:
        """The picture of this capture time with what the layer knows."""
        before_us = self._made[-1].time_us if self._made else time_us
        self._made.append(_Timed(time_us, made))
        gap_us = time_us - before_us
        self._compare(time_us, SPARING * gap_us if gap_us > SPARING_US else 0.0)
        correction, age_us = self._at_first or self._correction, time_us - self._corrected_us
        self._at_first = None
        if correction is None or not 0 <= age_us < OLD_US:
            return made.picture
        strength = min(1.0, (OLD_US - age_us) / (OLD_US - FRESH_US))
        return correction.moved_to(made).apply(made.picture, strength)

    def _compare(self, now_us: int, apart_us: float) -> None:
        """With the newest layer frame that is not ahead of what is shown, `apart_us` or more after the last."""
        newest: tuple[int, Picture] | None = None
        while self._waiting and self._waiting[0][0] <= now_us:
            newest = self._waiting.popleft()
            soon = self._newest_us is not None and newest[0] - self._newest_us <= IN_STEP_US
            self._soon = self._soon + 1 if soon else 0
            self._newest_us = newest[0]
        if newest is None:
            return
        time_us, layer = newest
        # After a step forward in a stream the one before no longer counts, and no picture since was made.
        stale = self._correction is None or not 0 <= now_us - self._corrected_us < FRESH_US
        if not stale and time_us - self._corrected_us < apart_us:
            return
        nearest = min(self._made, key=lambda one: abs(one.time_us - time_us))
        near_us = FIRST_NEAR_US if stale else NEAR_US
        if abs(nearest.time_us - time_us) > near_us:
            return
        in_step = self._soon >= IN_STEP
        found, before = self._fusion.correction(nearest.made, layer, in_step=in_step), self._correction
        if before is None or stale or in_step:  # in step it is never late, and has little noise
            self._correction = found
        else:
            self._at_first, self._correction = found.after(before, nearest.made)
        self._corrected_us = nearest.time_us
        self.used += 1
