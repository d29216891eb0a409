"""Runs a web application as a program: what its start refuses is the program's error."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from kilocall.proto.errors import KilocallError

__all__ = ["run_service"]


def run_service(app: ASGIApp, host: str, port: int) -> None:
    """Serves until it is told to end. Raises the KilocallError or OSError that the application began with.

    uvicorn alone would log a traceback and exit.
    """
    refused: list[KilocallError | OSError] = []

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return

        said: list[MutableMapping[str, Any]] = []

        async def hold_back(message: MutableMapping[str, Any]) -> None:
            # The traceback that a failed start comes with, until it is known what failed.
            if message["type"] == "lifespan.startup.failed":
                said.append(message)
            else:
                await send(message)

        try:
            await app(scope, receive, hold_back)
        except (KilocallError, OSError) as error:
            refused.append(error)
            said = [{"type": message["type"], "message": ""} for message in said]
        finally:
            for message in said:
                await send(message)

    try:
        uvicorn.run(guarded, host=host, port=port, log_level="warning")
    finally:
        # In place of uvicorn's exit with code 3.
        if refused:
            raise refused[0]
