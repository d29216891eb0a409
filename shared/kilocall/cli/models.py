"""train, export, evaluate: making and judging the networks."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from kilocall.cli.opening import open_models
from kilocall.cli.options import Models
from kilocall.cli.screen import console, needs, print_table, progress_bar, warn
from kilocall.proto.errors import BadInput

__all__ = ["evaluate_clips", "export", "train", "train_codebook", "train_fusion"]

#: No engine takes more threads.
_MOST_ENGINE_THREADS = 64


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
    extractor: Path | None = None,
    discriminator: bool = False,
    teacher: Path | None = None,
    minutes: float | None = None,
) -> None:
    needs("torch", "train")
    from kilocall.train.run import run_training

    figures = run_training(
        network,
        data,
        cache,
        run,
        steps=steps,
        batch=batch,
        threads=threads,
        device=device,
        extractor=extractor,
        discriminator=discriminator,
        teacher=teacher,
        minutes=minutes,
        console=console(),
    )
    print_table(f"{network}, step {steps}", ["figure", "value"], [[k, f"{v:.4f}"] for k, v in figures.items()])


def train_fusion(
    data: Path,
    cache: Path,
    run: Path,
    *,
    steps: int,
    batch: int,
    threads: int,
    device: str,
    weights: Path | None,
    minutes: float | None,
) -> None:
    from kilocall.model.compact.family import CompactFamily
    from kilocall.model.engine_choice import choose_engine
    from kilocall.model.family import weights_folder

    for module in ("torch",) if weights is None else ("torch", "onnx", "onnxruntime"):
        needs(module, "train")
    from kilocall.train.checkpoint import CHECKPOINT, read_checkpoint
    from kilocall.train.run import choose_device, run_fusion, send_training_clips

    choose_device(device)
    if weights is not None:
        _check_weights(weights)
    screen = console()
    family = CompactFamily(weights or weights_folder(), choose_engine("auto", min(threads, _MOST_ENGINE_THREADS)))
    with progress_bar("sending the clips") as progress:
        clips, held_out = send_training_clips(data, cache, family, progress=progress, say=warn)
    figures = run_fusion(
        clips,
        held_out,
        run,
        steps=steps,
        batch=batch,
        threads=threads,
        device=device,
        minutes=minutes,
        console=screen,
    )
    state, step = read_checkpoint(run / CHECKPOINT)
    print_table(f"fusion, step {step}", ["figure", "value"], [[k, f"{v:.4f}"] for k, v in figures.items()])
    if weights is not None and step < steps:
        warn(f"{weights} has no new network yet: the run is at step {step} of {steps}; the same command goes on")
    elif weights is not None:
        from kilocall.train.export import put_fusion

        put_fusion(state, weights)
        screen.print(f"wrote fusion.onnx and fusion.safetensors to {weights}", soft_wrap=True)


def _check_weights(weights: Path) -> None:
    if not (weights / "manifest.json").is_file():
        raise BadInput(f"weights: {weights} holds no manifest.json; `kilocall export` makes such a folder")


def train_codebook(data: Path, cache: Path, weights: Path, *, engine: str, threads: int) -> None:
    from kilocall.model.compact.family import CompactFamily
    from kilocall.model.engine_choice import choose_engine
    from kilocall.model.family import weights_folder
    from kilocall.sample.perform import build_samples

    needs("torch", "train")
    from kilocall.train.codebook import fit_family_codebook
    from kilocall.train.dataset import Dataset
    from kilocall.train.export import CODEBOOK, put_codebook

    _check_weights(weights)
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
    if weights.resolve() == weights_folder(family.name):
        # The built-in speakers are streams of these very weights.
        for sample in build_samples(CompactFamily(weights, family.engine)):
            screen.print(f"wrote {sample}", soft_wrap=True)


def export(extractor: Path, renderer: Path, data: Path, cache: Path, out: Path) -> None:
    for module in ("torch", "onnx", "onnxruntime"):
        needs(module, "train")
    from kilocall.train.checkpoint import CHECKPOINT
    from kilocall.train.export import export_run

    made = export_run(extractor / CHECKPOINT, renderer / CHECKPOINT, data / "train", cache / "train", out, console())
    print_table(
        str(out),
        ["network", "precision", "against float", "bytes"],
        [[m.network, m.precision, f"{m.difference:.3f} {m.unit}", str(m.bytes)] for m in made],
    )
    if not (out / "codebook.safetensors").exists():
        warn(f"{out} has no codebook yet: kilocall train codebook --weights {out} makes one")


def evaluate_clips(
    folder: Path,
    out: Path,
    models: Models,
    **options: Any,
) -> None:
    from kilocall.bench.evaluate.folder import evaluate_folder
    from kilocall.bench.evaluate.tables import print_evaluation

    family = open_models(models)
    with progress_bar(f"evaluating {folder}") as progress:
        result = evaluate_folder(folder, out, progress=progress, family=family, **options)
    print_evaluation(result, console())
    console().print(f"wrote evaluation.json, table.md and contact_sheet.png to {out}", soft_wrap=True)
