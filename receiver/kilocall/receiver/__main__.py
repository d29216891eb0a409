"""python -m kilocall.receiver: the receiver as a service."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kilocall.model.family import DEFAULT_FAMILY, FamilyChoice
from kilocall.proto.errors import KilocallError
from kilocall.receiver.service import ReceiverSettings, create_app
from kilocall.runtime.service import read_token, run_service


def main(
    sender: Annotated[str | None, typer.Option(help="Address of a sender service; or POST /start later.")] = None,
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8730,
    family: Annotated[str, typer.Option(help="Models; the same on both sides.")] = DEFAULT_FAMILY,
    weights: Annotated[Path | None, typer.Option(help="File or folder with the weights of other families.")] = None,
    codebook: Annotated[Path | None, typer.Option(help="What `kilocall fit` wrote.")] = None,
    engine: str = "auto",
    threads: Annotated[int, typer.Option(min=0, max=64)] = 1,
) -> None:
    """Shows what one sender sends. KILOCALL_TOKEN in the environment is the sender's."""
    try:
        token = read_token()
        models = FamilyChoice(family, weights, codebook)
        models.check()
        settings = ReceiverSettings(
            sender=sender,
            models=models,
            engine=engine,
            threads=threads,
            token=token,
        )
        run_service(create_app(settings), host, port)
    except (KilocallError, OSError) as error:
        print(f"kilocall.receiver: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    typer.run(main)
