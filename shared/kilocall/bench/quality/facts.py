"""What the report says, as data: all of `report.json`, and the scores that it speaks of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel

from kilocall.bench.quality.methods import FROZEN
from kilocall.bench.quality.results import ClipFacts, PointScores
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
    "layered",
    "packing",
    "wire_of",
]

#: Calls whose wire rate is plotted.
PLOTTED_CALL_S: Final = 60


@dataclass(frozen=True)
class Metric:
    """A score by its name in PointScores."""

    name: str
    word: str
    digits: int
    unit: str = ""
    short: str = ""
    """Its title where there is little room."""
    higher_is_better: bool = True
    ideal_is_one: bool = False
    optional: bool = False  # not mentioned where nobody measured it
    of_pixels: bool = False  # compares pictures, not what is seen in them

    @property
    def title(self) -> str:
        return f"{self.word} {self.unit}" if self.unit else self.word

    @property
    def short_title(self) -> str:
        return self.short or self.title


METRICS: Final = (
    Metric("psnr_db", "PSNR", 2, unit="dB", of_pixels=True),
    Metric("ssim", "SSIM", 3, of_pixels=True),
    Metric("ms_ssim", "MS-SSIM", 3, of_pixels=True),
    Metric("vmaf", "VMAF", 1, of_pixels=True),
    Metric("landmark_px", "landmark distance", 2, unit="px", short="landmarks px", higher_is_better=False),
    Metric("mouth_r", "mouth motion r", 2, short="mouth r"),
    Metric("eye_r", "eye motion r", 2, short="eyes r"),
    Metric("sharpness", "sharpness", 2, ideal_is_one=True),
    Metric("lpips", "LPIPS", 3, higher_is_better=False, optional=True),
    Metric("dists", "DISTS", 3, higher_is_better=False, optional=True),
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

    @property
    def titles(self) -> dict[str, str]:
        """Of the codecs, by key."""
        return {codec.key: codec.title for codec in self.codecs}

    @property
    def classic(self) -> list[str]:
        """Keys of the codecs that kilocall is compared with."""
        return [codec.key for codec in self.codecs if codec.key not in self.families and codec.key != FROZEN]

    @property
    def frozen(self) -> MeanPoint | None:
        """What the frozen picture scores, where it was measured."""
        return next((point for point in self.means if point.codec == FROZEN), None)

    @property
    def layered(self) -> list[MeanPoint]:
        """kilocall as the sentences speak of it with a video layer as well, the thinnest first."""
        return layered(self.own_point.codec, self.means)

    @property
    def own_point(self) -> MeanPoint:
        """kilocall as the sentences speak of it."""
        own = (self.kilocall, self.kilocall_setting)
        return next(point for point in self.means if (point.codec, point.setting) == own)


def layered(codec: str, means: Sequence[MeanPoint]) -> list[MeanPoint]:
    """Points of a codec with a video layer, the thinnest first."""
    found = [one for one in means if one.codec == codec and ", layer " in one.setting]
    return sorted(found, key=lambda point: point.rates.kbps)


def packing(count: int) -> str:
    """How a wire on the data channel is called."""
    return f"data channel, {count} frame{'s' if count > 1 else ''} a packet"


def wire_of(point: MeanPoint | ClipPoint, frames_per_packet: int = 3) -> Wire:
    """The way of sending that curves are drawn for: RTP, or the data channel at the default packing."""
    return next((w for w in point.rates.wire if w.how == packing(frames_per_packet)), point.rates.wire[0])
