"""`kilocall bench quality`: compares, and writes index.html, report.json and the plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kilocall.bench.quality.compare import compare
from kilocall.bench.quality.facts import MeanPoint, QualityReport, wire_of
from kilocall.bench.quality.jobs import originals
from kilocall.bench.quality.page import page, strips_of
from kilocall.bench.quality.settings import QualitySettings
from kilocall.bench.quality.summary import summarise
from kilocall.runtime.files import check_output_folder, write_whole

__all__ = ["measure_quality", "print_summary"]

CACHE_FOLDER: Final = "cache"


def measure_quality(
    clips: Sequence[Path],
    out: Path,
    settings: QualitySettings,
    *,
    cache: Path | None = None,
    pictures: bool = True,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> QualityReport:
    """Measures and writes the report into `out`.

    `cache` is where results are kept between runs, by default a folder in `out`. Without `pictures` the report shows
    none of the clips. BadInput for what cannot be measured or written.
    """
    check_output_folder(out)
    from kilocall.bench.quality.plots import metric_plots

    out.mkdir(parents=True, exist_ok=True)
    comparison = compare(clips, settings, cache=cache or out / CACHE_FOLDER, progress=progress)
    report = summarise(comparison)
    plots = metric_plots(report)
    strips = []
    if pictures:
        shown = {name: originals(path, settings) for name, path in list(comparison.clips.items())[:6]}
        strips = strips_of(report, comparison.results, shown)
    for name, data in plots.items():
        write_whole(out / f"{name}.png", data)
    write_whole(out / "report.json", report.model_dump_json(indent=1).encode())
    write_whole(out / "index.html", page(report, plots, strips).encode())
    return report


def print_summary(report: QualityReport, console: Console | None = None) -> None:
    """A line per codec, each at its cheapest and dearest setting, and the sentences."""
    console = console or Console(highlight=False)
    table = Table(
        title=f"{len(report.clips)} clips, landmarks by {report.landmarks_by}",
        title_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
    )
    table.add_column("codec", no_wrap=True)
    for heading in ("kbit/s", "wire", "PSNR", "SSIM", "VMAF", "px", "mouth"):
        table.add_column(heading, justify="right", no_wrap=True)
    for codec in report.codecs:
        points = sorted((p for p in report.means if p.codec == codec.key), key=lambda p: p.rates.kbps)
        if not points:
            continue
        own = [p for p in points if (p.codec, p.setting) == (report.kilocall, report.kilocall_setting)]
        shown = own or [_nearest_ten(points)]
        table.add_row(codec.title, *_cells(shown[0]), style="bold" if own else "")
        if own:
            for point in report.layered:
                table.add_row(f"  {point.setting.rpartition(', ')[2]}", *_cells(point))
    console.print(table)
    console.print(
        "wire: both ways, first picture in a call of 1 min; px: landmark distance. "
        "Classic codecs at their setting nearest to 10 kbit/s."
    )
    for sentence in report.sentences:
        console.print(Text(f"- {sentence}"))
    for gone in report.missing:
        named = ", ".join(part for part in (gone.clip, gone.codec) if part)
        console.print(Text(f"left out: {named}: {gone.reason}", style="yellow"))


def _nearest_ten(points: Sequence[MeanPoint]) -> MeanPoint:
    return min(points, key=lambda point: abs(point.rates.kbps - 10))


def _cells(point: MeanPoint) -> list[str]:
    scores = point.scores

    def told(name: str, digits: int) -> str:
        value = scores[name]
        return "n/a" if value is None else f"{value:.{digits}f}"

    return [
        f"{point.rates.kbps:.2f}",
        f"{wire_of(point).call_kbps[60]:.1f}",
        told("psnr_db", 2),
        told("ssim", 3),
        told("vmaf", 1),
        told("landmark_px", 2),
        told("mouth_r", 2),
    ]
