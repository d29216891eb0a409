"""The pages that look at what this program shows: each has a WebSocket, and room for the newest of each message.

A slow viewer loses pictures, never time. Messages to a page are JSON text, or bytes that hold a picture; messages from
a page are commands, JSON text.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import TypeAdapter, ValidationError

from kilocall.proto.errors import KilocallError

__all__ = ["Hub", "Viewer", "parse_command", "serve_viewer"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Viewer:
    """What one page still has to get: the newest text of each type, the newest picture of each kind."""

    def __init__(self) -> None:
        self.visible = True
        """Whether somebody sees the page; one that is hidden gets no pictures."""
        self._texts: dict[str, dict[str, Any]] = {}
        self._pictures: dict[int, bytes] = {}
        self._news = asyncio.Event()

    def put_text(self, message: dict[str, Any]) -> None:
        """Replaces a message of the same type that is still waiting."""
        self._texts[message["type"]] = message
        self._news.set()

    def put_picture(self, message: bytes, kind: int = 0) -> None:
        self._pictures[kind] = message
        self._news.set()

    async def take(self) -> tuple[list[dict[str, Any]], list[bytes]]:
        """Waits for news and takes them: texts, then pictures."""
        await self._news.wait()
        self._news.clear()
        texts, pictures = list(self._texts.values()), list(self._pictures.values())
        self._texts, self._pictures = {}, {}
        return texts, pictures


class Hub:
    """Brings what is shown to every viewer. Its methods belong to the event loop.

    Whoever comes later gets the newest message of each type in `kept`, and the newest picture of kind `kept_picture`.
    """

    def __init__(self, kept: Collection[str], kept_picture: int = 0) -> None:
        self.viewers: set[Viewer] = set()
        self.pictures = 0
        """Of the kind that is kept, shown so far."""
        self._kept, self._kept_picture = kept, kept_picture
        self._texts: dict[str, dict[str, Any]] = {}
        self._picture: bytes | None = None

    def join(self) -> Viewer:
        viewer = Viewer()
        for message in self._texts.values():
            viewer.put_text(message)
        if self._picture is not None:
            viewer.put_picture(self._picture, self._kept_picture)
        self.viewers.add(viewer)
        return viewer

    def text(self, message: dict[str, Any]) -> None:
        """A message that is kept and says nothing new is not sent again."""
        kind = message["type"]
        if kind in self._kept:
            if self._texts.get(kind) == message:
                return
            self._texts[kind] = message
        for viewer in self.viewers:
            viewer.put_text(message)

    def picture(self, message: bytes, kind: int = 0) -> None:
        if kind == self._kept_picture:
            self._picture = message
            self.pictures += 1
        for viewer in self.viewers:
            if viewer.visible:
                viewer.put_picture(message, kind)


def parse_command(commands: TypeAdapter[T], text: str | bytes, most_bytes: int) -> T:
    """Reads one command. Raises ValueError that says what is wrong, in one line."""
    if len(text) > most_bytes:
        raise ValueError(f"command has {len(text)} bytes, most is {most_bytes}")
    try:
        return commands.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "command"
        raise ValueError(f"{where}: {first['msg']}"[:300]) from None


async def serve_viewer(socket: WebSocket, viewer: Viewer, obey: Callable[[str], Awaitable[None]]) -> None:
    """Until the page goes away. What `obey` raises over a command is told to the page."""
    try:
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(_send(socket, viewer))
            await _receive(socket, viewer, obey)
            sending.cancel()
    # The page went away; either task may be the first to notice, and starlette calls a late send a RuntimeError.
    except* (WebSocketDisconnect, RuntimeError):
        pass


async def _send(socket: WebSocket, viewer: Viewer) -> None:
    while True:
        texts, pictures = await viewer.take()
        for text in texts:
            await socket.send_json(text)
        for picture in pictures:
            await socket.send_bytes(picture)


async def _receive(socket: WebSocket, viewer: Viewer, obey: Callable[[str], Awaitable[None]]) -> None:
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        try:
            text = message.get("text")
            if text is None:
                raise ValueError("bytes are not a command")
            await obey(text)
        except CancelledError:  # the thread that was asked has ended
            return
        except (KilocallError, OSError, ValueError) as error:
            viewer.put_text({"type": "error", "text": str(error)})
        # Whatever a command meets, the page must learn it and the next one must work.
        except Exception as error:
            logger.exception("a command of the page failed")
            viewer.put_text({"type": "error", "text": f"{type(error).__name__}: {error}"})
