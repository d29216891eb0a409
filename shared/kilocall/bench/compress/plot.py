"""Size and speed of every method, one panel a network."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kilocall.bench.compress.results import MethodKind, Study

__all__ = ["study_plot"]

#: Colours that people with a colour weakness can tell apart (Okabe and Ito), by kind of method.
_LOOKS: Final = {
    MethodKind.FP32: ("#000000", "o"),
    MethodKind.FP16: ("#999999", "s"),
    MethodKind.BF16: ("#56B4E9", "s"),
    MethodKind.INT8: ("#0072B2", "^"),
    MethodKind.PRUNED: ("#E69F00", "v"),
    MethodKind.CHANNELS: ("#009E73", "D"),
    MethodKind.SHIPPED: ("#D55E00", "*"),
}
_WIDTH, _HEIGHT, _DPI = 5.2, 4.4, 100


def study_plot(study: Study, kinds: Mapping[str, MethodKind]) -> bytes:
    """PNG: how many times smaller (weights) against how many times as fast, one panel per network and engine.

    `kinds` are those of the study's methods.
    """
    engines = sorted({s.engine for row in study.rows for s in row.speeds}, reverse=True)
    names = list(study.titles)
    figure = Figure(figsize=(_WIDTH * len(names), _HEIGHT * len(engines)), dpi=_DPI, layout="constrained")
    # Without pyplot: nothing global, and no window system is looked for.
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(engines), len(names), squeeze=False)
    for row, engine in enumerate(engines):
        for column, name in enumerate(names):
            _panel(panels[row][column], study, kinds, name, engine)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _panel(axes: Axes, study: Study, kinds: Mapping[str, MethodKind], network: str, engine: str) -> None:
    for row in study.rows:
        ratio = next((s.ratio for s in row.speeds if s.engine == engine), None)
        if row.network != network or ratio is None:
            continue
        colour, mark = _LOOKS[kinds[row.method]]
        axes.plot(row.times_smaller, ratio, mark, color=colour, markersize=12 if mark == "*" else 7)
        axes.annotate(row.method, (row.times_smaller, ratio), (5, 4), textcoords="offset points", fontsize=7)
    axes.axhline(1, color="#dcdcde", zorder=0)
    axes.axvline(1, color="#dcdcde", zorder=0)
    axes.set_title(f"{network} on {engine}, threads: {study.threads}", fontsize=10)
    axes.set_xlabel("times smaller (weights)")
    axes.set_ylabel("times as fast as fp32")
    axes.margins(0.18)
