"""Quality against packet loss: kilocall's motion packets, and x264 and VP8 over RTP, through the same bad link.

A link loses single packets at random, or everything for a while (outages that begin and end at random, 0.2 s long in
the mean); whoever sends more packets loses more of them. The same outages hit every method, in both directions. The
first picture, kilocall's source or video's key frame, gets through for everybody.

Video runs as calls do: each coded picture in RTP packets of its own, and a receiver that shows a picture only if it
has all packets of it and of all since the last key frame; otherwise what was shown stays, and it asks for a key frame,
which the sender makes as soon as it hears that. "Sent again": lost packets are asked for and come once more while
that is in time. "Goes on": the decoder shows what it makes of the pictures that it has.
"""

from __future__ import annotations

import bisect
import contextlib
import heapq
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Literal

import av
import av.error
import numpy as np
from av.video.frame import PictureType, VideoFrame
from numpy.typing import NDArray
from pydantic import BaseModel

from kilocall.bench.landmark_measure import FamilyMeter, LandmarkMeter, MeasuredLandmarks, MediaPipeMeter
from kilocall.bench.quality.clips import BenchClip, read_clip
from kilocall.bench.quality.codecs import Format, split_unit
from kilocall.bench.quality.wire import packet_bytes, rtp_payloads
from kilocall.model import landmarks as lm
from kilocall.model import metrics
from kilocall.model.family import Family
from kilocall.proto.errors import BadInput, KilocallError
from kilocall.proto.wire_cost import DELAYED_SACK_S, message_bytes
from kilocall.runtime.pictures import fitted
from kilocall.runtime.progress import Progress

__all__ = ["LOSSES", "METHODS", "LossPoint", "LossReport", "LossSettings", "Outages", "measure_loss"]

Pattern = Literal["random", "bursts"]

LOSSES: Final = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)
OUTAGE_S: Final = 0.2
#: How old a frame may be when it arrives and still be shown, beside the way itself: the most that the receiver's
#: buffer waits.
PLAYOUT_S: Final = 0.25
#: A receiver asks again for a key frame that does not come.
ASK_AGAIN_S: Final = 0.2


@dataclass(frozen=True)
class _Video:
    """An encoder of PyAV's that can make a key frame when asked."""

    title: str
    encoder: str
    decoder: str
    format: Format
    options: dict[str, str]


_NEVER: Final = 9999
_X264: Final = _Video(
    "x264", "libx264", "h264", "h264",
    {"preset": "veryslow", "tune": "zerolatency", "crf": "44", "forced-idr": "1", "threads": "1"},
)  # fmt: skip
_VP8: Final = _Video(
    "VP8", "libvpx", "vp8", "vp8",
    {"deadline": "realtime", "cpu-used": "-5", "lag-in-frames": "0", "auto-alt-ref": "0", "qmin": "56", "qmax": "56",
     "b": "1000000", "threads": "1"},
)  # fmt: skip

#: Name, what it is. The frames that a packet repeats are those of the packet before.
METHODS: Final = {
    "kilocall": "3 frames a packet, predicted from what has been acknowledged",
    "kilocall, repeated": "the same, every packet with the frames of the one before",
    "x264": "crf 44, zerolatency; frozen until a key frame that is asked for",
    "x264, sent again": "the same, lost packets are asked for first",
    "x264, goes on": "the same without key frames, the decoder goes on without lost pictures",
    "VP8": "quantiser 56, realtime; frozen until a key frame that is asked for",
    "VP8, sent again": "the same, lost packets are asked for first",
}


@dataclass(frozen=True)
class LossSettings:
    """What is measured."""

    losses: tuple[float, ...] = LOSSES
    patterns: tuple[Pattern, ...] = ("random", "bursts")
    round_trip_s: float = 0.1
    seconds: float = 10.0
    seed: int = 1
    size: int = 256
    fps: float | None = None
    crop: bool | None = None
    engine: str = "auto"
    threads: int = 1
    mediapipe_python: Path | None = None


class LossPoint(BaseModel):
    """One method on one link, mean over the clips."""

    method: str
    pattern: Pattern
    loss: float  # wanted
    lost: float  # of the packets that were sent
    wire_kbps: float  # sender to receiver, IP and all; first picture included
    new_pictures: float  # of all frames, the part in which something new was shown
    longest_freeze_s: float  # mean over the clips of the longest in each
    psnr_db: float
    ssim: float
    landmark_px: float | None
    mouth_r: float | None


class LossReport(BaseModel):
    """All that `kilocall bench loss` found out; `loss.json` is its dump."""

    clips: list[str]
    failures: list[tuple[str, str]]
    round_trip_s: float
    playout_s: float
    outage_s: float
    seconds: float
    seed: int
    landmarks_by: str
    methods: dict[str, str]
    points: list[LossPoint]


