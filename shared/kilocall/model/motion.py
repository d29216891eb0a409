"""What is sent for a frame: where the head is and how the face moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: yaw, pitch, roll (radians), translation x, y (crop units), natural log of the scale
POSE_NUMBERS: Final = 6


@dataclass(frozen=True)
class Motion:
    """Head pose and expression of one frame.

    A keypoint is `scale * (R @ (canonical + expression delta))[:2] + translation` (face-vid2vid, eq. 1 and 2, seen
    orthographically). `expression` [E] are coefficients of the family's basis.
    """

    rotation: tuple[float, float, float]  # yaw, pitch, roll in radians
    translation: tuple[float, float]  # crop units: the crop spans -1..1
    scale: float
    expression: NDArray[np.float32]

    @property
    def vector(self) -> NDArray[np.float32]:
        """Float32 [6 + E]: what the codec quantises."""
        pose = (*self.rotation, *self.translation, float(np.log(self.scale)))
        return np.concatenate((np.asarray(pose, np.float32), self.expression)).astype(np.float32)

    @staticmethod
    def from_vector(vector: NDArray[np.float32]) -> Motion:
        yaw, pitch, roll, x, y, log_scale = (float(v) for v in vector[:POSE_NUMBERS])
        # A decoded scale is bounded by the quantiser's range; exp of a hostile value must still be finite.
        scale = float(np.exp(np.clip(log_scale, -5.0, 3.0)))
        return Motion((yaw, pitch, roll), (x, y), scale, np.array(vector[POSE_NUMBERS:], np.float32))
