"""The signalling server, `kilocall serve`: rooms in which two parties exchange offer and answer.

Motion, pictures and sound never pass here. A room is made by the first who joins; two may be in it, and the second
must show the same token as the first: both make it from the secret of their link, and its hash is all that is kept.
`rooms.py` has the rules; rooms are kept in this process or in Redis (`room_store.py`). Everything that comes from
outside is bounded in size, number and rate, and nobody waits for a party that does not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Literal

from fastapi import FastAPI, Response, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from kilocall.call.addresses import Address, Addresses, Bucket
from kilocall.call.room_store import Change, Changed, MemoryStore, RoomStore, StoreLost
from kilocall.call.rooms import Letter, RefusedError, Room, other_version, refuse
from kilocall.call.signalling import (
    MAX_MESSAGE_BYTES,
    SIGNALLING_VERSION,
    Commit,
    Free,
    FromClient,
    Join,
    Knock,
    Leave,
    Paired,
    Renew,
    Signal,
    parse_from_client,
)
from kilocall.call.signalling_settings import SignallingSettings
from kilocall.call.turn import Relays
from kilocall.call.web_page import add_web_page
from kilocall.runtime.metrics import Metrics
from kilocall.runtime.web import same_origin

__all__ = ["SignallingServer", "create_app"]

logger = logging.getLogger(__name__)

SEND_WITHIN_S = 10.0
MOST_UNREAD = 32
GOING_AWAY = 1001
POLICY = 1008


class Outbox(asyncio.Queue[str | None]):
    """What is to be sent to one party; None: close. A party that does not read loses its oldest messages."""

    def __init__(self, room: str) -> None:
        super().__init__(MOST_UNREAD)
        self.room = room
        self.joined = False

    def put_newest(self, text: str | None) -> None:
        while self.full():
            self.get_nowait()
        self.put_nowait(text)


def _check_version(text: str) -> None:
    """Raises RefusedError for a join of another version, whose fields may well be others."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return
    joins = isinstance(message, dict) and message.get("type") in ("join", "knock")
    version = message.get("version") if joins else None
    if type(version) is int and abs(version) < 1000 and version != SIGNALLING_VERSION:
        raise other_version(version)