class Outages:
    """When a link is out; the same for the same `seed`."""

    def __init__(self, loss: float, pattern: Pattern, seed: str) -> None:
        if not 0 <= loss < 1:
            raise BadInput(f"loss is {loss}, allowed are 0 to below 1")
        self._random = random.Random(f"{pattern} {loss} {seed}")
        self._loss, self._pattern = loss, pattern
        self._turns_s = [0.0]  # up from 0 on, down from the next, and so on
        self.sent = self.lost = 0

    def loses(self, at_s: float) -> bool:
        """Whether a packet sent at this time is lost."""
        out = self._draw(at_s)
        self.sent += 1
        self.lost += out
        return out

    def _draw(self, at_s: float) -> bool:
        if self._loss == 0:
            return False
        if self._pattern == "random":
            return self._random.random() < self._loss
        while self._turns_s[-1] <= at_s:
            up = len(self._turns_s) % 2 == 1
            mean = OUTAGE_S * (1 - self._loss) / self._loss if up else OUTAGE_S
            self._turns_s.append(self._turns_s[-1] + self._random.expovariate(1 / mean))
        return bisect.bisect_right(self._turns_s, at_s) % 2 == 0


@dataclass
class _Shown:
    """What the receiver showed for every frame, and what it cost."""

    pictures: list[NDArray[np.uint8]]
    new: list[bool]
    bytes: int
    lost: float


def measure_loss(
    clips: Sequence[Path], settings: LossSettings, *, progress: Progress = lambda done, total: None
) -> LossReport:
    """Runs every method over every link. A clip that cannot be used is listed with its reason; BadInput when that goes
    for all, or a setting is out of range."""
    from kilocall.api import open_family

    for loss in settings.losses:
        Outages(loss, "random", "")
    if not 0 <= settings.round_trip_s <= 2:
        raise BadInput(f"round trip is {settings.round_trip_s} s, allowed are 0 to 2")
    family = open_family(engine=settings.engine, threads=settings.threads)
    meter: LandmarkMeter = (
        MediaPipeMeter(settings.mediapipe_python) if settings.mediapipe_python else FamilyMeter(family)
    )
    links = [(pattern, loss) for pattern in settings.patterns for loss in settings.losses]
    # Without loss both patterns are the same link.
    links = [link for number, link in enumerate(links) if link[1] > 0 or number == 0]
    total = len(clips) * len(links) * len(METHODS)
    rows: dict[tuple[str, Pattern, float], list[LossPoint]] = {}
    used: list[str] = []
    failures: list[tuple[str, str]] = []
    done = 0
    for path in clips:
        progress(done, total)
        try:
            clip = read_clip(
                path, family, size=settings.size, fps=settings.fps, crop=settings.crop, seconds=settings.seconds
            )
        except (KilocallError, OSError) as error:
            failures.append((path.name, str(error).removeprefix(f"{path}: ")))
            done += len(links) * len(METHODS)
            continue
        used.append(clip.name)
        truth = meter.measure(list(clip.frames))
        for pattern, loss in links:
            for method in METHODS:
                shown = _send(method, clip, family, pattern, loss, settings)
                point = _score(shown, clip, truth, meter, method, pattern, loss)
                rows.setdefault((method, pattern, loss), []).append(point)
                done += 1
                progress(done, total)
    if not used:
        raise BadInput(f"none of {len(clips)} clips can be used; {failures[0][0]}: {failures[0][1]}")
    return LossReport(
        clips=used,
        failures=failures,
        round_trip_s=settings.round_trip_s,
        playout_s=PLAYOUT_S,
        outage_s=OUTAGE_S,
        seconds=settings.seconds,
        seed=settings.seed,
        landmarks_by=meter.name,
        methods=METHODS,
        points=[_mean(points) for points in rows.values()],
    )


def _send(
    method: str, clip: BenchClip, family: Family, pattern: Pattern, loss: float, settings: LossSettings
) -> _Shown:
    # A link of its own for each method, but the same outages.
    forward = Outages(loss, pattern, f"{settings.seed} {clip.name} forward")
    back = Outages(loss, pattern, f"{settings.seed} {clip.name} back")
    if method.startswith("kilocall"):
        return _send_motion(clip, family, forward, back, settings.round_trip_s, repeat="repeated" in method)
    video = _VP8 if method.startswith("VP8") else _X264
    link = _Link(forward, back, settings.round_trip_s, again="again" in method)
    return _send_video(clip, video, link, goes_on="goes on" in method)


@dataclass(frozen=True)
class _Link:
    forward: Outages
    back: Outages
    round_trip_s: float
    again: bool

    def deliver(self, at_s: float, gap_s: float, *, surely: bool) -> tuple[bool, int]:
        """Whether a packet comes in time, and how often it was sent. What is missing shows with the next picture."""
        if surely or not self.forward.loses(at_s):
            return True, 1
        sent, ask_s = 1, at_s + gap_s + self.round_trip_s / 2
        while self.again and ask_s + self.round_trip_s / 2 - at_s <= PLAYOUT_S:
            if not self.back.loses(ask_s):
                sent += 1
                if not self.forward.loses(ask_s + self.round_trip_s / 2):
                    return True, sent
            ask_s += max(self.round_trip_s, gap_s)
        return False, sent


