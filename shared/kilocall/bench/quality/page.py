"""The report as one HTML page that needs nothing else: plots and pictures are inside it, and no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kilocall.bench.html import PNG, HtmlRow, HtmlTable, data_url, rendered
from kilocall.bench.quality.facts import METRICS, PLOTTED_CALL_S, MeanPoint, MissingFacts, QualityReport, Rates, wire_of
from kilocall.bench.quality.jobs import STRIP_MOMENTS
from kilocall.bench.quality.results import PointResult
from kilocall.bench.quality.wire import CALLS_S

__all__ = ["Strip", "StripCell", "page", "strips_of"]

#: What a classic codec needs for a picture that one would want to see.
_STRIP_KBPS: Final = 10.0


@dataclass(frozen=True)
class StripCell:
    """One method's pictures of a clip: JPEG in base64, one of each moment."""

    title: str
    lines: tuple[str, ...]
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Strip:
    title: str
    cells: tuple[StripCell, ...]


def strips_of(
    report: QualityReport, results: Sequence[PointResult], originals: dict[str, list[str]], most: int = 6
) -> list[Strip]:
    """For the first `most` clips: the original, kilocall, and each codec at the rate nearest to kilocall's, then at
    that nearest to 10 kbit/s."""
    strips = []
    for clip in list(originals)[:most]:
        of_clip = [result for result in results if result.clip.name == clip]
        rates = {(p.codec, p.setting): p.rates for p in report.points if p.clip == clip}
        own = next((r for r in of_clip if (r.codec, r.setting) == (report.kilocall, report.kilocall_setting)), None)
        if own is None:
            continue
        target = rates[own.codec, own.setting].kbps
        for wanted, about in ((target, "kilocall's rate"), (_STRIP_KBPS, f"{_STRIP_KBPS:g} kbit/s")):
            cells = _strip_cells(of_clip, own, rates, wanted, report)
            first = StripCell("original", ("",), tuple(originals[clip]))
            strips.append(Strip(f"{clip}, the classic codecs at what they have nearest to {about}", (first, *cells)))
    return strips


def _strip_cells(
    of_clip: Sequence[PointResult],
    own: PointResult,
    rates: dict[tuple[str, str], Rates],
    wanted: float,
    report: QualityReport,
) -> list[StripCell]:
    cells = []
    titles, layered = report.titles, {point.setting for point in report.layered}
    for key in titles:
        points = [r for r in of_clip if r.codec == key]
        if key == own.codec:
            # At its own rate it is shown as the sentences speak of it; with more, a layer is what it has for that.
            points = [r for r in points if r is own or r.setting in layered]
        if points:
            nearest = min(points, key=lambda r: abs(rates[r.codec, r.setting].kbps - wanted))
            cost = rates[nearest.codec, nearest.setting]
            lines = (
                nearest.setting,
                f"{cost.bits_mean:.0f} bits a frame" if cost.bits_mean else "nothing after the picture",
                f"{cost.kbps:.2f} kbit/s + {cost.first_bytes} bytes",
                f"PSNR {nearest.scores.psnr_db:.1f} dB",
            )
            cells.append(StripCell(titles[key], lines, tuple(nearest.strip)))
    return cells


def page(report: QualityReport, plots: dict[str, bytes], strips: Sequence[Strip]) -> str:
    """The whole HTML document."""
    count = len(report.clips)
    seconds = sum(clip.frames / clip.fps for clip in report.clips)
    return rendered(
        "quality.html",
        report=report,
        clips=f"{count} clip{'s' if count > 1 else ''}, {seconds:.0f} s",
        frame_rates=", ".join(sorted({f"{clip.fps:g} fps" for clip in report.clips})),
        missing=[_left_out(item) for item in report.missing],
        own_kbps=f"{report.own_point.rates.kbps:.2f}",
        scores=_scores_table(report),
        rates=_rates_table(report),
        matches=_match_table(report),
        bd_rates=_bd_table(report),
        wire=_wire_table(report),
        clip_table=_clips_table(report),
        plots={name: data_url(data, PNG) for name, data in plots.items()},
        strips=strips,
        moments=", ".join(f"{moment:.0%}" for moment in STRIP_MOMENTS),
    )


