"""Samples as the frames that encoders and tracks take."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from kilocall.proto.sound import SAMPLE_RATE

__all__ = ["mono_frame"]


def mono_frame(samples: NDArray[np.int16], pts: int) -> av.AudioFrame:
    """Mono samples [n] at SAMPLE_RATE; `pts` is the number of the first."""
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="s16", layout="mono")
    frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE, Fraction(1, SAMPLE_RATE), pts
    return frame
