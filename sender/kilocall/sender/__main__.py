"""python -m kilocall.sender: the sender as a service."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from kilocall.model.family import DEFAULT_FAMILY
from kilocall.model.family_loader import FamilyChoice
from kilocall.proto.errors import KilocallError
from kilocall.runtime.service import find_token, names_for, run_service
from kilocall.sender.layer_encoder import DEFAULT_LAYER_KBPS, check_layer_kbps
from kilocall.sender.service import SenderSettings, create_app


def main(
    camera: Annotated[str, typer.Option(help="Number of a camera, or a clip.")] = "0",
    source: Annotated[Path | None, typer.Option(help="Source picture; default: the best of the first frames.")] = None,
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8720,
    fps: Annotated[float, typer.Option(min=1, max=60)] = 25,
    frames_per_message: Annotated[int, typer.Option(min=1, max=8)] = 3,
    layer: Annotated[
        float,
        typer.Option(
            metavar="KBIT",
            help="Kilobits a second for real video under the motion: 0 (none), 1.5, 3, 6, 12 or 24.",
        ),
    ] = DEFAULT_LAYER_KBPS,
    wait: Annotated[bool, typer.Option("--wait", help="Begin with POST /start instead of at once.")] = False,
    family: Annotated[str, typer.Option(help="Models; the same on both sides.")] = DEFAULT_FAMILY,
    weights: Annotated[Path | None, typer.Option(help="File or folder with the weights of other families.")] = None,
    codebook: Annotated[Path | None, typer.Option(help="What `kilocall fit` wrote.")] = None,
    engine: str = "auto",
    threads: Annotated[int, typer.Option(min=0, max=64)] = 1,
) -> None:
    """One speaker to one or more receivers.

    Receivers must have the same KILOCALL_TOKEN in the environment, or find it in the file that KILOCALL_TOKEN_FILE
    names. Without either a token is made and printed.
    """
    try:
        models = FamilyChoice(family, weights, codebook)
        models.check()
        token = find_token(os.environ)
        settings = SenderSettings(
            camera=camera,
            source=source,
            fps=fps,
            frames_per_message=frames_per_message,
            layer=check_layer_kbps(layer),
            models=models,
            engine=engine,
            threads=threads,
            token=token.secret.text,
        )

        def ready(_: str) -> None:
            if token.made:
                print(token.tell(), file=sys.stderr)

        run_service(create_app(settings, start=not wait, hosts=names_for(host)), host, port, on_ready=ready)
    except (KilocallError, OSError) as error:
        print(f"kilocall.sender: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    typer.run(main)
