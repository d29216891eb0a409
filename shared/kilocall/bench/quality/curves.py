"""Score against rate: the curve of a codec, where it reaches a score, and BD-rates."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from kilocall.bench.quality.facts import METRICS, PLOTTED_CALL_S, BdRate, Match, MeanPoint, Metric, wire_of

__all__ = ["COMPARED", "bd_rates", "curve", "has_curve", "match_of", "payload_kbps", "rate_at", "wire_kbps_of"]

#: Those whose curves rise with the rate, so that rates can be compared at equal quality.
COMPARED: Final = tuple(metric for metric in METRICS if not metric.ideal_is_one)


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


def payload_kbps(point: MeanPoint) -> float:
    return point.rates.kbps


def wire_kbps_of(point: MeanPoint) -> float:
    return wire_of(point).call_kbps[PLOTTED_CALL_S]


def has_curve(means: Sequence[MeanPoint], codec: str, metric: Metric) -> bool:
    return bool(curve(means, codec, metric, payload_kbps))


def match_of(metric: Metric, codec: str, ours: MeanPoint, means: Sequence[MeanPoint]) -> Match:
    value = ours.scores[metric.name]
    points = curve(means, codec, metric, payload_kbps)
    lowest, best = points[0], points[-1]

    def say(kbps: float | None, text: str) -> Match:
        wire = (
            None if kbps is None or value is None else rate_at(curve(means, codec, metric, wire_kbps_of), value, metric)
        )
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
    kbps = rate_at(points, value, metric)
    assert kbps is not None
    return say(kbps, f"{kbps:.1f} ({kbps / ours.rates.kbps:.1f} x)")


def rate_at(points: Sequence[tuple[float, float, str]], value: float, metric: Metric) -> float | None:
    """Where a curve reaches a score: straight lines over the logarithm of the rate."""
    sign = 1 if metric.higher_is_better else -1
    scores = [sign * score for _, score, _ in points]
    if not scores or not scores[0] <= sign * value <= scores[-1]:
        return None
    return float(np.exp(np.interp(sign * value, scores, np.log([rate for rate, _, _ in points]))))


def bd_rates(means: Sequence[MeanPoint], anchor: str, codecs: Sequence[str]) -> list[BdRate]:
    return [
        _bd_rate(means, anchor, codec, metric)
        for metric in COMPARED
        for codec in codecs
        if codec != anchor and has_curve(means, codec, metric) and has_curve(means, anchor, metric)
    ]


def _bd_rate(means: Sequence[MeanPoint], anchor: str, codec: str, metric: Metric) -> BdRate:
    sign = 1 if metric.higher_is_better else -1
    base, other = (curve(means, key, metric, payload_kbps) for key in (anchor, codec))
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
