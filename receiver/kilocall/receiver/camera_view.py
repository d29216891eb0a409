"""What the other side's camera sees, where that is to be shown instead of the speaker made from a picture."""

from __future__ import annotations

from collections import deque
from typing import Final

from kilocall.model.family import Picture
from kilocall.receiver.switch_time import SwitchTime

__all__ = ["CameraView"]

#: Pictures that wait for their time: more than a second of them.
MOST_WAITING: Final = 16


class CameraView:
    """Told of pictures as they come and of when they hold; gives the one for a frame. Times are those of frames."""

    def __init__(self) -> None:
        self._shown = False
        self._waiting: deque[tuple[int, Picture]] = deque(maxlen=MOST_WAITING)
        self._newest: Picture | None = None
        self._next: tuple[bool, SwitchTime] | None = None

    def switch(self, on: bool, since: SwitchTime) -> None:
        """From the frame of that time on what the camera sees is shown, or no more."""
        self._next = (on, since)

    def push(self, time_us: int, picture: Picture) -> None:
        """What the camera saw [H, W, 3] at this time."""
        self._waiting.append((time_us, picture))

    def picture(self, time_us: int) -> Picture | None:
        """For the frame of this time; None where the speaker is to be shown, and at rest until the first has come."""
        while self._waiting and self._waiting[0][0] <= time_us:
            self._newest = self._waiting.popleft()[1]
        if self._next is not None and self._next[1].reached(time_us):
            self._shown, self._next = self._next[0], None
            if not self._shown:
                self._newest = None
        return self._newest if self._shown else None
