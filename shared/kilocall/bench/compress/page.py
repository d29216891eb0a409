"""The study as Markdown and as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from kilocall.bench.compress.results import MethodKind, Row, Study
from kilocall.bench.html import PNG, HtmlRow, HtmlTable, data_url, rendered

__all__ = ["markdown", "page", "print_study"]


def _conditions(study: Study) -> str:
    return (
        f"{study.machine}; threads: {study.threads}; data: {study.data}; {study.pairs} inputs to calibrate, as many "
        f"others to compare; {study.rounds} calls each, in turn. Times are medians; speed is the median over rounds of "
        "fp32's time over the method's, on the same engine in the same run. Sizes are of weights with their scales "
        "(the file has grids and the graph besides); deflated is the whole file as a download compresses it. "
        "compact-256 is stored in 8 bits: its fp32 is that unpacked, which deflates better than trained floats do."
    )


def _engines(study: Study) -> list[str]:
    return list(dict.fromkeys(s.engine for row in study.rows for s in row.speeds))


def _heads(study: Study, unit: str | None) -> list[str]:
    heads = ["method", "weights, kB", "times smaller", "file, kB", "deflated, kB"]
    for engine in _engines(study):
        heads += [f"{engine}, ms", f"{engine}, speed"]
    if unit is not None:
        heads.append("PSNR to fp32, dB" if unit == "dB" else f"off from fp32, {unit}")
    if unit == "dB":
        heads += ["PSNR to truth, dB", "lost, dB"]
    return [*heads, "note"]


def _cells(study: Study, row: Row, unit: str | None) -> list[str]:
    cells = [
        row.method,
        f"{row.weight_bytes / 1000:.0f}",
        f"{row.times_smaller:.2f}",
        f"{row.file_bytes / 1000:.0f}",
        f"{row.deflated_bytes / 1000:.0f}",
    ]
    refused = []
    for engine in _engines(study):
        speed = next(s for s in row.speeds if s.engine == engine)
        if speed.refused is not None:
            refused.append(f"{engine} refuses it: {speed.refused}")
        cells += [_number(speed.median_ms, 2), _number(speed.ratio, 2)]
    if unit is not None:
        cells.append(_number(row.from_fp32, 2 if unit == "dB" else 3))
    if unit == "dB":
        cells += [_number(row.truth_psnr_db, 2), _number(row.truth_loss_db, 3)]
    trained = f"{row.trained_steps} steps" if row.trained_steps else ""
    zeros = f"{row.zeros:.0%} zeros" if row.zeros > 0.005 else ""
    return [*cells, "; ".join(part for part in (row.note, trained, zeros, *refused) if part)]


def _number(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def markdown(study: Study) -> str:
    """One table a network."""
    lines = ["# Compression study", "", _conditions(study), "", "The report found:", ""]
    lines += [f"- {line}" for line in study.reported]
    for name, title in study.titles.items():
        heads = _heads(study, study.units[name])
        lines += ["", f"## {name}: {title}", "", _line(heads), _line(["---", *["---:"] * (len(heads) - 2), "---"])]
        lines += [_line(_cells(study, row, study.units[name])) for row in study.rows if row.network == name]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page(study: Study, plot: bytes, kinds: Mapping[str, MethodKind]) -> str:
    """HTML with the plot inside; `kinds` are those of the study's methods."""
    return rendered(
        "compress.html",
        conditions=_conditions(study),
        reported=study.reported,
        plot=data_url(plot, PNG),
        networks=[
            {"name": name, "title": title, "table": _table(study, name, kinds)} for name, title in study.titles.items()
        ],
    )


def _table(study: Study, network: str, kinds: Mapping[str, MethodKind]) -> HtmlTable:
    head = _heads(study, study.units[network])
    rows = [
        HtmlRow(_cells(study, row, study.units[network]), own=kinds[row.method] is MethodKind.SHIPPED)
        for row in study.rows
        if row.network == network
    ]
    return HtmlTable(head, rows, words=(0, len(head) - 1))


def print_study(study: Study, console: Console) -> None:
    """What matters most, for a terminal."""
    for name, title in study.titles.items():
        table = Table(title=f"{name}: {title}", box=box.SIMPLE, pad_edge=False, title_justify="left")
        table.add_column("method", no_wrap=True)
        heads = ["times smaller", *(f"{e}, speed" for e in _engines(study)), "off"]
        for head in heads:
            table.add_column(head, justify="right")
        for row in (r for r in study.rows if r.network == name):
            ratios = [next(s.ratio for s in row.speeds if s.engine == engine) for engine in _engines(study)]
            cells = [f"{row.times_smaller:.2f}", *(_number(r, 2) for r in ratios), _number(row.from_fp32, 2)]
            table.add_row(row.method, *cells)
        console.print(table)
    console.print(_conditions(study), soft_wrap=True, style="dim")
