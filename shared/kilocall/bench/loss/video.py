"""Classic video on the link: each coded picture in RTP packets of its own, key frames on request."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

import av
import av.error
import numpy as np
from av.video.frame import PictureType, VideoFrame
from numpy.typing import NDArray

from kilocall.bench.loss.link import Link
from kilocall.bench.loss.shown import Shown
from kilocall.bench.quality.clips import BenchClip
from kilocall.bench.quality.codecs import Format, split_unit
from kilocall.bench.quality.wire import packet_bytes, rtp_payloads

__all__ = ["VP8", "X264", "LiveVideo", "send_video"]

#: A receiver asks again for a key frame that does not come.
ASK_AGAIN_S: Final = 0.2


@dataclass(frozen=True)
class LiveVideo:
    """An encoder of PyAV's that can make a key frame when asked."""

    encoder: str
    decoder: str
    format: Format
    options: Mapping[str, str] = field(hash=False)


_NEVER: Final = 9999
X264: Final = LiveVideo(
    "libx264", "h264", "h264",
    {"preset": "veryslow", "tune": "zerolatency", "crf": "44", "forced-idr": "1", "threads": "1"},
)  # fmt: skip
VP8: Final = LiveVideo(
    "libvpx", "vp8", "vp8",
    {"deadline": "realtime", "cpu-used": "-5", "lag-in-frames": "0", "auto-alt-ref": "0", "qmin": "56", "qmax": "56",
     "b": "1000000", "threads": "1"},
)  # fmt: skip


def send_video(clip: BenchClip, video: LiveVideo, link: Link, *, sent_again: bool, goes_on: bool) -> Shown:
    """With `sent_again` lost packets are asked for; with `goes_on` the decoder goes on without lost pictures."""
    encoder, decoder = _encoder(video, clip.size, clip.fps), av.CodecContext.create(video.decoder, "r")
    shown = np.zeros((clip.size, clip.size, 3), np.uint8)
    pictures: list[NDArray[np.uint8]] = []
    new: list[bool] = []
    total = 0
    waiting = True  # for a key frame
    asked_s = -1.0
    key_at: list[float] = []  # when the sender hears that a key frame is wanted
    for number, rgb in enumerate(clip.frames):
        now_s = number / clip.fps
        wanted = bool(key_at and key_at[0] <= now_s)
        key_at = [at for at in key_at if at > now_s]
        frame = VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p", dst_colorspace="ITU601")
        frame.pts, frame.time_base = number, encoder.time_base
        frame.pict_type = PictureType.I if wanted or number == 0 else PictureType.NONE
        data = b"".join(bytes(packet) for packet in encoder.encode(frame))
        parts = split_unit(data, video.format)
        payloads = rtp_payloads([len(part) for part in parts], video.format)
        # All packets are sent, whether or not the first of them is lost.
        fates = [link.deliver(now_s, 1 / clip.fps, surely=number == 0, again=sent_again) for _ in payloads]
        total += sum(packet_bytes(size) * sent for size, (_, sent) in zip(payloads, fates, strict=True))
        whole = all(came for came, _ in fates)
        is_key = _is_key(parts, video.format)
        updated = None
        if whole and (goes_on or is_key or not waiting):
            waiting = False
            updated = _decoded(decoder, data)
        elif not goes_on:
            waiting = True
            # The receiver notices with the next packet that arrives; a lost request is repeated.
            if now_s - asked_s >= ASK_AGAIN_S:
                asked_s = now_s
                if not link.back.loses(now_s):
                    key_at.append(now_s + 1 / clip.fps + link.round_trip_s)
        if updated is not None:
            shown = updated
        pictures.append(shown)
        new.append(updated is not None)
    return Shown(pictures, new, total, link.forward.lost_share)


def _encoder(video: LiveVideo, size: int, fps: float) -> Any:
    context: Any = av.CodecContext.create(video.encoder, "w")
    context.width = context.height = size
    context.pix_fmt = "yuv420p"
    context.framerate = Fraction(fps).limit_denominator(1001)
    context.time_base = 1 / context.framerate
    context.gop_size = _NEVER
    context.options = dict(video.options)
    return context


def _is_key(parts: Iterable[bytes], format: Format) -> bool:
    if format == "h264":
        return any(part[0] & 31 == 5 for part in parts)
    return any(not part[0] & 1 for part in parts)


def _decoded(decoder: Any, data: bytes) -> NDArray[np.uint8] | None:
    """The picture; None where the decoder has nothing to show."""
    picture = None
    # What follows a gap may be beyond decoding; then nothing new is shown.
    with contextlib.suppress(av.error.FFmpegError):
        for frame in decoder.decode(av.Packet(data)):
            picture = np.asarray(frame.reformat(format="rgb24", src_colorspace="ITU601").to_ndarray(), np.uint8)
    return picture
