"""train, export, evaluate: making and judging the networks."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Literal

from kilocall.cli.screen import console, needs, print_table, progress_bar, warn
from kilocall.proto.errors import BadInput

if TYPE_CHECKING:
    from kilocall.bench.evaluate import ClipResult, Means, Scores

__all__ = ["evaluate_clips", "export", "train", "train_codebook"]

CHECKPOINT: Final = "checkpoint.pt"


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


def train_codebook(data: Path, cache: Path, weights: Path, *, engine: str, threads: int) -> None:
    from kilocall.model.compact.family import CompactFamily
    from kilocall.runtime.engine import choose_engine

    needs("torch", "train")
    from kilocall.train.codebook import fit_family_codebook
    from kilocall.train.dataset import Dataset
    from kilocall.train.export import CODEBOOK, put_codebook

    if not (weights / "manifest.json").is_file():
        raise BadInput(f"weights: {weights} holds no manifest.json; `kilocall export` makes such a folder")
    family = CompactFamily(weights, choose_engine(engine, threads))
    clips = Dataset.open(data / "train", cache / "train")
    screen = console()
    with progress_bar("following the clips") as progress, TemporaryDirectory() as folder:
        codebook = fit_family_codebook(
            family, clips, progress=progress, say=lambda line: screen.print(line, soft_wrap=True)
        )
        made = Path(folder) / CODEBOOK
        codebook.save(made)
        put_codebook(made, weights)
    screen.print(f"wrote {weights / CODEBOOK}", soft_wrap=True)


def export(extractor: Path, renderer: Path, data: Path, cache: Path, out: Path) -> None:
    for module in ("torch", "onnx", "onnxruntime"):
        needs(module, "train")
    from kilocall.train.export import export_run

    made = export_run(extractor / CHECKPOINT, renderer / CHECKPOINT, data / "train", cache / "train", out, console())
    print_table(
        str(out),
        ["network", "precision", "against float", "bytes"],
        [[m.network, m.precision, f"{m.difference:.3f} {m.unit}", str(m.bytes)] for m in made],
    )
    if not (out / "codebook.safetensors").exists():
        warn(f"{out} has no codebook yet: kilocall train codebook --weights {out} makes one")


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
        ["clip", "bits", "kbit/s", *(title for title, _, _ in SCORES)],
        [
            *(_score_row(name.rpartition(".")[0] or name, clip, clip.decoded) for name, clip in rows),
            _score_row("mean", result.mean, result.mean.decoded),
            ["frozen picture", "", "", *_scores(result.mean.frozen)],
        ],
    )
    console().print("bits a frame, dB, landmark distance in pixels at 256, correlation of the openings", style="dim")
    console().print(f"wrote evaluation.json, table.md and contact_sheet.png to {out}", soft_wrap=True)


SCORES: Final = (
    ("PSNR", "psnr_db", 2),
    ("SSIM", "ssim", 3),
    ("points", "landmark_px", 2),
    ("mouth", "mouth_r", 2),
    ("eyes", "eye_r", 2),
    ("sharp", "sharpness", 2),
)


def _score_row(name: str, row: ClipResult | Means, scores: Scores) -> list[str]:
    return [name, f"{row.payload_bits_mean:.1f}", f"{row.payload_kbps:.2f}", *_scores(scores)]


def _scores(scores: Scores) -> list[str]:
    values = [(getattr(scores, field), digits) for _, field, digits in SCORES]
    return ["-" if value is None else f"{value:.{digits}f}" for value, digits in values]