def _left_out(item: MissingFacts) -> str:
    return f"{', '.join(part for part in (item.clip, item.codec) if part)}: {item.reason}"


def _scores_table(report: QualityReport) -> HtmlTable:
    titles = report.titles

    def cells(point: MeanPoint) -> list[str]:
        found = point.scores["face_found"]
        return [
            titles[point.codec],
            point.setting,
            f"{point.rates.kbps:.2f}",
            f"{wire_of(point).call_kbps[PLOTTED_CALL_S]:.1f}",
            *(_number(point.scores[metric.name], metric.digits) for metric in report.metrics),
            _number(point.scores["flicker"], 2),
            "" if found is None else f"{found:.0%}",
        ]

    shorts = [metric.short_title for metric in report.metrics]
    rows = [HtmlRow(cells(point), point.codec in report.families) for point in report.means]
    return HtmlTable(["codec", "setting", "kbit/s", "wire kbit/s", *shorts, "flicker", "found"], rows, words=(0, 1))


def _rates_table(report: QualityReport) -> HtmlTable:
    titles = report.titles
    head = ["codec", "setting", "bits/frame", "p95", "max", "kbit/s", "first picture, bytes", "kbit/s, 10 s call",
            "1 min", "10 min", "clips"]  # fmt: skip

    def cells(point: MeanPoint) -> list[str]:
        rates = point.rates
        return [
            titles[point.codec],
            point.setting,
            f"{rates.bits_mean:.1f}",
            f"{rates.bits_p95:.0f}",
            f"{rates.bits_max:.0f}",
            f"{rates.kbps:.2f}",
            str(rates.first_bytes),
            *(f"{rates.call_kbps[length]:.2f}" for length in CALLS_S),
            str(point.clips),
        ]

    return HtmlTable(
        head, [HtmlRow(cells(point), point.codec in report.families) for point in report.means], words=(0, 1)
    )


def _match_table(report: QualityReport) -> HtmlTable:
    metrics = [m for m in METRICS if any(match.metric == m.name for match in report.matches)]
    found = {(match.codec, match.metric): match.text for match in report.matches}
    values = {match.metric: match.value for match in report.matches}
    keys = dict.fromkeys(match.codec for match in report.matches)
    rows = [HtmlRow([report.titles[key], *(found.get((key, m.name), "") for m in metrics)]) for key in keys]
    return HtmlTable(["codec", *(f"{m.title} {values[m.name]:.{m.digits}f}" for m in metrics)], rows)


def _bd_table(report: QualityReport) -> HtmlTable:
    metrics = [m for m in METRICS if any(rate.metric == m.name for rate in report.bd_rates)]
    found = {(rate.codec, rate.metric): rate.text for rate in report.bd_rates}
    keys = dict.fromkeys(rate.codec for rate in report.bd_rates)
    rows = [
        HtmlRow([report.titles[key], *(found.get((key, m.name), "") for m in metrics)], key in report.families)
        for key in keys
    ]
    return HtmlTable(["codec", *(m.title for m in metrics)], rows)


def _wire_table(report: QualityReport) -> HtmlTable:
    titles = report.titles
    rows = []
    for point in report.means:
        own = point.codec in report.families
        for wire in point.rates.wire if own else [wire_of(point)]:
            cells = [
                titles[point.codec],
                point.setting,
                wire.how,
                f"{point.rates.kbps:.2f}",
                f"{wire.forward_kbps:.1f}",
                f"{wire.back_kbps:.1f}",
                str(wire.first_bytes),
                *(f"{wire.call_kbps[length]:.1f}" for length in CALLS_S),
            ]
            rows.append(HtmlRow(cells, own))
    head = ["codec", "setting", "sent by", "payload", "forward", "back", "first picture, bytes",
            "10 s call", "1 min", "10 min"]  # fmt: skip
    return HtmlTable(head, rows, words=(0, 1, 2))


def _clips_table(report: QualityReport) -> HtmlTable:
    rows = [
        HtmlRow([clip.name, "; ".join(clip.notes), str(clip.frames), f"{clip.fps:g}", clip.digest[:12]])
        for clip in report.clips
    ]
    return HtmlTable(["clip", "notes", "frames", "fps", "SHA-256 of the pixels"], rows, words=(0, 1))


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
