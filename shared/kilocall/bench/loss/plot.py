"""Quality against packet loss as a picture and a table."""

from __future__ import annotations

import io
from typing import Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kilocall.bench.loss.results import LossPoint, LossReport

__all__ = ["loss_plot", "print_loss"]

_PANELS: Final = (
    ("psnr_db", "PSNR dB"),
    ("landmark_px", "landmark distance px (lower is better)"),
    ("new_pictures", "frames with something new"),
    ("wire_kbps", "kbit/s on the wire, sender to receiver"),
)
_STYLES: Final = (
    ("#D55E00", "*"), ("#E69F00", "P"), ("#0072B2", "o"), ("#56B4E9", "s"), ("#999999", "X"), ("#009E73", "^"),
    ("#8C564B", "v"),
    # With a video layer of one rate, or of all.
    ("#CC79A7", "D"), ("#000000", "d"), ("#B8A900", "<"), ("#7F00FF", ">"), ("#FF0000", "p"),
)  # fmt: skip


def loss_plot(report: LossReport) -> bytes:
    """PNG: a row for each pattern of loss, a panel for each measure."""
    patterns = list(dict.fromkeys(point.pattern for point in report.points))
    figure = Figure(figsize=(15, 3.6 * len(patterns) + 0.4), dpi=100, layout="constrained")
    # Without pyplot: nothing global, and no window system is looked for.
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(patterns), len(_PANELS), squeeze=False)
    for pattern, row in zip(patterns, rows, strict=True):
        for (name, title), axes in zip(_PANELS, row, strict=True):
            for method, (colour, mark) in zip(report.methods, _STYLES, strict=False):
                points = _of(report, method, pattern, name)
                axes.plot([x for x, _ in points], [y for _, y in points], color=colour, marker=mark, label=method)
            axes.set_xlabel(f"packets lost, % ({pattern})")
            axes.set_title(title, fontsize=10)
            axes.grid(True, color="#e5e5e5", linewidth=0.6)
    figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=7, frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _of(report: LossReport, method: str, pattern: str, name: str) -> list[tuple[float, float]]:
    # A link that loses nothing is the same in every pattern and was measured once.
    return sorted(
        (100 * point.loss, value)
        for point in report.points
        if point.method == method
        and (point.pattern == pattern or point.loss == 0)
        and (value := getattr(point, name)) is not None
    )


def print_loss(report: LossReport, console: Console | None = None) -> None:
    """A line per link and method."""
    console = console or Console(highlight=False)
    table = Table(
        title=f"{len(report.clips)} clips, round trip {1000 * report.round_trip_s:.0f} ms, landmarks by "
        f"{report.landmarks_by}",
        title_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for heading in ("loss", "method"):
        table.add_column(heading, no_wrap=True)
    for heading in ("lost", "kbit/s", "new", "freeze", "PSNR", "px"):
        table.add_column(heading, justify="right", no_wrap=True)
    before = None
    for point in report.points:
        link = f"{point.loss:.0%} {point.pattern}" if point.loss else "none"
        if before not in (None, link):
            table.add_section()
        table.add_row("" if link == before else link, point.method, *_cells(point))
        before = link
    console.print(table)
    console.print("lost: packets that really were; new: frames with something new; freeze: the longest, s.")
    for name, reason in report.failures:
        console.print(Text(f"left out: {name}: {reason}", style="yellow"))


def _cells(point: LossPoint) -> list[str]:
    return [
        f"{point.lost:.0%}",
        f"{point.wire_kbps:.1f}",
        f"{point.new_pictures:.0%}",
        f"{point.longest_freeze_s:.2f}",
        f"{point.psnr_db:.2f}",
        "n/a" if point.landmark_px is None else f"{point.landmark_px:.2f}",
    ]
