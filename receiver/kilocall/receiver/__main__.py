"""python -m kilocall.receiver: the receiver as a service."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
import uvicorn

from kilocall.proto.errors import KilocallError
from kilocall.receiver.service import ReceiverSettings, create_app


def main(
    sender: Annotated[str | None, typer.Option(help="Address of a sender service; or POST /start later.")] = None,
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8730,
    engine: str = "auto",
    threads: Annotated[int, typer.Option(min=0, max=64)] = 1,
) -> None:
    """Shows what one sender sends. KILOCALL_TOKEN in the environment is what the sender asks for."""
    try:
        settings = ReceiverSettings(
            sender=sender, engine=engine, threads=threads, token=os.environ.get("KILOCALL_TOKEN") or None
        )
        uvicorn.run(create_app(settings), host=host, port=port, log_level="warning")
    except (KilocallError, OSError) as error:
        print(f"kilocall.receiver: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    typer.run(main)
