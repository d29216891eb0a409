"""The report's numbers: rates of every point, means over clips, BD-rates, and what it takes to match kilocall."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import numpy as np
from pydantic import BaseModel

from kilocall.bench.quality.codecs import VideoCodec
from kilocall.bench.quality.compare import Comparison
from kilocall.bench.quality.scoring import ClipFacts, PointResult, PointScores
from kilocall.bench.quality.wire import CALLS_S, Wire, data_channel_flow, rtp_flow
from kilocall.model.family import DEFAULT_FAMILY
from kilocall.proto.errors import BadInput
from kilocall.runtime.machine import cpu_model

__all__ = [
    "METRICS",
    "ClipPoint",
    "CodecFacts",
    "Match",
    "MeanPoint",
    "Metric",
    "MissingFacts",
    "QualityReport",
    "Rates",
    "curve",
    "summarise",
    "wire_of",
]

#: Codec that BD-rates are told against, where it was measured: the commonest in calls.
ANCHOR: Final = "x264-live"
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
#: Those whose curves rise with the rate, so that rates can be compared at equal quality.
_COMPARED: Final = tuple(metric for metric in METRICS if not metric.ideal_is_one)


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


def summarise(comparison: Comparison) -> QualityReport:
    """Everything that can be said about the results."""
    formats = {codec.key: codec for codec in comparison.codecs}
    points = [
        ClipPoint(
            clip=result.clip.name,
            codec=result.codec,
            setting=result.setting,
            rates=_rates(result, formats.get(result.codec)),
            scores=result.scores,
            file_bytes=result.file_bytes,
            code_s=result.code_s,
        )
        for result in comparison.results
    ]
    means = _means(points)
    clips: dict[str, ClipFacts] = {}
    for result in comparison.results:
        clips.setdefault(result.clip.name, result.clip)
    ours = _default_point(comparison, means)
    order = [codec.key for codec in comparison.codecs]
    anchor = ANCHOR if any(point.codec == ANCHOR for point in means) else None
    matches = [_match(metric, key, ours, means) for metric in _COMPARED for key in order if _has(means, key, metric)]
    return QualityReport(
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=f"{cpu_model()}, {platform.system()} {platform.release()}",
        python=platform.python_version(),
        ffmpeg=comparison.ffmpeg.version,
        engine=comparison.engine,
        landmarks_by=comparison.landmarks_by,
        distances_by=comparison.distances_by,
        size=comparison.settings.size,
        families=comparison.families,
        kilocall=ours.codec,
        kilocall_setting=ours.setting,
        clips=list(clips.values()),
        codecs=[*_own_facts(comparison), *(_facts(codec) for codec in comparison.codecs)],
        points=points,
        means=means,
        anchor=anchor,
        bd_rates=_bd_rates(means, anchor, [*comparison.families, *order]) if anchor else [],
        matches=matches,
        sentences=_sentences(ours, means, {codec.key: codec.title for codec in comparison.codecs}),
        missing=[MissingFacts(clip=m.clip, codec=m.codec, reason=m.reason) for m in comparison.missing],
    )


def _default_point(comparison: Comparison, means: Sequence[MeanPoint]) -> MeanPoint:
    """kilocall as it runs by default, or at the nearest quality that was measured."""
    own = [point for point in means if point.codec == DEFAULT_FAMILY]
    own = own or [point for point in means if point.codec in comparison.families]
    if not own:
        raise BadInput("kilocall itself could not be measured on any clip")
    return min(own, key=lambda point: abs(float(point.setting.split()[-1]) - 50))


def _rates(result: PointResult, codec: VideoCodec | None) -> Rates:
    seconds = result.clip.frames / result.clip.fps
    frames = result.clip.frames
    if result.kind == "video":
        assert codec is not None
        first = sum(result.units[0])
        bits = np.array([8 * sum(unit) / result.frames_per_unit for unit in result.units[1:]] or [0.0])
        wire = [Wire.of("RTP", rtp_flow(result.units, seconds, codec.format))]
        mean = float(bits.mean())
    elif result.kind == "kilocall":
        first = result.source_bytes
        # A packet's bits are shared by its frames; the last packet may hold fewer.
        step = result.frames_per_unit
        bits = np.array([8 * sum(unit) / step for unit in result.units])
        mean = 8 * sum(map(sum, result.units)) / frames
        wire = [
            Wire.of(_frames(count), data_channel_flow(sizes, result.source_bytes, seconds))
            for count, sizes in sorted(result.messages.items())
        ]
    else:
        first, bits, mean = result.source_bytes, np.zeros(1), 0.0
        wire = [Wire.of("source picture only", data_channel_flow([], result.source_bytes, seconds))]
    kbps = mean * result.clip.fps / 1000
    return Rates(
        bits_mean=mean,
        bits_p95=float(np.percentile(bits, 95)),
        bits_max=float(bits.max()),
        kbps=kbps,
        first_bytes=first,
        call_kbps={length: kbps + 8 * first / length / 1000 for length in CALLS_S},
        wire=wire,
    )


def _frames(count: int) -> str:
    return f"data channel, {count} frame{'s' if count > 1 else ''} a packet"


def _means(points: Sequence[ClipPoint]) -> list[MeanPoint]:
    groups: dict[tuple[str, str], list[ClipPoint]] = {}
    for point in points:
        groups.setdefault((point.codec, point.setting), []).append(point)
    return [
        MeanPoint(
            codec=codec,
            setting=setting,
            clips=len(group),
            rates=_mean_rates([point.rates for point in group]),
            scores={name: _mean(getattr(point.scores, name) for point in group) for name in PointScores.model_fields},
        )
        for (codec, setting), group in groups.items()
    ]


def _mean_rates(rates: Sequence[Rates]) -> Rates:
    def of(value: Callable[[Rates], float]) -> float:
        return float(np.mean([value(one) for one in rates]))

    def wire(number: int) -> Wire:
        rows = [one.wire[number] for one in rates]
        return Wire(
            how=rows[0].how,
            forward_kbps=float(np.mean([row.forward_kbps for row in rows])),
            back_kbps=float(np.mean([row.back_kbps for row in rows])),
            first_bytes=round(float(np.mean([row.first_bytes for row in rows]))),
            call_kbps={length: float(np.mean([row.call_kbps[length] for row in rows])) for length in CALLS_S},
        )

    return Rates(
        bits_mean=of(lambda one: one.bits_mean),
        bits_p95=of(lambda one: one.bits_p95),
        bits_max=max(one.bits_max for one in rates),
        kbps=of(lambda one: one.kbps),
        first_bytes=round(of(lambda one: one.first_bytes)),
        call_kbps={length: float(np.mean([one.call_kbps[length] for one in rates])) for length in CALLS_S},
        wire=[wire(number) for number in range(len(rates[0].wire))],
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def wire_of(point: MeanPoint | ClipPoint, frames_per_packet: int = 3) -> Wire:
    """The way of sending that curves are drawn for: RTP, or the data channel at the default packing."""
    return next((w for w in point.rates.wire if w.how == _frames(frames_per_packet)), point.rates.wire[0])


def curve(
    means: Sequence[MeanPoint], codec: str, metric: Metric, rate: Callable[[MeanPoint], float]
) -> list[tuple[float, float, str]]:
    """(rate, score, setting) of a codec's points that nobody of its own beats: no other is better for fewer bits."""
    known = sorted(
        (rate(point), value, point.setting)
        for point in means
        if point.codec == codec and (value := point.scores[metric.name]) is not None
    )
    sign = 1 if metric.higher_is_better else -1
    kept: list[tuple[float, float, str]] = []
    for entry in known:
        if not kept or sign * entry[1] > sign * kept[-1][1]:
            kept.append(entry)
    return kept


