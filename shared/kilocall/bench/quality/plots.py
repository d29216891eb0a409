"""Every metric against the rate, payload and wire, as PNG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from kilocall.bench.quality.facts import METRICS, PLOTTED_CALL_S, MeanPoint, Metric, QualityReport, layered, wire_of

__all__ = ["metric_plot", "metric_plots"]

_INCHES, _DPI = (12.0, 4.6), 100
#: Colours that people with a colour weakness can tell apart (Okabe and Ito), and marks beside them.
_STYLES: Final = (
    ("#0072B2", "o"), ("#56B4E9", "s"), ("#009E73", "^"), ("#E69F00", "v"), ("#CC79A7", "D"),
    ("#8C564B", "P"), ("#999999", "X"), ("#000000", "<"), ("#B8A900", ">"),
)  # fmt: skip
_OURS: Final = "#D55E00"


def metric_plots(report: QualityReport) -> dict[str, bytes]:
    """PNG by metric; metrics that nobody measured are left out."""
    return {
        metric.name: metric_plot(report, metric)
        for metric in METRICS
        if any(point.scores[metric.name] is not None for point in report.means)
    }


def metric_plot(report: QualityReport, metric: Metric) -> bytes:
    """Two panels: over the payload after the first picture, and over all that a call of a minute puts on the wire."""
    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    # Without pyplot: nothing global, and no window system is looked for.
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, report, metric, lambda point: point.rates.kbps)
    _draw(right, report, metric, lambda point: wire_of(point).call_kbps[PLOTTED_CALL_S])
    left.set_xlabel("payload, kbit/s, without first picture (log)")
    right.set_xlabel("on the wire, kbit/s, both ways, first picture in a call of 1 min (log)")
    left.set_ylabel(metric.title + ("" if metric.higher_is_better else " (lower is better)"))
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _draw(axes: Axes, report: QualityReport, metric: Metric, rate: Callable[[MeanPoint], float]) -> None:
    titles = report.titles
    for key, (colour, mark) in zip(report.classic, _STYLES, strict=False):
        points = [point for point in report.means if point.codec == key]
        _line(axes, points, metric, rate, titles[key], color=colour, marker=mark, linewidth=1.2, markersize=4.5)
    for number, key in enumerate(report.families):
        colour = _OURS if number == 0 else f"C{number}"
        plain, with_layer = _apart(key, report)
        _line(axes, plain, metric, rate, titles[key], color=colour, marker="*", linewidth=2.4, markersize=10)
        title = f"{titles[key]} + layer"
        _line(axes, with_layer, metric, rate, title, color=colour, marker="h", linewidth=1.6, markersize=6, ls="--")
    frozen = report.frozen.scores[metric.name] if report.frozen else None
    if frozen is not None:
        axes.axhline(frozen, color="#666666", linestyle=":", linewidth=1.2, label="frozen picture")
    if metric.ideal_is_one:
        axes.axhline(1, color="#bbbbbb", linewidth=0.8)
    axes.set_xscale("log")
    # Some panels span less than a decade: without the steps between, one tick would be all they have.
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if not metric.higher_is_better:
        # Distances run over two decades, and the small ones are those that matter.
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="both", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)


def _apart(family: str, report: QualityReport) -> tuple[list[MeanPoint], list[MeanPoint]]:
    """Points of a family by motion alone, and the usual one of them with what becomes of it by a video layer."""
    further = layered(family, report.means)
    plain = [point for point in report.means if point.codec == family and point not in further]
    usual = [point for point in plain if point.setting == report.kilocall_setting]
    return plain, [*usual, *further] if further else []


def _line(
    axes: Axes,
    means: Sequence[MeanPoint],
    metric: Metric,
    rate: Callable[[MeanPoint], float],
    title: str,
    **style: object,
) -> None:
    points = sorted((rate(point), value) for point in means if (value := point.scores[metric.name]) is not None)
    if points:
        axes.plot([x for x, _ in points], [y for _, y in points], label=title, **style)  # type: ignore[arg-type]
