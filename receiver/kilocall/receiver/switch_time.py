"""From which frame on another picture is moved, or the camera's shown: the other side says it as a capture time."""

from __future__ import annotations

from typing import Final

from kilocall.proto.motion_packet import time_in_full_us, wire_time_ms

__all__ = ["SwitchTime"]

#: Frames of several to a packet may be off by so much: packets say times to the ms.
ROUNDED_US: Final = 2000


class SwitchTime:
    """A moment on the sender's clock, to be compared with every frame that is shown after it was said.

    Times of frames are known but for multiples of 65.5 s. This one is taken as the moment nearest to `newest_us`, the
    newest frame heard of when it was said, however long no other follows; where none had come, to the first that does.
    """

    def __init__(self, from_us: int, newest_us: int | None) -> None:
        """`from_us` is on the sender's clock, `newest_us` as frames have it."""
        self._time_ms = wire_time_ms(from_us)
        self._near_us = newest_us

    def reached(self, time_us: int) -> bool:
        """Whether the frame of this time is captured then or later."""
        if self._near_us is None:
            self._near_us = time_us
        return time_us >= time_in_full_us(self._time_ms, self._near_us) - ROUNDED_US