def _payload(point: MeanPoint) -> float:
    return point.rates.kbps


def _on_wire(point: MeanPoint) -> float:
    return wire_of(point).call_kbps[PLOTTED_CALL_S]


def _has(means: Sequence[MeanPoint], codec: str, metric: Metric) -> bool:
    return bool(curve(means, codec, metric, _payload))


def _match(metric: Metric, codec: str, ours: MeanPoint, means: Sequence[MeanPoint]) -> Match:
    value = ours.scores[metric.name]
    points = curve(means, codec, metric, _payload)
    lowest, best = points[0], points[-1]

    def say(kbps: float | None, text: str) -> Match:
        wire = None if kbps is None or value is None else _rate_at(curve(means, codec, metric, _on_wire), value, metric)
        times = None if kbps is None else kbps / ours.rates.kbps
        return Match(
            metric=metric.name,
            codec=codec,
            value=value if value is not None else float("nan"),
            kbps=kbps,
            wire_kbps=wire,
            times=times,
            text=text,
        )

    if value is None:
        return say(None, "not measured")
    sign = 1 if metric.higher_is_better else -1
    if sign * lowest[1] >= sign * value:
        return say(None, f"better from its lowest, {lowest[0]:.1f}, on ({lowest[1]:.{metric.digits}f})")
    if sign * best[1] < sign * value:
        return say(None, f"not even at {best[0]:.1f} ({best[1]:.{metric.digits}f})")
    kbps = _rate_at(points, value, metric)
    assert kbps is not None
    return say(kbps, f"{kbps:.1f} ({kbps / ours.rates.kbps:.1f} x)")


