"""Pictures that the networks made for one frame, moved on for the next few: what a slow processor shows in between.

The keypoints of every frame are put into the motion field that is held (`held_field.py`), the copy is fetched anew by
it from the source picture, and what was painted is fetched from where its places lay then. So a picture is in time and
as sharp as any; what is painted alone, teeth above all, is up to seven frames old. A sixth of the time that
the networks take.
"""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np

from kilocall.model import landmarks as lm
from kilocall.model.compact.compose import Copy, Painted, places, traced
from kilocall.model.compact.held_field import FieldFor
from kilocall.model.family import Array, Picture

__all__ = ["HELD_WITHIN", "MOST_FURTHER", "MOST_HELD", "PARTS_WITHIN", "HeldPicture"]

#: What was painted falls apart where it is moved further than so many times as far as hardly shows.
MOST_FURTHER: Final = 3.0
#: A picture is moved on for so many frames, while the face's points are no further from where they were then (mean,
#: crop units; 4 pixels of 256), and while lips and lids have moved no further within the face: there much is painted.
#: On 15 clips the networks make 36 % of the pictures.
MOST_HELD: Final = 7
HELD_WITHIN: Final = 4 / 128
PARTS_WITHIN: Final = 1.6 / 128
_PARTS: Final = (
    (*lm.OUTER_LIPS, *lm.INNER_LIPS),
    (*lm.RIGHT_EYE, *lm.LEFT_EYE, lm.RIGHT_IRIS, lm.LEFT_IRIS),
)


class HeldPicture:
    """A picture of one source, as the networks made it."""

    def __init__(self, field: FieldFor, visible: Array, painted: Painted) -> None:
        """visible [F, F] as the network gave it with the field."""
        self._field, self._visible, self._painted = field, visible, painted
        self._age = 0

    def reaches(self, x_d: Array, further: float = 1.0) -> bool:
        """Whether the next frame, with driving keypoints [K, 2], can be this picture moved on; these may be so many
        times as far from its own, MOST_FURTHER at most, over so many times fewer frames."""
        further = min(further, MOST_FURTHER)
        self._age += 1
        if self._age > math.ceil(MOST_HELD / further) or self._field.moved(x_d) > HELD_WITHIN * further:
            return False
        moved = (x_d - self._field.x_d)[: lm.LANDMARKS]
        within = np.linalg.norm(moved - moved.mean(0), axis=1)
        return all(float(within[list(part)].mean()) <= PARTS_WITHIN * further for part in _PARTS)

    def moved_on(self, copy: Copy, x_d: Array, jacobian: Array) -> tuple[Picture, Array, Array, Array]:
        """The picture [S, S, 3], displacement [F, F, 2], how far it is painted [S, S] and visible [F, F] for other
        driving keypoints."""
        displacement = self._field.at(x_d, jacobian)
        copied = copy.at(displacement)
        way = traced(displacement, self._field.displacement)
        painted = self._painted.at(places(way, len(copied)))
        where = places(way, len(self._visible))
        visible = cv2.remap(self._visible, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
        return painted.over(copied), displacement, painted.share, np.asarray(visible, np.float32)
