"""What a call was like, in numbers: once a second for the page, and at the end as a report."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Final

from pydantic import BaseModel

from kilocall.runtime.machine import resident_bytes
from kilocall.runtime.pace import Limit, Pace
from kilocall.runtime.traffic import KINDS, Traffic

__all__ = ["CallReport", "RateInUse", "Rates", "Stage", "TrafficMeter", "h264_kbps", "memory_mib", "percentile"]

#: What x264 (veryfast, zero latency, CRF 48) needs at 256x256 for a structural similarity of 0.83, about what this
#: codec reaches: mean over two clips of unseen people, PyAV 18.1, and one RTP packet a frame with 50 bytes of IP, UDP,
#: RTP and SRTP headers. Payload alone: 8.1, 10.1, 12.6. Frames a second, kbit/s.
H264_KBPS: Final = ((5.0, 10.1), (12.5, 15.1), (25.0, 22.6))


def h264_kbps(fps: float) -> float:
    """Interpolated between the measured rates."""
    rates = [rate for rate, _ in H264_KBPS]
    place = min(max(1, bisect_right(rates, fps)), len(rates) - 1)
    (low, a), (high, b) = H264_KBPS[place - 1], H264_KBPS[place]
    return max(0.0, a + (b - a) * (min(fps, high) - low) / (high - low))


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value that `share` of them do not exceed; None without any."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def memory_mib() -> float:
    """Memory that this process holds now."""
    return resident_bytes() / (1 << 20)


class TrafficMeter:
    """Sums the traffic of one connection after the other, and gives rates between two looks."""

    def __init__(self) -> None:
        self.total: dict[str, int] = dict.fromkeys(KINDS, 0)
        self._before: dict[str, int] = dict.fromkeys(KINDS, 0)

    def new_connection(self) -> None:
        self._before = dict.fromkeys(KINDS, 0)

    def look(self, traffic: Traffic) -> dict[str, int]:
        """Bytes by kind since the last look at this connection."""
        added = {kind: traffic.kinds[kind].bytes - self._before[kind] for kind in KINDS}
        self._before = {kind: traffic.kinds[kind].bytes for kind in KINDS}
        for kind, count in added.items():
            self.total[kind] += count
        return added


class Rates(BaseModel):
    """Kilobits per second on the wire, IP and UDP headers included."""

    seconds: float
    data: float
    """Motion, control and acknowledgements: the video."""
    audio: float
    rtcp: float
    stun: float
    other: float
    total: float

    @staticmethod
    def of(counts: dict[str, int], seconds: float) -> Rates:
        rate = {kind: 8 * count / 1000 / seconds if seconds > 0 else 0.0 for kind, count in counts.items()}
        return Rates(seconds=seconds, total=sum(rate.values()), **rate)


class RateInUse(BaseModel):
    """How many pictures a second are aimed at, and why not all that the camera gives."""

    fps: float
    """At the end of the call."""
    limit: Limit
    """What keeps it there: this computer's processor, other programs on it, the network, or the other side's wish."""
    least_fps: float
    """The lowest that this computer's own speed has asked for."""
    changes: int
    """How often that changed."""

    @staticmethod
    def of(pace: Pace, fps: float, limit: Limit) -> RateInUse:
        return RateInUse(fps=fps, limit=limit, least_fps=pace.least_fps, changes=pace.changes)


class Stage(BaseModel):
    """Milliseconds of a stage."""

    p50: float | None
    p95: float | None


class Sample(BaseModel):
    """One of the moments that show whether anything grows."""

    seconds: float
    memory_mib: float
    delay_ms: float | None
    out_kbps: float
    fps_in: float


class Minute(BaseModel):
    """One minute of a call, counted from the first picture of the other side; the last one may be shorter."""

    seconds: float
    delay_p50_ms: float | None
    """From capture to picture, of this minute's pictures; known when both sides read one clock."""
    delay_p95_ms: float | None
    fps_in: float


class PhaseChange(BaseModel):
    """A moment at which the call came into another phase."""

    at_us: int
    """Monotonic microseconds."""
    phase: str
    reason: str


class Gaps(BaseModel):
    """Milliseconds from one picture to the next while the other side's face was seen, without the first two seconds."""

    p50: float | None
    p99: float | None
    most: float | None
    over_250: int


class Sound(BaseModel):
    """Speech, as received."""

    sent_blocks: int
    received_s: float
    heard_s: float
    level_db: float | None
    hold_ms: float
    onsets_us: list[int]
    """When sounds after silence were played, monotonic microseconds."""
    microphone_began_us: list[int]
    """When the microphone's file began, monotonic microseconds."""


class LayerCounts(BaseModel):
    """Frames of the video layer, of both directions."""

    sent: int
    sent_keys: int
    sent_bytes: int
    """Headers in their messages included."""
    decoded: int
    """Of the other side's, on the last connection."""
    missing: int
    """Times that a frame was missing, so that nothing was decoded until a key frame."""
    refused: int
    """Frames and pieces of them that made no sense, on the last connection."""
    used: int
    """Of the decoded, those that a picture was compared with."""
    camera_pictures: int
    """Pictures shown of what the other side's camera saw, as it was."""