class SignallingServer:
    """Speaks with the parties, and asks the store for what becomes of their rooms. `clock` is monotonic seconds."""

    def __init__(
        self,
        settings: SignallingSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        store: RoomStore | None = None,
    ) -> None:
        self.settings = settings or SignallingSettings()
        self.store: RoomStore = store or MemoryStore(self.settings.sweep_s, clock)
        self.store.deliver = self._deliver
        self.addresses = Addresses(self.settings, clock)
        self.connections = 0
        self.draining = False
        """Whether it is about to end: no new rooms."""
        self.outboxes: dict[str, Outbox] = {}
        """Of the parties here, by the names of their connections."""
        self._relays = Relays(self.settings)
        self._clock = clock
        self._names = itertools.count()
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._name_key = secrets.token_bytes(16)
        self.metrics = Metrics()
        self.metrics.gauge("rooms", "Rooms that are looked after here", lambda: len(self.rooms))
        self.metrics.gauge("connections", "Open WebSockets", lambda: self.connections)
        self._messages = self.metrics.counter("messages", "Messages from parties by type", "type")
        self._refusals = self.metrics.counter("refused", "Refusals by code", "code")
        self._pairings = self.metrics.counter("sessions", "Sessions begun")

    @property
    def rooms(self) -> set[str]:
        """Names of those that are looked after here."""
        return set(self.store.swept_here({outbox.room for outbox in list(self.outboxes.values())}))

    @property
    def state(self) -> Literal["ready", "draining", "full", "without rooms"]:
        """Whether new rooms can be made."""
        if self.draining:
            return "draining"
        if not self.store.well:
            return "without rooms"
        full = len(self.rooms) >= self.settings.most_rooms or self.connections >= self.settings.most_connections
        return "full" if full else "ready"

    async def drain(self) -> None:
        """Takes no new rooms from now on, and returns when nobody is there or others have had time to notice."""
        self.draining = True
        logger.info("draining", extra={"connections": self.connections})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_s):
                await self._nobody.wait()

    async def close(self) -> None:
        """Ends all connections; the parties' own connections go on."""
        for outbox in self.outboxes.values():
            outbox.put_newest(None)
        await self.store.close()

    async def serve(self, socket: WebSocket) -> None:
        """Speaks with one party until it goes."""
        if not self._may_connect(socket):
            self._refusals.labels("origin").inc()
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await socket.close()  # an answer 403 to the request
            return
        address = self.addresses.of(socket.client.host if socket.client is not None else "")
        self.connections += 1
        self._nobody.clear()
        address.connections += 1
        try:
            await socket.accept()
            await self._converse(socket, address)
        except (WebSocketDisconnect, RuntimeError) as error:
            # Starlette and uvicorn raise one or the other when the party has gone just before.
            logger.info("gone", extra={"because": type(error).__name__})
        finally:
            self.connections -= 1
            address.connections -= 1
            if not self.connections:
                self._nobody.set()
            with contextlib.suppress(Exception):
                await socket.close(GOING_AWAY)

    async def sweep(self) -> None:
        """Gives up parties that did not come back and rooms that nobody uses. Every `store.sweep_s`."""
        self.addresses.forget()
        here: dict[str, set[str]] = {}
        for connection, outbox in self.outboxes.items():
            if outbox.joined:
                here.setdefault(outbox.room, set()).add(connection)
        for name in self.store.swept_here(here.keys()):
            await self._change(name, partial(self._sweep, here.get(name, set())))

    def _sweep(self, here: set[str], room: Room | None, now: float) -> Changed:
        # Whoever has no place any more, because the rooms were lost, comes back by itself.
        homeless = [Letter(name, None) for name in here if room is None or room.member(name) is None]
        if room is None:
            return Changed(None, homeless)
        for member in room.members:
            # Taken for lost while this process stood still.
            if member.connection in here and member.connection in self.outboxes:
                member.lost_at = None
        letters = homeless + room.give_up(self.settings, now)
        ending = room.expire(self.settings, now)
        return Changed(room, letters) if ending is None else Changed(None, letters + ending)

    async def _converse(self, socket: WebSocket, address: Address) -> None:
        bucket = Bucket(self.settings.message_rate, self.settings.message_burst, self._clock())
        try:
            self._check_room_for(address)
            first = await self._first(socket, bucket)
            if isinstance(first, Knock):
                await self._change(first.room, partial(self._knock, first))
                await socket.send_text(Free().model_dump_json())
            elif first is not None:
                await self._stay(socket, bucket, first, address)
        except RefusedError as error:
            self._refusals.labels(error.refusal.code).inc()
            logger.info("refused", extra={"code": error.refusal.code})
            with contextlib.suppress(Exception):  # the party may be gone: nothing is left to tell it
                async with asyncio.timeout(SEND_WITHIN_S):
                    await socket.send_text(error.refusal.model_dump_json())
                await socket.close(POLICY, error.refusal.code)

    async def _stay(self, socket: WebSocket, bucket: Bucket, join: Join, address: Address) -> None:
        """Joins a room and passes on what comes until the party goes. Raises RefusedError."""
        connection = f"{self.store.instance}.{next(self._names)}"
        outbox = self.outboxes[connection] = Outbox(join.room)
        writer = asyncio.create_task(self._write(socket, outbox))
        try:
            await self._change(join.room, partial(self._join, join, connection, address))
            outbox.joined = True
            logger.info("joined", extra={**self._named(join.room), "again": join.member is not None})
            while (text := await self._receive(socket, bucket)) is not None:
                message = self._parse(text)
                if isinstance(message, Leave):
                    del self.outboxes[connection]
                    logger.info("left", extra=self._named(join.room))
                    await self._change(join.room, partial(self._leave, connection))
                    return
                if not isinstance(message, Commit | Signal | Renew):
                    raise refuse("malformed", "joined twice")
                await self._change(join.room, partial(self._message, message, connection))
        finally:
            writer.cancel()
            await asyncio.wait([writer])
            if self.outboxes.pop(connection, None) is not None:
                if outbox.joined:
                    logger.info("lost", extra=self._named(join.room))
                with contextlib.suppress(RefusedError):
                    await self._change(join.room, partial(self._lose, connection))

    async def _first(self, socket: WebSocket, bucket: Bucket) -> Join | Knock | None:
        """What a connection begins with; None when the party has gone. Raises RefusedError."""
        try:
            async with asyncio.timeout(self.settings.join_within_s):
                text = await self._receive(socket, bucket)
        except TimeoutError:
            raise refuse("malformed", f"no join within {self.settings.join_within_s:g} s") from None
        if text is None:
            return None
        first = self._parse(text)
        if not isinstance(first, Join | Knock):
            raise refuse("malformed", f"first message is {first.type}, not join")
        if first.version != SIGNALLING_VERSION:
            raise other_version(first.version)
        if socket.path_params.get("room", first.room) != first.room:
            raise refuse("malformed", "the room is another than that of the address")
        return first

    async def _change(self, name: str, change: Change) -> None:
        """Raises RefusedError."""
        try:
            changed = await self.store.change(name, change)
        except StoreLost as error:
            logger.warning("rooms are lost", extra={"because": str(error)})
            raise refuse("busy", "the meeting point cannot reach its rooms; try again in a moment") from None
        if any(isinstance(letter.message, Paired) for letter in changed.letters):
            self._pairings.inc()
            logger.info("paired", extra=self._named(name))
        for letter in changed.letters:
            if getattr(letter.message, "code", "") == "expired":
                self._refusals.labels("expired").inc()

    def _knock(self, knock: Knock, room: Room | None, now: float) -> Changed:
        if room is not None:
            room.knock(knock, self.settings, now)
        return Changed(room, [])

    def _join(self, join: Join, connection: str, address: Address, room: Room | None, now: float) -> Changed:
        if room is None:
            if self.draining and join.live is None:
                raise refuse("draining", "the meeting point is being started anew; try again in a moment")
            if len(self.rooms - {join.room}) >= self.settings.most_rooms:
                raise refuse("busy", f"{self.settings.most_rooms} rooms exist; try again later")
            if not address.rooms.take(self._clock()):
                most_min = f"{self.settings.rooms_per_minute:g} a minute"
                raise refuse("rooms", f"your address makes more new rooms than {most_min}; try again in a minute")
            room = Room.make(join, now)
        return Changed(room, room.join(join, connection, self._relays.for_one(), self.settings, now))

    def _message(self, message: Commit | Signal | Renew, connection: str, room: Room | None, now: float) -> Changed:
        if room is None or room.member(connection) is None:
            return Changed(room, [])
        if isinstance(message, Renew):
            return Changed(room, room.renew(message.session, now))
        return Changed(room, room.pass_on(connection, message))

    def _leave(self, connection: str, room: Room | None, now: float) -> Changed:
        if room is None:
            return Changed(None, [])
        letters = room.leave(connection, now)
        return Changed(room if room.members else None, letters)  # its link makes it again

    def _lose(self, connection: str, room: Room | None, now: float) -> Changed:
        # Not when it has come back on another connection meanwhile, or was removed.
        if room is not None:
            room.lose(connection, now)
        return Changed(room, [])

    def _deliver(self, to: str, text: str | None) -> None:
        outbox = self.outboxes.get(to)
        if outbox is not None:
            outbox.put_newest(text)

    def _named(self, room: str) -> dict[str, str]:
        """A room in the log: the same name for as long as this process runs, and none that could be guessed back."""
        return {"room": hashlib.blake2s(room.encode(), key=self._name_key, digest_size=6).hexdigest()}

    def _may_connect(self, socket: WebSocket) -> bool:
        origin = socket.headers.get("origin")
        return same_origin(origin, socket.headers.get("host")) or origin in self.settings.origins

    def _check_room_for(self, address: Address) -> None:
        """Raises RefusedError for one connection too many, of all or of this address."""
        settings = self.settings
        if self.connections > settings.most_connections:
            raise refuse("busy", f"{settings.most_connections} connections are open; try again later")
        if address.connections > settings.connections_per_address:
            most = settings.connections_per_address
            raise refuse("connections", f"your address has {most} connections open, which is the most allowed")
        if not address.joins.take(self._clock()):
            most_s = f"{settings.joins_per_second:g} a second"
            raise refuse("joins", f"your address joins more often than {most_s}; try again in a minute")

    async def _receive(self, socket: WebSocket, bucket: Bucket) -> str | None:
        """The next text message; None when the party has gone. Raises RefusedError for one out of bounds."""
        message = await socket.receive()
        if message["type"] != "websocket.receive":
            return None
        text: str | None = message.get("text")
        if text is None:
            raise refuse("malformed", "message is binary, not text")
        if len(text) > MAX_MESSAGE_BYTES:
            raise refuse("malformed", f"message is {len(text)} characters, most is {MAX_MESSAGE_BYTES}")
        if not bucket.take(self._clock()):
            raise refuse("rate", f"more than {self.settings.message_rate:g} messages a second")
        return text

    def _parse(self, text: str) -> FromClient:
        try:
            message = parse_from_client(text)
        except ValidationError as error:
            _check_version(text)
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise refuse("malformed", f"message is not one known: {where} {error.errors()[0]['msg']}"[:300]) from None
        self._messages.labels(message.type).inc()
        return message

    async def _write(self, socket: WebSocket, outbox: Outbox) -> None:
        """Sends what is put for one party; whoever does not take it within 10 s is cut off."""
        try:
            while (text := await outbox.get()) is not None:
                # Not `wait_for`: on Python 3.11 it swallows a cancellation that comes as the text is sent, and the
                # writer of a party that has left would wait for its next message for ever.
                async with asyncio.timeout(SEND_WITHIN_S):
                    await socket.send_text(text)
        except (TimeoutError, WebSocketDisconnect, RuntimeError, OSError) as error:
            logger.info("cannot be reached", extra={"because": type(error).__name__})
        # Ends `serve`, which waits for its next message.
        with contextlib.suppress(Exception):
            await socket.close(GOING_AWAY)


def create_app(
    settings: SignallingSettings | None = None,
    clock: Callable[[], float] = time.monotonic,
    store: RoomStore | None = None,
) -> FastAPI:
    """The signalling server as an application: /ws/ROOM, /health, /ready, and the page of a call at /ROOM. Its state is
    `app.state.signalling_server`.

    Run it with `SignallingConfig`, so that what is too long or too much is refused before it is read. The store is
    opened by whoever made it and closed here.
    """
    server = SignallingServer(settings, clock, store)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep(server))
        try:
            yield
        finally:
            sweeper.cancel()
            await asyncio.wait([sweeper])
            await server.close()

    app = FastAPI(title="kilocall meeting point", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.signalling_server = server

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready(response: Response) -> dict[str, str]:
        if server.state != "ready":
            response.status_code = 503
        return {"status": server.state}

    for path in ("/ws", "/ws/{room}"):
        app.add_api_websocket_route(path, server.serve)
    add_web_page(app)
    return app


async def _sweep(server: SignallingServer) -> None:
    while True:
        await asyncio.sleep(server.store.sweep_s)
        try:
            await server.sweep()
        except RefusedError as error:  # the store is away, which it has said
            logger.info("not swept", extra={"because": str(error)})
