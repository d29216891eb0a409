"""Runs a web application as a program: what its start refuses is the program's error. Finds the services' token."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from kilocall.proto.errors import BadInput, KilocallError
from kilocall.proto.trust import LinkSecret
from kilocall.runtime.web import LOOPBACK, listen, shown_address

__all__ = ["TOKEN_FILE_VARIABLE", "TOKEN_VARIABLE", "Token", "find_token", "names_for", "run_service"]

TOKEN_VARIABLE: Final = "KILOCALL_TOKEN"
TOKEN_FILE_VARIABLE: Final = "KILOCALL_TOKEN_FILE"
MOST_TOKEN_BYTES: Final = 256
START_FAILED: Final = 3
"""What uvicorn's own program ends with."""


@dataclass(frozen=True)
class Token:
    """What sender and receiver know each other by."""

    secret: LinkSecret
    made: bool = False
    """For this process alone: nobody else has it yet."""

    def tell(self) -> str:
        """A line to print for whoever has to give it to the other side, or nothing."""
        return f"{TOKEN_VARIABLE}={self.secret.text}" if self.made else ""


def find_token(environment: Mapping[str, str]) -> Token:
    """From KILOCALL_TOKEN, from the file that KILOCALL_TOKEN_FILE names, or made.

    A file that is not there is made, for this user alone. Raises BadInput for what can be guessed, OSError.
    """
    text, file = environment.get(TOKEN_VARIABLE), environment.get(TOKEN_FILE_VARIABLE)
    if text:
        return Token(_secret(text, TOKEN_VARIABLE))
    if file:
        return Token(_secret(_read_or_make(Path(file)), f"{TOKEN_FILE_VARIABLE} {file}"))
    return Token(LinkSecret.make(), made=True)


def _secret(text: str, source: str) -> LinkSecret:
    try:
        return LinkSecret(text)
    except BadInput as error:
        raise BadInput(f"{source}: {error}") from None


def _read_or_make(path: Path) -> str:
    if not path.parent.is_dir():
        raise BadInput(f"{TOKEN_FILE_VARIABLE} {path}: the folder {path.parent} does not exist")
    if not path.exists():
        number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # readable by this user alone
        try:
            with os.fdopen(number, "w") as partial:
                partial.write(LinkSecret.make().text + "\n")
            # Whole or not at all, and never over another: of two that start at once both read the first one's.
            with contextlib.suppress(FileExistsError):
                os.link(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
    with path.open("rb") as file:
        return file.read(MOST_TOKEN_BYTES).decode(errors="replace").strip()


def names_for(host: str) -> tuple[str, ...]:
    """Names that a service bound to `host` may be asked under."""
    # Bound to the loopback, another name is that of a page from elsewhere which had its name point here. What other
    # machines reach has names that nobody here knows (a container's, a proxy's); there the token alone decides.
    return LOOPBACK if host in LOOPBACK else ("*",)


def run_service(app: ASGIApp, host: str, port: int, *, on_ready: Callable[[str], None] = lambda address: None) -> None:
    """Serves until it is told to end; `on_ready` gets its address once it has begun.

    Raises the KilocallError or OSError that the application began with, and OSError for a port in use. uvicorn alone
    would log a traceback and exit.
    """
    refused: list[KilocallError | OSError] = []
    listening = listen(host, port)

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return

        said: list[MutableMapping[str, Any]] = []

        async def hold_back(message: MutableMapping[str, Any]) -> None:
            # The traceback that a failed start comes with, until it is known what failed.
            if message["type"] == "lifespan.startup.failed":
                said.append(message)
                return
            if message["type"] == "lifespan.startup.complete":
                on_ready(shown_address(host, listening))
            await send(message)

        try:
            await app(scope, receive, hold_back)
        except (KilocallError, OSError) as error:
            refused.append(error)
            said = [{"type": message["type"], "message": ""} for message in said]
        finally:
            for message in said:
                await send(message)

    server = uvicorn.Server(uvicorn.Config(guarded, log_level="warning"))
    try:
        with listening, contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
    finally:
        if refused:
            raise refused[0]
    if not server.started:
        raise SystemExit(START_FAILED)