class CallReport(BaseModel):
    """`report.json` of a call."""

    room: str
    profile: str
    seconds: float
    phase: str
    reason: str
    phases: list[PhaseChange]
    connections: int
    reconnect_s: list[float]
    """From losing a connection to having the next."""
    first_picture_ms: float | None
    """From both being in the room to the first picture of the other side."""
    first_picture_after_open_ms: float | None
    same_clock: bool | None
    delay_p50_ms: float | None
    """From capture to the JPEG of the rendered picture; known when both sides read one clock."""
    delay_p95_ms: float | None
    out: Rates
    into: Rates
    steady_out: Rates
    """Without the first seconds, in which the source pictures go over."""
    steady_into: Rates
    idle_out: Rates
    """While neither motion nor speech goes either way: no face or the camera off, and muted."""
    idle_into: Rates
    payload_bits_per_frame: float
    layer: LayerCounts
    frames_sent: int
    packets_sent: int
    key_packets: int
    frames_per_message: int
    fps_out: float
    fps_in: float
    rate_out: RateInUse
    """Of the pictures sent."""
    rate_in: RateInUse
    """What this side can show, and has told the other side."""
    pictures: int
    longest_gap_ms: float
    gaps_ms: Gaps
    loss_pct: float | None
    rtt_ms: float | None
    packets_received: int
    packets_late: int
    packets_duplicate: int
    malformed: int
    not_proven: int
    """Descriptions refused because they may be of somebody in between."""
    verified: bool
    """Whether the person here has compared the words with the other side of the last connection."""
    dropped: dict[str, int]
    pictures_sent: int
    pictures_from_cache: int
    gallery_pictures: int
    """Of this side's speaker that the other side holds, the source picture included."""
    gallery_bytes: int
    """Of further pictures sent."""
    gallery_held: int
    """Further pictures of the other side's speaker that are held here."""
    rate_steps: int
    stages_ms: dict[str, Stage]
    memory_mib: float
    samples: list[Sample]
    minutes: list[Minute]
    """The last 24 hours of them."""
    sound: Sound
    close_ms: float
    remarks: list[str] = []
    """What this computer was too slow for, as told last."""


class Window:
    """Traffic, frames and pictures of a span of the call."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.out: dict[str, int] = dict.fromkeys(KINDS, 0)
        self.into: dict[str, int] = dict.fromkeys(KINDS, 0)

    def add(self, seconds: float, out: dict[str, int], into: dict[str, int]) -> None:
        self.seconds += seconds
        for kind in KINDS:
            self.out[kind] += out[kind]
            self.into[kind] += into[kind]


class Pauses:
    """How long each picture stood until the next; 40 hours at 25 a second are kept."""

    MOST: Final = 3_600_000
    SETTLE_US: Final = 2_000_000

    def __init__(self) -> None:
        self._milliseconds = array("f")
        self._from_us: int | None = None

    def add(self, now_us: int, stood_us: int) -> None:
        """A picture that was made at `now_us` and replaced one of `stood_us` before."""
        if self._from_us is None:
            self._from_us = now_us
        if now_us - self._from_us > self.SETTLE_US and len(self._milliseconds) < self.MOST:
            self._milliseconds.append(stood_us / 1000)

    def report(self) -> Gaps:
        gaps = self._milliseconds
        return Gaps(
            p50=percentile(gaps, 0.5),
            p99=percentile(gaps, 0.99),
            most=max(gaps, default=None),
            over_250=sum(gap > 250 for gap in gaps),
        )


class Delays:
    """Milliseconds from capture to picture: all of the call within bounds, and those of the last second."""

    def __init__(self) -> None:
        self.all: deque[float] = deque(maxlen=20_000)
        self._recent: list[float] = []

    def add(self, milliseconds: float) -> None:
        self.all.append(milliseconds)
        if len(self._recent) < 1000:
            self._recent.append(milliseconds)

    def take_recent(self) -> float | None:
        """Median since the last call."""
        recent, self._recent = self._recent, []
        return percentile(recent, 0.5)


class Minutes:
    """Delay and pictures a second, minute by minute. Times are seconds on one clock."""

    MOST: Final = 24 * 60

    def __init__(self) -> None:
        self._whole: deque[Minute] = deque(maxlen=self.MOST)
        self._delays = array("f")
        self._pictures = 0
        self._began: float | None = None

    def add(self, now: float, delay_ms: float | None) -> None:
        """A picture was shown."""
        if self._began is None:
            self._began = now
        self.look(now)
        self._pictures += 1
        if delay_ms is not None:
            self._delays.append(delay_ms)

    def look(self, now: float) -> None:
        """Ends the minute that has passed, also where no picture came."""
        while self._began is not None and now - self._began >= 60:
            self._whole.append(self._minute(60.0))
            self._began += 60
            self._delays, self._pictures = array("f"), 0

    def report(self, now: float) -> list[Minute]:
        """Those that have passed, and what there is of the one that has begun."""
        self.look(now)
        rest = now - self._began if self._began is not None else 0.0
        return [*self._whole, self._minute(rest)] if rest >= 1 else list(self._whole)

    def _minute(self, seconds: float) -> Minute:
        return Minute(
            seconds=seconds,
            delay_p50_ms=percentile(self._delays, 0.5),
            delay_p95_ms=percentile(self._delays, 0.95),
            fps_in=self._pictures / seconds,
        )
