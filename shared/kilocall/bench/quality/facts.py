"""What the report says, as data: all of `report.json`, and the scores that it speaks of."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel

from kilocall.bench.quality.scoring import ClipFacts, PointScores
from kilocall.bench.quality.wire import Wire

__all__ = [
    "METRICS",
    "PLOTTED_CALL_S",
    "BdRate",
    "ClipPoint",
    "CodecFacts",
    "Match",
    "MeanPoint",
    "Metric",
    "MissingFacts",
    "QualityReport",
    "Rates",
    "packing",
    "wire_of",
]

#: Calls whose wire rate is plotted.
PLOTTED_CALL_S: Final = 60


class Metric(BaseModel):
    """A score by its name in PointScores."""

    name: str
    title: str
    digits: int
    higher_is_better: bool = True
    ideal_is_one: bool = False
    optional: bool = False  # not mentioned where nobody measured it


METRICS: Final = (
    Metric(name="psnr_db", title="PSNR dB", digits=2),
    Metric(name="ssim", title="SSIM", digits=3),
    Metric(name="ms_ssim", title="MS-SSIM", digits=3),
    Metric(name="vmaf", title="VMAF", digits=1),
    Metric(name="landmark_px", title="landmark distance px", digits=2, higher_is_better=False),
    Metric(name="mouth_r", title="mouth motion r", digits=2),
    Metric(name="eye_r", title="eye motion r", digits=2),
    Metric(name="sharpness", title="sharpness", digits=2, ideal_is_one=True),
    Metric(name="lpips", title="LPIPS", digits=3, higher_is_better=False, optional=True),
    Metric(name="dists", title="DISTS", digits=3, higher_is_better=False, optional=True),
)


class Rates(BaseModel):
    """What a clip cost. Payload: coded pictures or motion alone, no header of any packet."""

    bits_mean: float  # a frame, after the first picture
    bits_p95: float
    bits_max: float
    kbps: float  # payload after the first picture
    first_bytes: int  # key frame or source picture
    call_kbps: dict[int, float]  # payload with the first picture, for calls of so many seconds
    wire: list[Wire]


class ClipPoint(BaseModel):
    """One clip with one codec at one setting."""

    clip: str
    codec: str
    setting: str
    rates: Rates
    scores: PointScores
    file_bytes: int | None
    code_s: float


class MeanPoint(BaseModel):
    """A codec at one setting, mean over its clips; every score over the clips that have it."""

    codec: str
    setting: str
    clips: int
    rates: Rates
    scores: dict[str, float | None]


class Match(BaseModel):
    """What another codec needs to be as good as kilocall by one metric."""

    metric: str
    codec: str
    value: float  # kilocall's
    kbps: float | None  # payload at which the codec reaches it; None: nowhere in the measured range
    wire_kbps: float | None  # the same on the wire
    times: float | None  # kbps against kilocall's
    text: str


class BdRate(BaseModel):
    """Mean difference in rate at equal quality against the anchor, per cent; None where the curves do not overlap."""

    metric: str
    codec: str
    percent: float | None
    text: str


class CodecFacts(BaseModel):
    """Who a codec is and how it was run."""

    key: str
    title: str
    live: bool
    command: str
    settings: list[str]


class MissingFacts(BaseModel):
    """What was left out."""

    clip: str | None
    codec: str | None
    reason: str


class QualityReport(BaseModel):
    """All of `report.json`."""

    made: str
    machine: str
    python: str
    ffmpeg: str
    engine: str
    landmarks_by: str
    distances_by: list[str] = []  # which LPIPS and DISTS, where they were measured
    size: int
    families: dict[str, str]
    kilocall: str  # the family and quality that the sentences speak of
    kilocall_setting: str
    clips: list[ClipFacts]
    codecs: list[CodecFacts]
    points: list[ClipPoint]
    means: list[MeanPoint]
    anchor: str | None
    bd_rates: list[BdRate]
    matches: list[Match]
    sentences: list[str]
    missing: list[MissingFacts]

    @property
    def metrics(self) -> list[Metric]:
        """Those to show."""
        return [m for m in METRICS if not m.optional or any(p.scores[m.name] is not None for p in self.means)]


def packing(count: int) -> str:
    """How a wire on the data channel is called."""
    return f"data channel, {count} frame{'s' if count > 1 else ''} a packet"


def wire_of(point: MeanPoint | ClipPoint, frames_per_packet: int = 3) -> Wire:
    """The way of sending that curves are drawn for: RTP, or the data channel at the default packing."""
    return next((w for w in point.rates.wire if w.how == packing(frames_per_packet)), point.rates.wire[0])
