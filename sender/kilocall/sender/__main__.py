"""python -m kilocall.sender: the sender as a service."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kilocall.model.family import DEFAULT_FAMILY, FamilyChoice
from kilocall.proto.errors import KilocallError
from kilocall.runtime.service import open_to_others, read_token, run_service
from kilocall.sender.service import SenderSettings, create_app


def main(
    camera: Annotated[str, typer.Option(help="Number of a camera, or a clip.")] = "0",
    source: Annotated[Path | None, typer.Option(help="Source picture; default: the best of the first frames.")] = None,
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8720,
    fps: Annotated[float, typer.Option(min=1, max=60)] = 25,
    frames_per_message: Annotated[int, typer.Option(min=1, max=8)] = 3,
    wait: Annotated[bool, typer.Option("--wait", help="Begin with POST /start instead of at once.")] = False,
    family: Annotated[str, typer.Option(help="Models; the same on both sides.")] = DEFAULT_FAMILY,
    weights: Annotated[Path | None, typer.Option(help="File or folder with the weights of other families.")] = None,
    codebook: Annotated[Path | None, typer.Option(help="What `kilocall fit` wrote.")] = None,
    engine: str = "auto",
    threads: Annotated[int, typer.Option(min=0, max=64)] = 1,
) -> None:
    """One speaker to one or more receivers. KILOCALL_TOKEN in the environment is what receivers must have too."""
    try:
        token = read_token()
        models = FamilyChoice(family, weights, codebook)
        models.check()
        settings = SenderSettings(
            camera=camera,
            source=source,
            fps=fps,
            frames_per_message=frames_per_message,
            models=models,
            engine=engine,
            threads=threads,
            token=token,
        )
        warning = open_to_others(host, token)
        if warning:
            print(f"kilocall.sender: {warning}", file=sys.stderr)
        run_service(create_app(settings, start=not wait), host, port)
    except (KilocallError, OSError) as error:
        print(f"kilocall.sender: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    typer.run(main)
