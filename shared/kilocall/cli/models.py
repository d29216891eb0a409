"""train, export, evaluate: making and judging the networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from kilocall.cli.screen import console, needs, print_table, progress_bar, warn

if TYPE_CHECKING:
    from kilocall.bench.evaluate import ClipResult, Means, Scores

__all__ = ["evaluate_clips", "train"]


def train(
    network: Literal["extractor", "renderer"],
    data: Path,
    cache: Path,
    run: Path,
    *,
    steps: int,
    batch: int,
    threads: int,
    device: str,
) -> None:
    needs("torch", "train")
    from kilocall.train.run import run_training

    figures = run_training(
        network, data, cache, run, steps=steps, batch=batch, threads=threads, device=device, console=console()
    )
    print_table(f"{network}, step {steps}", ["figure", "value"], [[k, f"{v:.4f}"] for k, v in figures.items()])


def evaluate_clips(folder: Path, out: Path, **options: Any) -> None:
    from kilocall.bench.evaluate import evaluate_folder

    with progress_bar(f"evaluating {folder}") as progress:
        result = evaluate_folder(folder, out, progress=progress, **options)
    for failure in result.failures:
        warn(f"{failure.name}: {failure.reason}")
    rows = [(clip.name, clip) for clip in result.clips]
    print_table(
        f"{result.folder}: {result.family} on {result.engine}, {result.threads} threads, "
        f"landmarks by {result.landmarks_by}",
        ["clip", "bits/frame", "kbit/s", *(title for title, _, _ in SCORES)],
        [
            *(_score_row(name, clip, clip.decoded) for name, clip in rows),
            _score_row("mean", result.mean, result.mean.decoded),
            ["mean, frozen picture", "", "", *_scores(result.mean.frozen)],
        ],
    )
    console().print(f"wrote evaluation.json, table.md and contact_sheet.png to {out}", soft_wrap=True)


SCORES: Final = (
    ("PSNR dB", "psnr_db", 2),
    ("SSIM", "ssim", 3),
    ("landmarks px", "landmark_px", 2),
    ("mouth r", "mouth_r", 2),
    ("eyes r", "eye_r", 2),
    ("sharpness", "sharpness", 2),
)


def _score_row(name: str, row: ClipResult | Means, scores: Scores) -> list[str]:
    return [name, f"{row.payload_bits_mean:.1f}", f"{row.payload_kbps:.2f}", *_scores(scores)]


def _scores(scores: Scores) -> list[str]:
    values = [(getattr(scores, field), digits) for _, field, digits in SCORES]
    return ["-" if value is None else f"{value:.{digits}f}" for value, digits in values]
