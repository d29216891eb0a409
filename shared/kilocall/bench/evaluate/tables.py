"""Tables of an evaluation: table.md, and what a terminal shows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from kilocall.bench.evaluate.results import ClipResult, ClipScores, Evaluation, Means

__all__ = ["beside", "markdown", "print_evaluation", "rounded", "worst_first"]

#: What fits a terminal of 80 columns; table.md has the rest.
_TERMINAL: Final = (
    ("PSNR", "psnr_db", 2),
    ("SSIM", "ssim", 3),
    ("points", "landmark_px", 2),
    ("mouth", "mouth_r", 2),
    ("eyes", "eye_r", 2),
    ("sharp", "sharpness", 2),
    ("VMAF", "vmaf", 0),
)


def print_evaluation(evaluation: Evaluation, console: Console | None = None) -> None:
    """The most important columns of `table.md` for a terminal."""
    console = console or Console()
    table = Table(title=str(evaluation.folder), caption=_conditions(evaluation), box=box.SIMPLE, pad_edge=False)
    table.add_column("clip", overflow="fold")
    for heading in ("bits", "kbit/s", *(heading for heading, _, _ in _TERMINAL)):
        table.add_column(heading, justify="right", no_wrap=True)

    def scores(made: ClipScores) -> list[str]:
        return [rounded(getattr(made, name), digits) for _, name, digits in _TERMINAL]

    for clip in worst_first(evaluation.clips):
        name = Path(clip.name).stem
        table.add_row(name, f"{clip.payload_bits_mean:.1f}", f"{clip.payload_kbps:.2f}", *scores(clip.decoded))
    mean = evaluation.mean
    table.add_section()
    table.add_row(
        "mean", f"{mean.payload_bits_mean:.1f}", f"{mean.payload_kbps:.2f}", *scores(mean.decoded), style="bold"
    )
    table.add_row("frozen picture", "0", "0", *scores(mean.frozen))
    console.print(table)
    if evaluation.gallery:
        console.print(_gallery_table(evaluation))
    for failure in evaluation.failures:
        console.print(f"not scored: {failure.name}: {failure.reason}", style="yellow", markup=False)


def _gallery_table(evaluation: Evaluation) -> Table:
    table = Table(title="with further pictures of the speaker, means", box=box.SIMPLE, pad_edge=False)
    for heading in ("at most", "pictures", "bytes", *(heading for heading, _, _ in _TERMINAL)):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in evaluation.gallery:
        scores = [rounded(getattr(row.scores, name), digits) for _, name, digits in _TERMINAL]
        table.add_row(str(row.at_most), f"{row.pictures:.1f}", f"{row.picture_bytes:.0f}", *scores)
    return table


_HEADINGS: Final = (
    "bits/frame", "p95", "kbit/s", "coding px", "landmarks px", "PSNR dB", "SSIM", "VMAF", "L1", "sharpness", "flicker",
    "mouth r", "eye r", "gaze r", "mouth gain", "eye gain", "gaze gain", "between lips", "jitter px", "still dB",
)  # fmt: skip


def _cells(row: ClipResult | Means) -> list[str]:
    """One cell per heading: decoded, in brackets the frozen picture (for the jitter: the original)."""
    made, held = row.decoded, row.frozen
    return [
        f"{row.payload_bits_mean:.1f}",
        f"{row.payload_bits_p95:.0f}",
        f"{row.payload_kbps:.2f}",
        f"{row.coding_px:.2f}",
        beside(made.landmark_px, held.landmark_px, 2),
        beside(made.psnr_db, held.psnr_db, 2),
        beside(made.ssim, held.ssim, 3),
        beside(made.vmaf, held.vmaf, 1),
        beside(made.l1, held.l1, 4),
        beside(made.sharpness, held.sharpness, 2),
        rounded(made.flicker, 2),
        rounded(made.mouth_r, 2),
        rounded(made.eye_r, 2),
        rounded(made.gaze_r, 2),
        rounded(made.mouth_gain, 2),
        rounded(made.eye_gain, 2),
        rounded(made.gaze_gain, 2),
        beside(made.interior_off, held.interior_off, 1),
        beside(made.jitter_px, row.truth_jitter_px, 2),
        rounded(row.still_gain_db, 2, sign=True),
    ]


def beside(made: float | None, other: float | None, digits: int) -> str:
    return f"{rounded(made, digits)} ({rounded(other, digits)})"


def rounded(value: float | None, digits: int, sign: bool = False) -> str:
    return "n/a" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def worst_first(clips: Iterable[ClipResult]) -> list[ClipResult]:
    """By how far the landmarks are off; clips without any first."""
    return sorted(clips, key=lambda clip: -(clip.decoded.landmark_px or float("inf")))


def markdown(evaluation: Evaluation) -> str:
    lines = [
        f"# {_cell(evaluation.folder.name)}: decoded (frozen picture)",
        "",
        _line(("clip", *_HEADINGS)),
        _line(("---", *("---:" for _ in _HEADINGS))),
        *(_line((_cell(clip.name), *_cells(clip))) for clip in worst_first(evaluation.clips)),
        _line(("**mean**", *(f"**{cell}**" for cell in _cells(evaluation.mean)))),
        "",
        _conditions(evaluation),
    ]
    if evaluation.failures:
        lines += ["", "Not scored:", ""]
        lines += [f"- {_cell(failure.name)}: {_cell(failure.reason)}" for failure in evaluation.failures]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """A name from outside must not break the table."""
    return " ".join(text.split()).replace("|", "\\|")


def _conditions(evaluation: Evaluation) -> str:
    mean, count = evaluation.mean, len(evaluation.clips)
    held = " pictures moved on where a slow processor does," if evaluation.hold else ""
    layer = f" video layer of {mean.layer_kbps:.2f} kbit/s beside motion," if evaluation.layer else ""
    return " ".join(
        (
            f"{evaluation.family} {evaluation.weights_hash[:12]} on {evaluation.engine},",
            f"{evaluation.threads} threads; quality {evaluation.quality:g},",
            f"{evaluation.frames_per_packet} frames a packet,{layer}{held} source: {evaluation.source} frame as coded.",
            f"Landmarks by {evaluation.landmarks_by}. Jitter in brackets: the original's.",
            f"Mouth r over {mean.mouth_clips} and eye r over {mean.eye_clips} of {count} clips: those whose",
            f"original opens by a standard deviation of {evaluation.min_opening_std_px:g} px or more.",
            f"Still: PSNR over the frozen picture's on the {mean.still_clips} clips where that is above",
            f"{evaluation.still_psnr_db:g} dB. Worst landmarks first;",
            f"{mean.worse_than_frozen} of {count} clips are worse than the frozen picture in PSNR or SSIM.",
        )
    )
