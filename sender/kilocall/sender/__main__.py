"""python -m kilocall.sender: the sender as a service."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from kilocall.proto.errors import KilocallError
from kilocall.sender.service import SenderSettings, create_app


def main(
    camera: Annotated[str, typer.Option(help="Number of a camera, or a clip.")] = "0",
    source: Annotated[Path | None, typer.Option(help="Source picture; default: the best of the first frames.")] = None,
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8720,
    fps: Annotated[float, typer.Option(min=1, max=60)] = 25,
    frames_per_message: Annotated[int, typer.Option(min=1, max=8)] = 3,
    wait: Annotated[bool, typer.Option("--wait", help="Begin with POST /start instead of at once.")] = False,
    engine: str = "auto",
    threads: Annotated[int, typer.Option(min=0, max=64)] = 1,
) -> None:
    """One speaker to one or more receivers. KILOCALL_TOKEN in the environment is asked of every request."""
    try:
        settings = SenderSettings(
            camera=camera,
            source=source,
            fps=fps,
            frames_per_message=frames_per_message,
            engine=engine,
            threads=threads,
            token=os.environ.get("KILOCALL_TOKEN") or None,
        )
        uvicorn.run(create_app(settings, start=not wait), host=host, port=port, log_level="warning")
    except (KilocallError, OSError) as error:
        print(f"kilocall.sender: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    typer.run(main)
