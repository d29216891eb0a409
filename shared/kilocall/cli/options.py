"""Options that several verbs share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

__all__ = ["EngineChoice", "Engines", "Pitch", "Roll", "Threads", "Yaw"]


class Engines(StrEnum):
    auto = "auto"
    openvino = "openvino"
    onnxruntime = "onnxruntime"
    torch = "torch"


EngineChoice = Annotated[Engines, typer.Option("--engine", help="What runs the networks.")]
Threads = Annotated[int, typer.Option("--threads", min=0, max=64, help="CPU threads; 0: physical cores, at most 4.")]
Yaw = Annotated[float, typer.Option(min=-90, max=90, help="Turn the head to its left, degrees.")]
Pitch = Annotated[float, typer.Option(min=-90, max=90, help="Nod, degrees.")]
Roll = Annotated[float, typer.Option(min=-90, max=90, help="Tilt, degrees.")]