def _rate_at(points: Sequence[tuple[float, float, str]], value: float, metric: Metric) -> float | None:
    """Where a curve reaches a score: straight lines over the logarithm of the rate."""
    sign = 1 if metric.higher_is_better else -1
    scores = [sign * score for _, score, _ in points]
    if not scores or not scores[0] <= sign * value <= scores[-1]:
        return None
    return float(np.exp(np.interp(sign * value, scores, np.log([rate for rate, _, _ in points]))))


def _bd_rates(means: Sequence[MeanPoint], anchor: str, codecs: Sequence[str]) -> list[BdRate]:
    return [
        _bd_rate(means, anchor, codec, metric)
        for metric in _COMPARED
        for codec in codecs
        if codec != anchor and _has(means, codec, metric) and _has(means, anchor, metric)
    ]


def _bd_rate(means: Sequence[MeanPoint], anchor: str, codec: str, metric: Metric) -> BdRate:
    sign = 1 if metric.higher_is_better else -1
    base, other = (curve(means, key, metric, _payload) for key in (anchor, codec))
    (base_low, base_high), (low, high) = ((sign * c[0][1], sign * c[-1][1]) for c in (base, other))
    shared = min(base_high, high) - max(base_low, low)
    # The package fits a polynomial through four points or more, and warns below three quarters of overlap.
    if shared <= 0 or min(len(base), len(other)) < 4:
        rate, score = other[-1][:2]
        what = "no overlap" if shared <= 0 else "too few points"
        text = f"{what}: {score:.{metric.digits}f} at {rate:.2f} kbit/s"
        return BdRate(metric=metric.name, codec=codec, percent=None, text=text)
    import bjontegaard

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        percent = float(
            bjontegaard.bd_rate(
                [rate for rate, _, _ in base],
                [sign * score for _, score, _ in base],
                [rate for rate, _, _ in other],
                [sign * score for _, score, _ in other],
                method="akima",
                require_matching_points=False,
                min_overlap=0,
            )
        )
    part = shared / (max(base_high, high) - min(base_low, low))
    text = f"{percent:+.0f} %" + (f" (over {part:.0%} of the range)" if part < 0.75 else "")
    return BdRate(metric=metric.name, codec=codec, percent=percent, text=text)


#: Below this payload rate a classic codec is a rival of kilocall's own range.
_LOW_KBPS: Final = 10.0


