"""Runs servers and nodes until they end or are interrupted: what the verbs `serve` and `call` do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import uvicorn

from kilocall.call.link import find_room
from kilocall.call.node import CallNode
from kilocall.call.page_server import MAX_COMMAND_BYTES, create_page_app, live_hub, picture_message
from kilocall.call.report import CallReport
from kilocall.call.room_store import RoomStore
from kilocall.call.settings import CallSettings
from kilocall.call.signalling import knock
from kilocall.call.signalling_http import SignallingConfig, check_proxies, raise_open_files
from kilocall.call.signalling_server import SignallingServer, create_app
from kilocall.call.signalling_settings import SignallingSettings
from kilocall.runtime.machine import share_freed_memory
from kilocall.runtime.web import LOOPBACK, PageKey, QuietServer, listen, shown_address

__all__ = ["PAGE_PORT", "SERVER_PORT", "call", "run_call", "run_server", "serve", "start_loop"]

logger = logging.getLogger(__name__)

SERVER_PORT = 8700
PAGE_PORT = 8710

T = TypeVar("T")


def start_loop(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on uvloop where there is one."""
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    return uvloop.run(main)


def on_signals(stop: Callable[[], None]) -> None:
    """Calls `stop` on Ctrl-C and on being asked to end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        on_signal(number, stop)


def on_signal(number: signal.Signals, call: Callable[[], None]) -> None:
    # Not on Windows, and not outside the main thread: then the loop is ended from outside.
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        asyncio.get_running_loop().add_signal_handler(number, call)


def run_server(
    host: str,
    port: int,
    settings: SignallingSettings | None = None,
    *,
    metrics_port: int | None = None,
    redis: str | None = None,
    on_ready: Callable[[str], None],
) -> None:
    """The signalling server, until it is interrupted. `on_ready` gets its address. OSError for a port in use."""
    settings = settings or SignallingSettings()
    check_proxies(settings.proxies)
    room_for = raise_open_files()
    if room_for is not None:
        settings = replace(settings, most_connections=max(1, min(settings.most_connections, room_for // 2)))
    listening = listen(host, port)
    address = shown_address(host, listening)
    start_loop(serve(listening, settings, metrics_port=metrics_port, redis=redis, on_ready=lambda: on_ready(address)))


async def serve(
    listening: socket.socket,
    settings: SignallingSettings | None = None,
    *,
    metrics_port: int | None = None,
    redis: str | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """The signalling server on a listening socket, until it is interrupted or cancelled. Told to terminate, it drains.

    `redis` is the address of the Redis with the rooms; None: they are in this process.
    """
    settings = settings or SignallingSettings()
    store = await _open_redis(redis, settings) if redis is not None else None
    app = create_app(settings, store=store)
    signalling: SignallingServer = app.state.signalling_server
    server = QuietServer(SignallingConfig(app), on_ready)
    draining: list[asyncio.Task[None]] = []

    def stop() -> None:
        server.should_exit = True

    def drain() -> None:
        if draining:
            stop()  # told twice
            return
        draining.append(asyncio.create_task(signalling.drain()))
        draining[0].add_done_callback(lambda _: stop())

    on_signal(signal.SIGINT, stop)
    on_signal(signal.SIGTERM, drain)
    with contextlib.ExitStack() as stack:
        stack.callback(listening.close)
        if metrics_port is not None:
            stack.enter_context(signalling.metrics.served(metrics_port))
        await server.serve(sockets=[listening])


async def _open_redis(url: str, settings: SignallingSettings) -> RoomStore:
    from kilocall.call.redis_store import RedisStore  # of an extra

    store = RedisStore(url, settings)
    await store.open()
    return store


def run_call(settings: CallSettings, *, on_page: Callable[[str], None], on_link: Callable[[str], None]) -> CallReport:
    """One party of a call, with its page unless it is headless. `on_page` and `on_link` get addresses to print."""
    share_freed_memory()
    return start_loop(call(settings, on_page=on_page, on_link=on_link))


async def call(
    settings: CallSettings,
    *,
    on_page: Callable[[str], None] = lambda address: None,
    on_link: Callable[[str], None] = lambda link: None,
) -> CallReport:
    """As `run_call`, on a running loop."""
    # Before models are loaded, which takes seconds: whoever is refused is told at once.
    address = find_room(settings.room, settings.server)
    trouble = await knock(address.server, address.room, address.secret)
    if trouble:
        logger.warning("%s", trouble)
    hub = live_hub()
    told: set[str] = set()

    def message(message: dict[str, Any]) -> None:
        hub.text(message)
        if message["type"] == "hello" and "#" in message["link"] and message["link"] not in told:
            told.add(message["link"])
            on_link(message["link"])

    def binary(kind: int, time_us: int, jpeg: bytes) -> None:
        hub.picture(picture_message(kind, time_us, jpeg), kind)

    node = CallNode(settings, on_message=message, on_binary=binary)
    on_signals(lambda: node.stop("interrupted"))
    # Before anybody is sent to a page: there may be no such camera.
    await node.open_camera()
    if settings.headless:
        return await node.run()
    listening, key = _page_socket(settings.port), PageKey()
    server = QuietServer(
        uvicorn.Config(
            create_page_app(node, hub, key=key),
            log_level="warning",
            ws_max_size=MAX_COMMAND_BYTES,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
            lifespan="off",  # the node is run here, and the server may be cut off
        ),
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
    """A listening socket on the loopback; without one asked for a free port if the usual one is taken."""
    if port is not None:
        return listen(LOOPBACK[0], port)
    try:
        return listen(LOOPBACK[0], PAGE_PORT)
    except OSError:
        return listen(LOOPBACK[0], 0)
