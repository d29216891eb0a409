"""What is sent over the link."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Final

from kilocall.bench.loss.link import Link
from kilocall.bench.loss.motion import send_motion
from kilocall.bench.loss.shown import Shown
from kilocall.bench.loss.video import VP8, X264, LiveVideo, send_video
from kilocall.bench.quality.clips import BenchClip
from kilocall.model.family import Family

__all__ = ["METHODS", "Method", "MotionMethod", "VideoMethod", "layered"]


@dataclass(frozen=True)
class Method(ABC):
    """A way to send a clip."""

    title: str
    about: str

    @abstractmethod
    def send(self, clip: BenchClip, family: Family, link: Link) -> Shown:
        """What a receiver makes of the clip at the end of the link."""


@dataclass(frozen=True)
class MotionMethod(Method):
    """kilocall. With `repeats` every packet has the frames of the one before as well; `layer` is the rate of a video
    layer in kilobits a second, 0 for none."""

    repeats: bool = False
    layer: float = 0

    def send(self, clip: BenchClip, family: Family, link: Link) -> Shown:
        return send_motion(clip, family, link, repeats=self.repeats, layer_kbps=self.layer)


@dataclass(frozen=True)
class VideoMethod(Method):
    """A classic codec over RTP."""

    video: LiveVideo = field(kw_only=True)
    sent_again: bool = False
    """Lost packets are asked for and come once more while that is in time."""
    goes_on: bool = False
    """The decoder goes on without lost pictures, and no key frame is asked for."""

    def send(self, clip: BenchClip, family: Family, link: Link) -> Shown:
        return send_video(clip, self.video, link, sent_again=self.sent_again, goes_on=self.goes_on)


METHODS: Final[tuple[Method, ...]] = (
    MotionMethod("kilocall", "3 frames a packet, predicted from what has been acknowledged"),
    MotionMethod("kilocall, repeated", "the same, every packet with the frames of the one before", repeats=True),
    VideoMethod("x264", "crf 44, zerolatency; frozen until a key frame that is asked for", video=X264),
    VideoMethod("x264, sent again", "the same, lost packets are asked for first", video=X264, sent_again=True),
    VideoMethod(
        "x264, goes on",
        "the same without key frames, the decoder goes on without lost pictures",
        video=X264,
        goes_on=True,
    ),
    VideoMethod("VP8", "quantiser 56, realtime; frozen until a key frame that is asked for", video=VP8),
    VideoMethod("VP8, sent again", "the same, lost packets are asked for first", video=VP8, sent_again=True),
)


def layered(kbps: float) -> MotionMethod:
    """kilocall with a video layer of this rate, as a call runs it on a link that loses."""
    return MotionMethod(
        f"kilocall, layer {kbps:g}",
        f"the same as repeated, with a video layer of {kbps:g} kbit/s behind it: small frames of it sent twice, a key "
        "frame on request",
        repeats=True,
        layer=kbps,
    )