def _sentences(ours: MeanPoint, means: Sequence[MeanPoint], titles: dict[str, str]) -> list[str]:
    """What a reader should not have to look for, the bad news first."""
    kbps, wire = ours.rates.kbps, wire_of(ours)
    said = []
    for metric in METRICS[:4]:
        own = ours.scores[metric.name]
        if own is None:
            continue
        rivals = [
            (point.scores[metric.name] or 0.0, point)
            for point in means
            if point.codec in titles and point.scores[metric.name] is not None and point.rates.kbps <= _LOW_KBPS
        ]
        better = [pair for pair in rivals if pair[0] > own]
        if not better:
            continue
        cheapest = min(better, key=lambda pair: pair[1].rates.kbps)
        best = max(better, key=lambda pair: pair[0])
        said.append(
            f"By {metric.title.removesuffix(' dB')} kilocall is beaten: {_told(best, metric, titles)}, kilocall "
            f"{_score(own, metric)} at {kbps:.2f} kbit/s; the cheapest that is better is "
            f"{_told(cheapest, metric, titles)}, {cheapest[1].rates.kbps / kbps:.1f} times the bits."
        )
    landmark = next(metric for metric in METRICS if metric.name == "landmark_px")
    own = ours.scores["landmark_px"]
    if own is not None:
        needs = {
            key: rate
            for key in titles
            if (rate := _rate_at(curve(means, key, landmark, _payload), own, landmark)) is not None
        }
        if needs:
            key = min(needs, key=lambda k: needs[k])
            said.append(
                f"By landmark distance kilocall has {own:.2f} px at {kbps:.2f} kbit/s; the cheapest codec to reach "
                f"that is {titles[key]} at {needs[key]:.1f} kbit/s, {needs[key] / kbps:.1f} times as much."
            )
    said.append(
        f"On the wire the distance shrinks: headers make kilocall's {kbps:.2f} kbit/s of payload "
        f"{wire.forward_kbps:.1f} kbit/s forward and {wire.back_kbps:.1f} back; the first picture costs "
        f"{wire.first_bytes} bytes, so a call of 10 s costs {wire.call_kbps[10]:.1f} kbit/s in all, one of 1 min "
        f"{wire.call_kbps[60]:.1f}, one of 10 min {wire.call_kbps[600]:.1f}."
    )
    same = [
        point
        for point in means
        if point.codec in titles and _on_wire(point) <= 1.1 * wire.call_kbps[PLOTTED_CALL_S] and point.scores["psnr_db"]
    ]
    if same:
        rival = max(same, key=lambda point: point.scores["psnr_db"] or 0)
        said.append(
            f"At kilocall's rate on the wire the best by PSNR is {titles[rival.codec]} ({rival.setting}), "
            f"{_on_wire(rival):.1f} kbit/s in a call of 1 min: {_beside(rival, ours, 'psnr_db')} dB PSNR, "
            f"{_beside(rival, ours, 'vmaf')} VMAF, {_beside(rival, ours, 'landmark_px')} px landmark distance, "
            f"{_beside(rival, ours, 'mouth_r')} mouth motion (kilocall's in brackets)."
        )
    return said


def _beside(rival: MeanPoint, ours: MeanPoint, name: str) -> str:
    digits = next(metric.digits for metric in METRICS if metric.name == name)
    numbers = [point.scores[name] for point in (rival, ours)]
    first, second = ("n/a" if number is None else f"{number:.{digits}f}" for number in numbers)
    return f"{first} ({second})"


def _told(rival: tuple[float, MeanPoint], metric: Metric, titles: dict[str, str]) -> str:
    score, point = rival
    name = f"{titles[point.codec]} ({point.setting})"
    return f"{name} with {_score(score, metric)} at {point.rates.kbps:.1f} kbit/s"


def _score(value: float, metric: Metric) -> str:
    return f"{value:.{metric.digits}f}{' dB' if metric.name == 'psnr_db' else ''}"


def _own_facts(comparison: Comparison) -> list[CodecFacts]:
    settings = [f"quality {quality:g}" for quality in comparison.settings.qualities]
    about = "first frame as source picture (AVIF, 6 KB at most), 3 frames a packet, key packet every 2 s"
    return [
        CodecFacts(
            key=name,
            title=f"kilocall {name}",
            live=True,
            command=f"weights {digest[:12]} on {comparison.engine}; {about}",
            settings=settings,
        )
        for name, digest in comparison.families.items()
    ] + [
        CodecFacts(
            key="frozen",
            title="frozen picture",
            live=True,
            command="the source picture as it is sent, held for the whole clip",
            settings=["first frame"],
        )
    ]


def _facts(codec: VideoCodec) -> CodecFacts:
    arguments = codec.arguments(codec.ladder[0])
    quantiser = str(codec.ladder[0].quantiser)
    shown = ["Q" if argument == quantiser else argument for argument in arguments]
    return CodecFacts(
        key=codec.key,
        title=codec.title,
        live=codec.live,
        command=f"ffmpeg {' '.join(shown)}, {codec.pixels}",
        settings=[point.name for point in codec.ladder],
    )
