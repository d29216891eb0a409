"""The video layer of a stream file, and what the camera saw: what of both belongs to the frame that is shown."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from kilocall.model.family import Made, Picture
from kilocall.proto.layer_frame import TimedLayerFrame
from kilocall.receiver.layer_decoder import LayerDecoder
from kilocall.receiver.layer_mixer import LayerMixer

__all__ = ["LayerTrack"]

#: A frame so much later than the last is one that was jumped to.
JUMP_US: Final = 2_000_000


class LayerTrack:
    """A FaceRenderer's layer. Going on is cheap; after a jump it starts at the key frame before."""

    def __init__(self, frames: Sequence[TimedLayerFrame], mixer: LayerMixer) -> None:
        """`frames` of layer and camera in the order of time."""
        self._frames, self._mixer = frames, mixer
        self._keys = [number for number, frame in enumerate(frames) if frame.key]
        self._key_times = [frames[number].time_us for number in self._keys]
        self._decoder = LayerDecoder()
        self._shows_camera = any(frame.whole for frame in frames)
        self._camera: Picture | None = None
        self._next = 0
        self._shown_us: int | None = None

    @property
    def used(self) -> int:
        """Frames that a picture was compared with."""
        return self._mixer.used

    @property
    def damaged(self) -> int:
        """Frames that could not be decoded."""
        return self._decoder.refused

    def reset(self) -> None:
        """The next frame does not follow the last one."""
        self._shown_us = None

    def mix(self, made: Made, time_us: int) -> Picture:
        """The picture of this time with what the layer knows."""
        self._go_to(time_us)
        return self._mixer.mix(made, time_us)

    def camera(self, time_us: int) -> Picture | None:
        """What the camera saw [H, W, 3], where that is shown at this time as it is; before `mix` of the same time."""
        if not self._shows_camera:
            return None
        self._go_to(time_us)
        return self._camera

    def _go_to(self, time_us: int) -> None:
        if self._shown_us is None or not 0 <= time_us - self._shown_us <= JUMP_US:
            self._jump(time_us)
        self._shown_us = time_us
        while self._next < len(self._frames) and self._frames[self._next].time_us <= time_us:
            self._take(self._frames[self._next])
            self._next += 1

    def _take(self, frame: TimedLayerFrame) -> None:
        picture = self._decoder.push(frame.data, key=frame.key, whole=frame.whole) if frame.data else None
        if not frame.whole or not frame.data:
            self._camera = None
        elif picture is not None:
            self._camera = picture
        if picture is not None and not frame.whole:
            self._mixer.push(frame.time_us, picture)

    def _jump(self, time_us: int) -> None:
        before = bisect_right(self._key_times, time_us)
        self._next = self._keys[before - 1] if before else 0
        self._decoder.lost()
        self._mixer.reset()
        self._camera = None
