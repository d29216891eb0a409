"""Options that several verbs share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AdapterFile",
    "AsJson",
    "CallLayer",
    "CodebookFile",
    "Device",
    "EngineChoice",
    "Engines",
    "Families",
    "FamilyName",
    "GalleryKb",
    "GallerySize",
    "LayerRate",
    "Models",
    "Pitch",
    "Roll",
    "Threads",
    "TrainThreads",
    "Weights",
    "Yaw",
]


class Engines(StrEnum):
    auto = "auto"
    openvino = "openvino"
    onnxruntime = "onnxruntime"
    torch = "torch"
    webgpu = "webgpu"
    openvino_gpu = "openvino-gpu"


class Families(StrEnum):
    compact = "compact-256"
    facevid2vid = "facevid2vid"
    liveportrait = "liveportrait"


FamilyName = Annotated[
    Families | None, typer.Option("--family", help="Models; default: compact-256, or the stream's own.")
]
Weights = Annotated[
    Path | None, typer.Option("--weights", help="File or folder with the weights of facevid2vid or liveportrait.")
]
CodebookFile = Annotated[Path | None, typer.Option("--codebook", help="What `kilocall fit` wrote.")]
AdapterFile = Annotated[
    Path | None, typer.Option("--personal", help="What `kilocall finetune` wrote, of the person shown.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.", metavar="auto|cpu|cuda")]
EngineChoice = Annotated[Engines, typer.Option("--engine", help="What runs the networks; auto: the fastest here.")]
Threads = Annotated[int, typer.Option("--threads", min=0, max=64, help="CPU threads; 0: physical cores, at most 4.")]
TrainThreads = Annotated[int, typer.Option("--threads", min=0, max=256, help="CPU threads; 0: all cores.")]
GallerySize = Annotated[
    int, typer.Option("--gallery", min=0, max=8, help="Most pictures of the speaker, the source included; 0: one.")
]
GalleryKb = Annotated[
    float, typer.Option("--gallery-kb", min=1, max=256, help="Most KB (1000 bytes) of all these pictures together.")
]
MotionQuality = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=100,
        help="Precision of the motion: 0 coarse and small, 100 fine.",
        show_default="50; with a --layer of 3 or more 75",
    ),
]
LayerRate = Annotated[
    float,
    typer.Option(
        "--layer",
        metavar="KBIT",
        help="Kilobits a second for a thin layer of real video under the motion: 0 (none), 1.5, 3, 6, 12 or 24.",
    ),
]
CallLayer = Annotated[
    float | None,
    typer.Option(
        "--layer",
        metavar="KBIT",
        help="Kilobits a second for real video under the motion: 0 (none), 1.5, 3, 6, 12 or 24.",
        show_default="3; --saver: 0",
    ),
]
Hold = Annotated[
    bool,
    typer.Option("--hold", help="Pictures as on a slow processor, most moved on from one before."),
]
Yaw = Annotated[float, typer.Option(min=-90, max=90, help="Degrees to turn the head to its left.")]
Pitch = Annotated[float, typer.Option(min=-90, max=90, help="Degrees to nod.")]
Roll = Annotated[float, typer.Option(min=-90, max=90, help="Degrees to tilt the head.")]


@dataclass(frozen=True)
class Models:
    """Which family to use and what runs it: --family, --weights, --codebook, --engine, --threads
    and --personal together."""

    family: str | None = None  # None: the default, or the stream's own
    weights: Path | None = None
    codebook: Path | None = None
    engine: str = "auto"
    threads: int = 0
    personal: Path | None = None  # of the person whose picture is moved
