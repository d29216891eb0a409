"""Runs a web application as a program: what its start refuses is the program's error."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from kilocall.proto.errors import BadInput, KilocallError
from kilocall.proto.trust import LinkSecret
from kilocall.runtime.web import LOOPBACK

__all__ = ["TOKEN_VARIABLE", "open_to_others", "read_token", "run_service"]

TOKEN_VARIABLE = "KILOCALL_TOKEN"


def read_token() -> str | None:
    """What sender and receiver know each other by, from the environment. Raises BadInput for what can be guessed."""
    token = os.environ.get(TOKEN_VARIABLE) or None
    if token is not None:
        try:
            LinkSecret(token)
        except BadInput as error:
            raise BadInput(f"{TOKEN_VARIABLE}: {error}") from None
    return token


def open_to_others(host: str, token: str | None) -> str:
    """A sentence for whoever starts a service that anybody may connect to, or nothing."""
    if token is not None or host in LOOPBACK:
        return ""
    return f"{host} without {TOKEN_VARIABLE}: whoever reaches it may connect, or put himself in between"


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
