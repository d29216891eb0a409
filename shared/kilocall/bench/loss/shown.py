"""What came of a clip that was sent over the link."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Shown"]


@dataclass(frozen=True)
class Shown:
    """What the receiver showed for every frame, and what it cost."""

    pictures: list[NDArray[np.uint8]]
    new: list[bool]
    bytes: int
    lost: float
    """Of the packets from sender to receiver."""

    @property
    def longest_freeze(self) -> int:
        """Frames in a row without anything new."""
        longest = run = 0
        for fresh in self.new:
            run = 0 if fresh else run + 1
            longest = max(longest, run)
        return longest
