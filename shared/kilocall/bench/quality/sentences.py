"""What a reader of the report should not have to look for, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kilocall.bench.quality.curves import curve, payload_kbps, rate_at, wire_kbps_of
from kilocall.bench.quality.facts import METRICS, PLOTTED_CALL_S, MeanPoint, Metric, layered, wire_of

__all__ = ["sentences"]

#: Below this payload rate a classic codec is a rival of kilocall's own range.
_LOW_KBPS: Final = 10.0


def sentences(ours: MeanPoint, means: Sequence[MeanPoint], titles: dict[str, str]) -> list[str]:
    """What a reader should not have to look for, the bad news first."""
    said = [_beaten(metric, ours, means, titles) for metric in METRICS if metric.of_pixels]
    said += [_followed(ours, means, titles), _on_the_wire(ours), _same_wire_rate(ours, means, titles)]
    said += [_layered(point, means, titles) for point in layered(ours.codec, means)]
    return [sentence for sentence in said if sentence is not None]


def _beaten(metric: Metric, ours: MeanPoint, means: Sequence[MeanPoint], titles: dict[str, str]) -> str | None:
    own, kbps = ours.scores[metric.name], ours.rates.kbps
    if own is None:
        return None
    rivals = [
        (point.scores[metric.name] or 0.0, point)
        for point in means
        if point.codec in titles and point.scores[metric.name] is not None and point.rates.kbps <= _LOW_KBPS
    ]
    better = [pair for pair in rivals if pair[0] > own]
    if not better:
        return None
    cheapest = min(better, key=lambda pair: pair[1].rates.kbps)
    best = max(better, key=lambda pair: pair[0])
    return (
        f"By {metric.word} kilocall is beaten: {_told(best, metric, titles)}, kilocall "
        f"{_score(own, metric)} at {kbps:.2f} kbit/s; the cheapest that is better is "
        f"{_told(cheapest, metric, titles)}, {cheapest[1].rates.kbps / kbps:.1f} times the bits."
    )


def _followed(ours: MeanPoint, means: Sequence[MeanPoint], titles: dict[str, str]) -> str | None:
    landmark = next(metric for metric in METRICS if metric.name == "landmark_px")
    own, kbps = ours.scores[landmark.name], ours.rates.kbps
    if own is None:
        return None
    needs = {
        key: rate
        for key in titles
        if (rate := rate_at(curve(means, key, landmark, payload_kbps), own, landmark)) is not None
    }
    if not needs:
        return None
    key = min(needs, key=lambda k: needs[k])
    return (
        f"By landmark distance kilocall has {own:.2f} px at {kbps:.2f} kbit/s; the cheapest codec to reach "
        f"that is {titles[key]} at {needs[key]:.1f} kbit/s, {needs[key] / kbps:.1f} times as much."
    )


def _on_the_wire(ours: MeanPoint) -> str:
    wire = wire_of(ours)
    return (
        f"On the wire the distance shrinks: headers make kilocall's {ours.rates.kbps:.2f} kbit/s of payload "
        f"{wire.forward_kbps:.1f} kbit/s forward and {wire.back_kbps:.1f} back; the first picture costs "
        f"{wire.first_bytes} bytes, so a call of 10 s costs {wire.call_kbps[10]:.1f} kbit/s in all, one of 1 min "
        f"{wire.call_kbps[60]:.1f}, one of 10 min {wire.call_kbps[600]:.1f}."
    )


def _same_wire_rate(ours: MeanPoint, means: Sequence[MeanPoint], titles: dict[str, str]) -> str | None:
    rival = _best_rival(ours, means, titles)
    if rival is None:
        return None
    return (
        f"At kilocall's rate on the wire the best by PSNR is {titles[rival.codec]} ({rival.setting}), "
        f"{wire_kbps_of(rival):.1f} kbit/s in a call of 1 min: {_beside(rival, ours, 'psnr_db')} dB PSNR, "
        f"{_beside(rival, ours, 'vmaf')} VMAF, {_beside(rival, ours, 'landmark_px')} px landmark distance, "
        f"{_beside(rival, ours, 'mouth_r')} mouth motion (kilocall's in brackets)."
    )


def _layered(point: MeanPoint, means: Sequence[MeanPoint], titles: dict[str, str]) -> str:
    said = (
        f"With {point.setting.rpartition(', ')[2]} kilocall has {_psnr_told(point)} at "
        f"{point.rates.kbps:.1f} kbit/s of payload, {wire_kbps_of(point):.1f} on the wire"
    )
    rival = _best_rival(point, means, titles)
    if rival is None:
        return f"{said}."
    return (
        f"{said}; at that rate on the wire the best by PSNR is {titles[rival.codec]} ({rival.setting}) with "
        f"{_psnr_told(rival)} at {wire_kbps_of(rival):.1f}."
    )


def _best_rival(ours: MeanPoint, means: Sequence[MeanPoint], titles: dict[str, str]) -> MeanPoint | None:
    """By PSNR, of what costs at most a tenth more on the wire; None where nothing else is so cheap."""
    same = [
        point
        for point in means
        if point.codec in titles
        and wire_kbps_of(point) <= 1.1 * wire_of(ours).call_kbps[PLOTTED_CALL_S]
        and point.scores["psnr_db"]
    ]
    return max(same, key=lambda point: point.scores["psnr_db"] or 0) if same else None


def _psnr_told(point: MeanPoint) -> str:
    value = point.scores["psnr_db"]
    return f"{'n/a' if value is None else f'{value:.2f}'} dB PSNR"


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
    return f"{value:.{metric.digits}f}{f' {metric.unit}' if metric.unit else ''}"
