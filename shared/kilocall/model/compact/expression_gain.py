"""How much further lids, lips and irises are asked to move than they shall: the renderer holds a part of it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kilocall.model import landmarks as lm
from kilocall.model.motion import Motion
from kilocall.model.shape import LID_OPENINGS, LIP_OPENING

#: An amplified iris stays this near to the middle of its eye, in widths of the eye between its corners: further out
#: nobody can look, and the renderer has seen none.
MAX_GAZE: Final = 0.28
_STORED: Final = {"lids": "lid_gain", "lips": "lip_gain", "gaze": "gaze_gain"}
_CORNERS: Final = (0, 4)  # of RIGHT_EYE and LEFT_EYE


@dataclass(frozen=True)
class ExpressionGain:
    """Factors on what lids, lips and irises do beside the source picture; nothing changes at rest, and nothing by 1."""

    lids: float = 1.0
    lips: float = 1.0
    gaze: float = 1.0

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[np.float32]]) -> ExpressionGain:
        """As `arrays` says it, which were made of another one's; what is not in there is not amplified."""
        return cls(**{name: float(arrays[key][0]) for name, key in _STORED.items() if key in arrays})

    @property
    def arrays(self) -> dict[str, NDArray[np.float32]]:
        return {_STORED[name]: np.array([gain], np.float32) for name, gain in asdict(self).items()}

    def motion(self, motion: Motion) -> Motion:
        """`motion` with lids and lips further open or closed."""
        expression = motion.expression.copy()
        expression[:LID_OPENINGS] *= self.lids
        expression[LIP_OPENING] *= self.lips
        return Motion(motion.rotation, motion.translation, motion.scale, expression)

    def keypoints(self, moved: NDArray[np.float32], at_rest: NDArray[np.float32]) -> NDArray[np.float32]:
        """`moved` [K, 2] with irises further from where they lie in `at_rest`: the same pose, but no expression."""
        if self.gaze == 1:
            return moved
        result = moved.copy()
        for iris, eye in lm.EYES:
            middle = moved[list(eye)].mean(0)
            asked = moved[iris] - middle
            further = asked + (self.gaze - 1) * (asked - (at_rest[iris] - at_rest[list(eye)].mean(0)))
            width = float(np.hypot(*(moved[eye[_CORNERS[0]]] - moved[eye[_CORNERS[1]]])))
            reach = max(MAX_GAZE * width, float(np.hypot(*asked)))
            result[iris] = middle + further * min(1.0, reach / max(float(np.hypot(*further)), 1e-6))
        return result
