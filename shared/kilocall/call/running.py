"""Runs servers and nodes until they end or are interrupted: what the verbs `serve` and `call` do."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Literal, TypeVar

import uvicorn
from fastapi import FastAPI

from kilocall.call.meeting_point import create_app
from kilocall.call.node import CallNode
from kilocall.call.page_server import MAX_COMMAND_BYTES, LiveHub, create_page_app
from kilocall.call.report import CallReport
from kilocall.call.settings import CallSettings
from kilocall.call.signalling import MAX_MESSAGE_BYTES
from kilocall.runtime.web import LOOPBACK, PageKey, listen, shown_address

__all__ = ["PAGE_PORT", "SERVER_PORT", "QuietServer", "call", "run_call", "run_server", "serve", "start_loop"]

SERVER_PORT = 8700
PAGE_PORT = 8710

T = TypeVar("T")


class QuietServer(uvicorn.Server):
    """uvicorn without its own signal handling: what runs it decides when it ends."""

    def __init__(
        self,
        app: FastAPI,
        *,
        ws_max_size: int,
        lifespan: Literal["on", "off"] = "on",
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app, log_level="warning", ws_max_size=ws_max_size, timeout_graceful_shutdown=1, lifespan=lifespan
            )
        )

        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started and not self.should_exit:
            self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def start_loop(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on uvloop where there is one."""
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    return uvloop.run(main)


def on_signals(stop: Callable[[], None]) -> None:
    """Calls `stop` on Ctrl-C and on being asked to end."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not on Windows, and not outside the main thread: then the loop is ended from outside.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop)


def run_server(host: str, port: int, *, on_ready: Callable[[str], None]) -> None:
    """The meeting point, until it is interrupted. `on_ready` gets its address. OSError for a port in use."""
    listening = listen(host, port)
    address = shown_address(host, listening)
    start_loop(serve(listening, on_ready=lambda: on_ready(address)))


async def serve(listening: socket.socket, *, on_ready: Callable[[], None] = lambda: None) -> None:
    """The meeting point on a listening socket, until it is interrupted or cancelled."""
    server = QuietServer(create_app(), ws_max_size=MAX_MESSAGE_BYTES, on_ready=on_ready)
    on_signals(lambda: setattr(server, "should_exit", True))
    try:
        await server.serve(sockets=[listening])
    finally:
        listening.close()


def run_call(settings: CallSettings, *, on_page: Callable[[str], None], on_link: Callable[[str], None]) -> CallReport:
    """One party of a call, with its page unless it is headless. `on_page` and `on_link` get addresses to print."""
    return start_loop(call(settings, on_page=on_page, on_link=on_link))


async def call(
    settings: CallSettings,
    *,
    on_page: Callable[[str], None] = lambda address: None,
    on_link: Callable[[str], None] = lambda link: None,
) -> CallReport:
    """As `run_call`, on a running loop."""
    hub = LiveHub()
    told: set[str] = set()

    def message(message: dict[str, Any]) -> None:
        hub.message(message)
        if message["type"] == "hello" and "#" in message["link"] and message["link"] not in told:
            told.add(message["link"])
            on_link(message["link"])

    node = CallNode(settings, on_message=message, on_binary=hub.binary)
    on_signals(lambda: node.stop("interrupted"))
    if settings.headless:
        return await node.run()
    listening, key = _page_socket(settings.port), PageKey()
    server = QuietServer(
        create_page_app(node, hub, key=key),
        ws_max_size=MAX_COMMAND_BYTES,
        lifespan="off",  # the node is run here, and the server may be cut off
        on_ready=lambda: on_page(key.opens(shown_address(LOOPBACK[0], listening))),
    )
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        return await node.run()
    finally:
        server.should_exit = True
        server.force_exit = True
        await asyncio.wait([serving], timeout=1.5)
        listening.close()


def _page_socket(port: int | None) -> socket.socket:
    """A listening socket on the loopback; without a wish a free port if the usual one is taken."""
    if port is not None:
        return listen(LOOPBACK[0], port)
    try:
        return listen(LOOPBACK[0], PAGE_PORT)
    except OSError:
        return listen(LOOPBACK[0], 0)
