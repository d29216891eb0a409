"""What is done with models that exist: fit, finetune, compress-study, evaluate, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kilocall.cli.options import (
    AdapterFile,
    AsJson,
    CodebookFile,
    Device,
    EngineChoice,
    Engines,
    FamilyName,
    GalleryKb,
    GallerySize,
    Hold,
    LayerRate,
    Models,
    MotionQuality,
    Threads,
    TrainThreads,
    Weights,
)

__all__ = ["compress_study", "evaluate", "finetune", "fit", "weights_app"]

weights_app = typer.Typer(help="Public weights of facevid2vid and liveportrait.", no_args_is_help=True)


def fit(
    streams: Annotated[list[Path], typer.Argument(metavar="STREAM.kcs...", help="Streams of one family.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, for --codebook on both sides.")],
    codebook: Annotated[Path | None, typer.Option(help="What the streams were made with, if not the default.")] = None,
) -> None:
    """Fit how motion is coded to streams: fewer bits for motion like theirs."""
    from kilocall.cli.weights import fit_to_streams

    fit_to_streams(streams, out, codebook)


def finetune(
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP...", help="Videos of one person, 10 s or more in all.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Personal file to write, 2 MB at most.")],
    held_back: Annotated[
        float, typer.Option(min=0.05, max=0.6, help="Last share of each clip, only measured before and after.")
    ] = 0.2,
    steps: Annotated[int, typer.Option(min=1, help="Most training steps; it ends when it gets no better.")] = 300,
    minutes: Annotated[float, typer.Option(min=0.1, help="Most minutes of training.")] = 45,
    part: Annotated[
        list[str] | None,
        typer.Option(help="What learns; repeatable. Default: all.", metavar="field|appearance|generator"),
    ] = None,
    device: Device = "auto",
    engine: EngineChoice = Engines.auto,
    threads: TrainThreads = 0,
) -> None:
    """Make the renderer one person's: a small file for --personal (needs the extra `train`)."""
    from kilocall.cli.finetune import finetune_to_clips

    finetune_to_clips(
        clips,
        out,
        held_back=held_back,
        steps=steps,
        minutes=minutes,
        parts=part or ["field", "appearance", "generator"],
        device=device,
        engine=engine.value,
        threads=threads,
    )


def compress_study(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for index.html, table.md, study.json, plot.png.")],
    quick: Annotated[bool, typer.Option("--quick", help="One small network, few calls: does it work?")] = False,
    network: Annotated[
        list[str] | None, typer.Option(help="Repeatable; default: all.", metavar="renderer|extractor|pose")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of labelled clips as for training; default: the built-in speakers.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder that `kilocall export` wrote.")] = None,
    pose_weights: Annotated[
        Path | None, typer.Option(help="Vox-256 checkpoint for the pose estimator; without it: size and speed only.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Training steps, quantisation-aware and after pruning.", show_default="60")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Timed calls of each network.", show_default="40")] = None,
    threads: Annotated[int, typer.Option(min=1, max=64, help="CPU threads of all engines.")] = 1,
) -> None:
    """Pruning and fewer bits on every network: size, speed and quality (needs the extra `train`)."""
    from kilocall.cli.compress import study_compression

    study_compression(
        out,
        quick=quick,
        network=network or [],
        data=data,
        weights=weights,
        pose_weights=pose_weights,
        steps=steps,
        rounds=rounds,
        threads=threads,
    )


@weights_app.command("check")
def weights_check(
    path: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="Checkpoint, or LivePortrait's folder.")],
    json: AsJson = False,
) -> None:
    """Which family and version weights are of, and whether they fit; nothing in them is run."""
    from kilocall.cli.weights import check_weights

    check_weights(path, json)


@weights_app.command("convert")
def weights_convert(
    path: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="Checkpoint, or LivePortrait's folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .safetensors.")],
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision, half the size.")] = False,
) -> None:
    """Weights to one safetensors file, without what only training needs."""
    from kilocall.cli.weights import convert_weights

    convert_weights(path, out, fp16)


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of clips.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for table, JSON and contact sheet.")] = Path(
        "evaluation"
    ),
    quality: MotionQuality = None,
    frames_per_packet: Annotated[int, typer.Option(min=1, max=8, help="Frames in a packet.")] = 3,
    source: Annotated[str, typer.Option(help="Frame taken as source picture.", metavar="first|best")] = "first",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first clips by name.")] = None,
    gallery: GallerySize = 0,
    gallery_kb: GalleryKb = 40,
    layer: LayerRate = 0,
    hold: Hold = False,
    mediapipe_python: Annotated[
        Path | None, typer.Option(help="A Python that has MediaPipe, to measure landmarks independently.")
    ] = None,
    family: FamilyName = None,
    weights: Weights = None,
    codebook: CodebookFile = None,
    personal: AdapterFile = None,
    engine: EngineChoice = Engines.auto,
    threads: Threads = 0,
) -> None:
    """Encode, decode and score every clip of a folder."""
    from kilocall.cli.models import evaluate_clips

    evaluate_clips(
        folder,
        out,
        Models(family, weights, codebook, engine.value, threads, personal),
        quality=quality,
        frames_per_packet=frames_per_packet,
        source=source,
        limit=limit,
        gallery=gallery,
        gallery_kb=gallery_kb,
        layer=layer,
        hold=hold,
        mediapipe_python=mediapipe_python,
    )
