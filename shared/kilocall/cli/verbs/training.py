"""The networks and coding tables from data: train, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kilocall.cli.options import Device, EngineChoice, Engines, Threads, TrainThreads

__all__ = ["export", "train_app"]

train_app = typer.Typer(help="Train the networks (needs the extra `train`).", no_args_is_help=True)
DataFolder = Annotated[Path, typer.Option("--data", help="Folder with train/ and test/: 256x256 clips and landmarks.")]
CacheFolder = Annotated[Path, typer.Option("--cache", help="Where the decoded clips are kept between runs.")]
RunFolder = Annotated[Path, typer.Option("--run", help="Checkpoint and pictures; a second run goes on from it.")]
Steps = Annotated[int, typer.Option(min=1, help="Training steps of the whole schedule.")]
Minutes = Annotated[
    float | None, typer.Option(min=0.1, help="Save and end after so many minutes; the same command goes on.")
]


@train_app.command("extractor")
def train_extractor(
    data: DataFolder,
    cache: CacheFolder,
    run: RunFolder,
    steps: Steps = 30_000,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Faces a step.")] = 32,
    threads: TrainThreads = 0,
    device: Device = "auto",
    teacher: Annotated[
        Path | None, typer.Option(help="An extractor.safetensors with full convolutions, to be imitated.")
    ] = None,
    minutes: Minutes = None,
) -> None:
    """The networks that find a face's points."""
    from kilocall.cli.models import train

    train(
        "extractor",
        data,
        cache,
        run,
        steps=steps,
        batch=batch,
        threads=threads,
        device=device,
        teacher=teacher,
        minutes=minutes,
    )


@train_app.command("renderer")
def train_renderer(
    data: DataFolder,
    cache: CacheFolder,
    run: RunFolder,
    steps: Steps = 30_000,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Source pictures a step.")] = 4,
    threads: TrainThreads = 0,
    device: Device = "auto",
    extractor: Annotated[
        Path | None, typer.Option(help="Run folder of `train extractor`, for the second stage.")
    ] = None,
    discriminator: Annotated[
        bool, typer.Option("--discriminator", help="Third stage: discriminators beside --extractor.")
    ] = False,
    teacher: Annotated[
        Path | None, typer.Option(help="A renderer.safetensors, to be imitated where its convolutions are full.")
    ] = None,
    minutes: Minutes = None,
) -> None:
    """The network that makes the picture: first from the labels, then (--extractor) from what is really found."""
    from kilocall.cli.models import train

    train(
        "renderer",
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
    )


@train_app.command("codebook")
def train_codebook(
    data: DataFolder,
    cache: CacheFolder,
    weights: Annotated[Path, typer.Option(help="Folder that `kilocall export` wrote.")],
    engine: EngineChoice = Engines.auto,
    threads: Threads = 0,
) -> None:
    """The quantiser steps and coding tables of exported networks."""
    from kilocall.cli.models import train_codebook

    train_codebook(data, cache, weights, engine=engine.value, threads=threads)


@train_app.command("fusion")
def train_fusion(
    data: DataFolder,
    cache: Annotated[Path, typer.Option("--cache", help="Where the sent clips are kept between runs, 8 GB.")],
    run: RunFolder,
    steps: Steps = 3000,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Layer frames a step.")] = 4,
    threads: TrainThreads = 0,
    device: Device = "auto",
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Folder that `kilocall export` wrote: its pictures are learnt from, and it gets the network. "
            "Without it the installed pictures are learnt from, and the network stays in the run folder."
        ),
    ] = None,
    minutes: Minutes = None,
) -> None:
    """The network that puts a thin layer of real video into the made pictures."""
    from kilocall.cli.models import train_fusion

    train_fusion(
        data,
        cache,
        run,
        steps=steps,
        batch=batch,
        threads=threads,
        device=device,
        weights=weights,
        minutes=minutes,
    )


def export(
    extractor: Annotated[Path, typer.Option(help="Run folder of `train extractor`.")],
    renderer: Annotated[Path, typer.Option(help="Run folder of `train renderer`.")],
    data: DataFolder,
    cache: CacheFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="Weights folder to write.")],
) -> None:
    """Trained networks to a weights folder: quantised where that is faster and costs nothing visible."""
    from kilocall.cli.models import export

    export(extractor, renderer, data, cache, out)
