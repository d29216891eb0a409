"""A picture of a call, made at its time, and those that are kept to be measured."""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass
from typing import Final

__all__ = ["KeptPictures", "Rendered"]

KEEP_MOST: Final = 1500
#: Times of pictures: 13 minutes at 25 a second.
TIMES_MOST: Final = 20_000


@dataclass(frozen=True)
class Rendered:
    """A picture made at its time."""

    jpeg: bytes
    time_us: int
    """Capture time on the sender's clock."""
    made_us: int
    """When it was ready, on this side's clock."""
    playout_us: int
    """How long the fastest packets wait here before their last frame is shown: what speech has to wait too."""
    camera: bool = False
    """Whether it is what the other side's camera saw, as it was, and not its speaker made from a picture."""
    layered: bool = False
    """Whether a video layer is under the speaker."""


class KeptPictures:
    """The last of the pictures, and the times of the first."""

    def __init__(self) -> None:
        self.pictures: deque[Rendered] = deque(maxlen=KEEP_MOST)
        self._times = array("q")

    @property
    def times_us(self) -> list[tuple[int, int]]:
        """Of every picture its capture time and when it was ready."""
        times = self._times.tolist()
        return list(zip(times[::2], times[1::2], strict=True))

    def add(self, made: Rendered) -> None:
        self.pictures.append(made)
        if len(self._times) < 2 * TIMES_MOST:
            self._times.extend((made.time_us, made.made_us))
