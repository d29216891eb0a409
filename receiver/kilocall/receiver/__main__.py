"""python -m kilocall.receiver: the receiver as a service."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from kilocall.model.family import DEFAULT_FAMILY
from kilocall.model.family_loader import FamilyChoice
from kilocall.proto.errors import KilocallError
from kilocall.receiver.service import ReceiverSettings, create_app
from kilocall.runtime.service import find_token, names_for, run_service
from kilocall.runtime.web import PageKey


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
    """Shows what one sender sends.

    KILOCALL_TOKEN in the environment is the sender's, or stands in the file that KILOCALL_TOKEN_FILE names. Without
    either a token is made and printed.
    """
    try:
        models = FamilyChoice(family, weights, codebook)
        models.check()
        token, key = find_token(os.environ), PageKey()
        settings = ReceiverSettings(
            sender=sender,
            models=models,
            engine=engine,
            threads=threads,
            token=token.secret.text,
        )

        def ready(address: str) -> None:
            if token.made:
                print(token.tell(), file=sys.stderr)
            print(f"page: {key.opens(address)}", file=sys.stderr)

        run_service(create_app(settings, key=key, hosts=names_for(host)), host, port, on_ready=ready)
    except (KilocallError, OSError) as error:
        print(f"kilocall.receiver: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    typer.run(main)
