"""A signalling server that runs inside a test, and two parties in one of its rooms."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from kilocall.call.room_store import Changed, MemoryStore, RoomStore
from kilocall.call.rooms import Room
from kilocall.call.signalling import Joined, Paired, Signalling, websocket_url
from kilocall.call.signalling_http import SignallingConfig
from kilocall.call.signalling_server import SignallingServer, create_app
from kilocall.call.signalling_settings import SignallingSettings
from kilocall.proto.trust import LinkSecret

SECRET = LinkSecret("AAECAwQFBgcICQoLDA0ODw")
OTHER_SECRET = LinkSecret("Dw4NDAsKCQgHBgUEAwIBAA")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class _Quiet(uvicorn.Server):
    """Leaves the process's signals to the test."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Server:
    """A signalling server on a free port of this machine, in this event loop."""

    def __init__(
        self,
        limits: SignallingSettings | None = None,
        clock: Clock | None = None,
        port: int = 0,
        store: RoomStore | None = None,
    ) -> None:
        app = create_app(limits, clock or time.monotonic, store)
        self.signalling: SignallingServer = app.state.signalling_server
        self._server = _Quiet(SignallingConfig(app, host="127.0.0.1", port=port))

    async def __aenter__(self) -> Server:
        self._task = asyncio.create_task(self._server.serve())
        while not self._server.started:  # noqa: ASYNC110  # uvicorn has no event for it
            await asyncio.sleep(0.005)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        await self._task

    async def get(self, path: str) -> httpx2.Response:
        async with httpx2.AsyncClient(trust_env=False) as client:
            return await client.get(self.url + path)

    @property
    def rooms(self) -> dict[str, Room]:
        assert isinstance(self.signalling.store, MemoryStore)
        return self.signalling.store.rooms

    @property
    def metrics(self) -> str:
        return self.signalling.metrics.text().decode()

    @contextlib.asynccontextmanager
    async def raw(self, address: str = "127.0.0.1", **headers: str) -> AsyncIterator[ClientConnection]:
        """A WebSocket from an address of the loopback, 127.0.0.1 to 127.255.255.254."""
        async with connect(
            websocket_url(self.url),
            max_size=1 << 22,
            close_timeout=1,
            local_addr=(address, 0),
            additional_headers=headers,
        ) as socket:
            yield socket

    async def said_to(self, *messages: str | bytes, address: str = "127.0.0.1", **headers: str) -> dict[str, Any]:
        """What comes back last before the connection is closed."""
        async with self.raw(address, **headers) as socket:
            with contextlib.suppress(ConnectionClosed):
                for message in messages:
                    await socket.send(message)
            last: dict[str, Any] = {}
            with contextlib.suppress(ConnectionClosed):
                while True:
                    last = json.loads(await socket.recv())
            return last


async def two(server: Server, *, second_waits_s: float = 0.01) -> tuple[Signalling, Signalling, int]:
    """Two parties in a room, paired; the first makes the offer. The second waits so long before it comes back."""
    first = await Signalling(server.url, "tea", SECRET, first_wait_s=0.01).__aenter__()
    assert isinstance(await first.next(), Joined)
    second = await Signalling(server.url, "tea", SECRET, first_wait_s=second_waits_s).__aenter__()
    assert isinstance(await second.next(), Joined)
    paired = [await link.next() for link in (first, second)]
    assert [pair.offer for pair in paired if isinstance(pair, Paired)] == [True, False]
    assert isinstance(paired[0], Paired)
    return first, second, paired[0].session


def renewed(room: Room | None, now: float) -> Changed:
    """Another session of the same two, as if one had asked for it."""
    assert room is not None
    return Changed(room, room.renew(room.session, now))
