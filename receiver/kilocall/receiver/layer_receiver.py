"""The video layer of a live call: fragments in, pictures in the order in which they were coded, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from kilocall.model.family import Picture
from kilocall.proto.layer_frame import LAYER_NUMBERS, LayerAssembly, LayerFragment, LayerFrame
from kilocall.proto.motion_packet import TIMES_MS
from kilocall.receiver.layer_decoder import LayerDecoder

__all__ = ["LAYER_TAKEN_BPS", "DecodedLayer", "LayerReceiver"]

#: What the other side may spend on a video layer: all that there is.
LAYER_TAKEN_BPS: Final = 24_000
#: Frames are kept while one before them may still come: messages overtake each other, and a link that loses carries
#: small frames twice. So many of them, or as many more as lie within two messages of three frames at 25 a second.
LEAST_AHEAD: Final = 2
AHEAD_MS: Final = 240
MOST_AHEAD: Final = 16
#: A key frame is asked for no more often: each takes the rate of a second.
KEY_EVERY_US: Final = 1_000_000


@dataclass(frozen=True)
class DecodedLayer:
    """A frame of the layer, as it came and as it looks."""

    time_us: int
    """Capture time."""
    key: bool
    data: bytes
    picture: Picture  # [L, L, 3], of a whole picture [H, W, 3]
    whole: bool = False
    """Whether it is the camera's whole picture."""


class LayerReceiver:
    """Of one connection. Belongs to the receiving thread; its counters to anybody."""

    def __init__(self) -> None:
        self.frames = self.lost_frames = 0
        self.newest: int | None = None
        """Number of the frame decoded last."""
        self._assembly = LayerAssembly()
        self._decoder = LayerDecoder()
        self._ahead: dict[int, LayerFrame] = {}
        self._expected: int | None = None
        self._asked_us: int | None = None
        self._heard = False

    @property
    def refused(self) -> int:
        """Frames and fragments that made no sense."""
        return self._assembly.refused + self._decoder.refused

    def push(self, fragment: LayerFragment, near_us: int) -> Iterator[DecodedLayer]:
        """What can be decoded now. `near_us` is a time of about then."""
        self._heard = True
        frame = self._assembly.add(fragment)
        if frame is None:
            return
        if frame.key:
            self._skip_to(frame.number)
        if self._expected is None or not _follows(frame.number, self._expected):
            return
        self._ahead[frame.number] = frame
        if self._expected not in self._ahead and self._waited_for_long(frame):
            # What is missing will not come any more, and nothing behind it can be decoded.
            self.lost_frames += 1
            self._decoder.lost()
            self._ahead.clear()
            self._expected = None
        while self._expected is not None and self._expected in self._ahead:
            next_frame = self._ahead.pop(self._expected)
            self._expected = (self._expected + 1) % LAYER_NUMBERS
            whole = next_frame.whole
            picture = self._decoder.push(next_frame.data, key=next_frame.key, whole=whole)
            if picture is not None:
                self.frames += 1
                self.newest = next_frame.number
                yield DecodedLayer(next_frame.time_us(near_us), next_frame.key, next_frame.data, picture, whole)

    def asks_for_key(self, now_us: int) -> bool:
        """Whether to ask for a key frame at this time; not at once, for the first one may be on its way."""
        if not self._heard or not (self._decoder.needs_key or self._expected is None):
            return False
        if self._asked_us is None:
            self._asked_us = now_us
        if now_us - self._asked_us < KEY_EVERY_US:
            return False
        self._asked_us = now_us
        return True

    def _waited_for_long(self, newest: LayerFrame) -> bool:
        since_ms = max((newest.time_ms - one.time_ms) % TIMES_MS for one in self._ahead.values())
        count = len(self._ahead)
        return count > MOST_AHEAD or (count > LEAST_AHEAD and since_ms >= AHEAD_MS)

    def _skip_to(self, number: int) -> None:
        """Nothing before a key frame is needed."""
        for other in [other for other in self._ahead if not _follows(other, number)]:
            del self._ahead[other]
        self._expected = number


def _follows(number: int, other: int) -> bool:
    """Whether `number` is `other` or one after it, modulo 256."""
    return (number - other) % LAYER_NUMBERS < LAYER_NUMBERS // 2