def _send_motion(
    clip: BenchClip, family: Family, forward: Outages, back: Outages, round_trip_s: float, *, repeat: bool
) -> _Shown:
    """kilocall, as in a call: the source picture first and reliably, then motion that is never sent again."""
    from kilocall.api import Encoder
    from kilocall.receiver.decode import PacketDecoder
    from kilocall.receiver.render import FaceRenderer
    from kilocall.runtime.pictures import decode_picture
    from kilocall.sender.encoder import PacketEncoder

    packing = 3
    sender = Encoder(clip.crops[0], fps=clip.fps, frames_per_packet=packing, family=family)
    encoder = PacketEncoder(family, sender.source, fps=clip.fps, frames_per_packet=packing, reference="acknowledged")
    encoder.redundant_frames = packing if repeat else 0
    source = decode_picture(sender.source_picture.data)
    decoder = PacketDecoder(family.codebook)
    renderer = FaceRenderer(family, family.source(source))
    arrived: list[int] = []
    named = 0  # of `arrived`, how many have been acknowledged
    next_sack_s = 0.0
    hearing: list[tuple[float, int]] = []  # when the sender hears of which packet
    motions: dict[int, Any] = {}
    total = 0
    last = len(clip.tracks) - 1
    for number, (track, time_us) in enumerate(zip(clip.tracks, clip.times_us, strict=True)):
        now_s = time_us / 1e6
        while hearing and hearing[0][0] <= now_s:
            encoder.codec.acknowledge(heapq.heappop(hearing)[1])
        packet = encoder.push_track(track, time_us)
        if number == last:
            packet = packet or encoder.flush()
        if packet is None:
            continue
        data = bytes(packet)
        total += message_bytes(len(data))
        if not forward.loses(now_s):
            timed = decoder.push(data)
            for motion in timed:
                index = round(motion.time_us * clip.fps / 1e6)
                if now_s - motion.time_us / 1e6 <= PLAYOUT_S:
                    motions.setdefault(index, motion.motion)
            if timed:
                arrived.append(packet.sequence)
        # One acknowledgement for all since the last, and for what an earlier, lost one named.
        if arrived[named:] and now_s >= next_sack_s:
            next_sack_s = now_s + DELAYED_SACK_S
            if not back.loses(now_s):
                heard_s = now_s + round_trip_s + DELAYED_SACK_S / 2
                for sequence in arrived[named:]:
                    heapq.heappush(hearing, (heard_s, sequence))
                named = len(arrived)
    pictures: list[NDArray[np.uint8]] = []
    new: list[bool] = []
    shown = fitted(source, clip.size)
    for number in range(len(clip.tracks)):
        if number in motions:
            shown = fitted(renderer.render(motions[number]), clip.size)
        pictures.append(shown)
        new.append(number in motions)
    total += len(sender.source_picture.data)
    return _Shown(pictures, new, total, forward.lost / max(1, forward.sent))


def _send_video(clip: BenchClip, video: _Video, link: _Link, *, goes_on: bool) -> _Shown:
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
        fates = [link.deliver(now_s, 1 / clip.fps, surely=number == 0) for _ in payloads]
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
    return _Shown(pictures, new, total, link.forward.lost / max(1, link.forward.sent))


def _encoder(video: _Video, size: int, fps: float) -> Any:
    context: Any = av.CodecContext.create(video.encoder, "w")
    context.width = context.height = size
    context.pix_fmt = "yuv420p"
    context.framerate = Fraction(fps).limit_denominator(1001)
    context.time_base = 1 / context.framerate
    context.gop_size = _NEVER
    context.options = video.options
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


def _score(
    shown: _Shown,
    clip: BenchClip,
    truth: MeasuredLandmarks,
    meter: LandmarkMeter,
    method: str,
    pattern: Pattern,
    loss: float,
) -> LossPoint:
    made = meter.measure(shown.pictures)
    both = made.valid & truth.valid
    some = bool(both.any())
    mouth = metrics.opening_correlation(made.face[both], truth.face[both], lm.LIP_PAIRS) if some else None
    return LossPoint(
        method=method,
        pattern=pattern,
        loss=loss,
        lost=shown.lost,
        wire_kbps=8 * shown.bytes / clip.seconds / 1000,
        new_pictures=float(np.mean(shown.new)),
        longest_freeze_s=_longest_freeze(shown.new) / clip.fps,
        psnr_db=metrics.psnr(shown.pictures, clip.frames),
        ssim=metrics.ssim(shown.pictures, clip.frames),
        landmark_px=metrics.landmark_distance(made.points[both], truth.points[both]) if some else None,
        mouth_r=mouth,
    )


def _longest_freeze(new: Sequence[bool]) -> int:
    longest = run = 0
    for fresh in new:
        run = 0 if fresh else run + 1
        longest = max(longest, run)
    return longest


def _mean(points: Sequence[LossPoint]) -> LossPoint:
    def of(name: str) -> float | None:
        known = [value for point in points if (value := getattr(point, name)) is not None]
        return float(np.mean(known)) if known else None

    numbers = {name: of(name) for name in LossPoint.model_fields if name not in ("method", "pattern", "loss")}
    first = points[0]
    return LossPoint.model_validate({"method": first.method, "pattern": first.pattern, "loss": first.loss, **numbers})
