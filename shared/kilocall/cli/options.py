"""Options that several verbs share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "CodebookFile",
    "EngineChoice",
    "Engines",
    "Families",
    "FamilyName",
    "Pitch",
    "Roll",
    "Threads",
    "Weights",
    "Yaw",
]


class Engines(StrEnum):
    auto = "auto"
    openvino = "openvino"
    onnxruntime = "onnxruntime"
    torch = "torch"


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
EngineChoice = Annotated[Engines, typer.Option("--engine", help="What runs the networks.")]
Threads = Annotated[int, typer.Option("--threads", min=0, max=64, help="CPU threads; 0: physical cores, at most 4.")]
Yaw = Annotated[float, typer.Option(min=-90, max=90, help="Turn the head to its left, degrees.")]
Pitch = Annotated[float, typer.Option(min=-90, max=90, help="Nod, degrees.")]
Roll = Annotated[float, typer.Option(min=-90, max=90, help="Tilt, degrees.")]
