"""This installation: version, doctor, which also looks at a clip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kilocall.cli.options import AsJson, EngineChoice, Engines, Threads

__all__ = ["doctor", "version"]


def version() -> None:
    """Version of this program."""
    from kilocall.cli.machine import show_version

    show_version()


def doctor(
    clip: Annotated[
        Path | None, typer.Argument(metavar="[CLIP]", help="Video to look at instead of the installation.")
    ] = None,
    engine: EngineChoice = Engines.auto,
    threads: Threads = 0,
    json: AsJson = False,
) -> None:
    """What is installed, whether it works, which engine is chosen and why; exit code 2 if something is broken.

    With CLIP: what is seen in that video and what `kilocall encode` will make of it; exit code 2 if there is no face.
    """
    from kilocall.cli.machine import show_clip, show_diagnosis

    if clip is not None:
        raise typer.Exit(show_clip(clip, engine.value, threads, json))
    raise typer.Exit(show_diagnosis(engine.value, threads, json))
