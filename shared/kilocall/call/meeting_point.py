"""The meeting point, `kilocall serve`: rooms in which two parties exchange offer and answer.

Motion, pictures and sound never pass here. A room is made by the first who joins; two may be in it, and the second
must show the same token as the first: both make it from the secret of their link, and its hash is all that is kept.
Everything that comes from outside is bounded in size, number and rate, and nobody waits for a party that does not
read.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import itertools
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from fastapi import FastAPI, Response, WebSocket
from pydantic import BaseModel, ValidationError

from kilocall.call.signalling import (
    MAX_MESSAGE_BYTES,
    SIGNALLING_VERSION,
    Commit,
    FromClient,
    Join,
    Joined,
    Leave,
    Left,
    Paired,
    Refused,
    Renew,
    Signal,
    parse_from_client,
)
from kilocall.runtime.metrics import Metrics

__all__ = ["MeetingPoint", "MeetingSettings", "create_app"]

logger = logging.getLogger(__name__)

SEND_WITHIN_S = 10.0
MOST_UNREAD = 32
GOING_AWAY = 1001
POLICY = 1008


@dataclass(frozen=True)
class MeetingSettings:
    """Limits of a meeting point."""

    most_rooms: int = 1000
    most_connections: int = 3000
    join_within_s: float = 10.0
    message_rate: float = 10.0
    """Messages a second from one party, on average."""
    message_burst: int = 30
    come_back_within_s: float = 15.0
    """A party whose connection broke keeps its place so long; nobody else gets it."""
    empty_room_s: float = 60.0
    waiting_room_s: float = 3600.0
    """A room in which one party has waited so long is closed."""
    sweep_s: float = 1.0


@dataclass(eq=False)
class _Member:
    token: str
    order: int
    live: int | None = None
    """Session whose connection it had and wanted to keep when it joined."""
    outbox: asyncio.Queue[BaseModel | None] = field(default_factory=lambda: asyncio.Queue(MOST_UNREAD))
    lost_at: float | None = None
    """When its connection broke, or its place was set aside; None while it is connected."""

    def put(self, message: BaseModel | None) -> None:
        """None: close. A party that does not read loses its oldest messages."""
        while self.outbox.full():
            self.outbox.get_nowait()
        self.outbox.put_nowait(message)


@dataclass
class _Room:
    name: str
    token_hash: bytes
    changed_at: float
    """When anyone last came, went or was paired."""
    members: list[_Member] = field(default_factory=list)
    session: int = field(default_factory=lambda: secrets.randbelow(1 << 31))
    """Counts up from a random number: a meeting point that was started anew must not give an old number again."""
    paired: frozenset[str] = frozenset()
    """Tokens of the two of the present session."""

    @property
    def connected(self) -> list[_Member]:
        return [member for member in self.members if member.lost_at is None]


class _RefusedError(Exception):
    def __init__(self, refusal: Refused) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


def _refuse(code: str, reason: str) -> _RefusedError:
    return _RefusedError(Refused.model_validate({"code": code, "reason": reason}))


def _other_version(version: int) -> _RefusedError:
    older = "the caller" if version < SIGNALLING_VERSION else "the meeting point"
    said = f"caller speaks version {version}, meeting point {SIGNALLING_VERSION}: please update {older}"
    return _refuse("version", said)


def _check_version(text: str) -> None:
    """Raises _RefusedError for a join of another version, whose fields may well be others."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return
    version = message.get("version") if isinstance(message, dict) and message.get("type") == "join" else None
    if type(version) is int and abs(version) < 1000 and version != SIGNALLING_VERSION:
        raise _other_version(version)


class _Bucket:
    """So many messages a second, so many at once."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._then = float(burst), now

    def take(self, now: float) -> bool:
        self._tokens = min(self._burst, self._tokens + (now - self._then) * self._rate)
        self._then = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class MeetingPoint:
    """The rooms and who is in them. `clock` is monotonic seconds."""

    def __init__(self, settings: MeetingSettings | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings or MeetingSettings()
        self.rooms: dict[str, _Room] = {}
        self.connections = 0
        self._clock = clock
        self._orders = itertools.count()
        self.metrics = Metrics()
        self.metrics.gauge("rooms", "Rooms that exist", lambda: len(self.rooms))
        self.metrics.gauge("connections", "Open WebSockets", lambda: self.connections)
        self._messages = self.metrics.counter("messages", "Messages from parties by type", "type")
        self._refusals = self.metrics.counter("refused", "Refusals by code", "code")
        self._pairings = self.metrics.counter("sessions", "Sessions begun")

    async def serve(self, socket: WebSocket) -> None:
        """Speaks with one party until it goes."""
        await socket.accept()
        self.connections += 1
        room: _Room | None = None
        member: _Member | None = None
        writer: asyncio.Task[None] | None = None
        bucket = _Bucket(self.settings.message_rate, self.settings.message_burst, self._clock())
        try:
            if self.connections > self.settings.most_connections:
                raise _refuse("busy", f"{self.settings.most_connections} connections are open; try again later")
            try:
                async with asyncio.timeout(self.settings.join_within_s):
                    text = await self._receive(socket, bucket)
            except TimeoutError:
                raise _refuse("malformed", f"no join within {self.settings.join_within_s:g} s") from None
            if text is None:
                return
            room, member = self._join(self._parse(text))
            writer = asyncio.create_task(self._write(socket, member))
            while (text := await self._receive(socket, bucket)) is not None:
                message = self._parse(text)
                if isinstance(message, Leave):
                    self._remove(room, member)
                    if not room.members and self.rooms.get(room.name) is room:
                        del self.rooms[room.name]  # its link makes it again
                    return
                if isinstance(message, Commit | Signal):
                    self._pass_on(room, member, message)
                elif isinstance(message, Renew):
                    self._renew(room, message.session)
                else:
                    raise _refuse("malformed", "joined twice")
        except _RefusedError as error:
            self._refusals.labels(error.refusal.code).inc()
            if writer is not None:
                writer.cancel()
            with contextlib.suppress(Exception):  # the party may be gone: nothing is left to tell it
                async with asyncio.timeout(SEND_WITHIN_S):
                    await socket.send_text(error.refusal.model_dump_json())
                await socket.close(POLICY, error.refusal.code)
        finally:
            self.connections -= 1
            if writer is not None:
                writer.cancel()
                await asyncio.wait([writer])
            # Not when it has come back on another connection meanwhile, or was removed.
            if room is not None and member is not None and member in room.members:
                member.lost_at = room.changed_at = self._clock()
            with contextlib.suppress(Exception):
                await socket.close(GOING_AWAY)

    def sweep(self) -> None:
        """Gives up parties that did not come back and rooms that nobody uses. Once a second or so."""
        now = self._clock()
        for room in list(self.rooms.values()):
            for member in list(room.members):
                if member.lost_at is not None and now - member.lost_at > self.settings.come_back_within_s:
                    self._remove(room, member)
            idle_s = now - room.changed_at
            if not room.members and idle_s > self.settings.empty_room_s:
                del self.rooms[room.name]
            elif len(room.members) < 2 and idle_s > self.settings.waiting_room_s:
                for member in room.members:
                    self._refusals.labels("expired").inc()
                    member.put(Refused(code="expired", reason="nobody came to the room for an hour"))
                    member.put(None)
                del self.rooms[room.name]

    async def close(self) -> None:
        """Ends all connections; the parties' own connections go on."""
        for room in self.rooms.values():
            for member in room.members:
                member.put(None)
        self.rooms.clear()

    async def _receive(self, socket: WebSocket, bucket: _Bucket) -> str | None:
        """The next text message; None when the party has gone. Raises _RefusedError for one out of bounds."""
        message = await socket.receive()
        if message["type"] != "websocket.receive":
            return None
        text: str | None = message.get("text")
        if text is None:
            raise _refuse("malformed", "message is binary, not text")
        if len(text) > MAX_MESSAGE_BYTES:
            raise _refuse("malformed", f"message is {len(text)} characters, most is {MAX_MESSAGE_BYTES}")
        if not bucket.take(self._clock()):
            raise _refuse("rate", f"more than {self.settings.message_rate:g} messages a second")
        return text

    def _parse(self, text: str) -> FromClient:
        try:
            message = parse_from_client(text)
        except ValidationError as error:
            _check_version(text)
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise _refuse("malformed", f"message is not one known: {where} {error.errors()[0]['msg']}"[:300]) from None
        self._messages.labels(message.type).inc()
        return message

    def _join(self, join: FromClient) -> tuple[_Room, _Member]:
        if not isinstance(join, Join):
            raise _refuse("malformed", f"first message is {join.type}, not join")
        if join.version != SIGNALLING_VERSION:
            raise _other_version(join.version)
        known = join.room in self.rooms
        room = self._room(join)
        member = self._place(room, join)
        if not known and join.live is not None:
            # This meeting point was started anew. Whoever is on the other end of that connection comes back as well.
            room.members.append(_Member("", next(self._orders), join.live, lost_at=self._clock()))
        room.changed_at = self._clock()
        others = len(room.connected) - 1
        member.put(Joined(member=member.token, others=others))
        if others and room.paired != frozenset(one.token for one in room.connected):
            self._pair_unless_alive(room)
        return room, member

    def _room(self, join: Join) -> _Room:
        """The room that is asked for, made if there is none."""
        token_hash = hashlib.sha256(join.token.encode()).digest()
        room = self.rooms.get(join.room)
        if room is None:
            if len(self.rooms) >= self.settings.most_rooms:
                raise _refuse("busy", f"{self.settings.most_rooms} rooms exist; try again later")
            room = self.rooms[join.room] = _Room(join.room, token_hash, self._clock())
        elif not hmac.compare_digest(room.token_hash, token_hash):
            raise _refuse("token", f"room {join.room} exists and has another secret; ask for its link")
        return room

    def _place(self, room: _Room, join: Join) -> _Member:
        """The new member in the room: in its old place, in the one set aside for it, or in a free one."""
        # The one who comes back takes the old place, even if the old connection still looks alive.
        old = next((member for member in room.members if member.token and member.token == join.member), None)
        if old is None:
            old = next((member for member in room.members if not member.token and member.live == join.live), None)
        if old is None and len(room.members) == 2:
            raise self._full(room)
        token = old.token if old is not None else ""
        order = old.order if old is not None and old.token else next(self._orders)
        member = _Member(token or join.member or secrets.token_urlsafe(16), order, join.live)
        if old is not None:
            room.members.remove(old)
            old.put(Refused(code="replaced", reason="joined again from elsewhere"))
            old.put(None)
        room.members.append(member)
        return member

    def _full(self, room: _Room) -> _RefusedError:
        away = [member.lost_at for member in room.members if member.lost_at is not None]
        kept = ""
        if away:
            left_s = max(0.0, min(away) + self.settings.come_back_within_s - self._clock())
            kept = f"; one has lost its connection and keeps its place for {left_s:.0f} s more"
        return _refuse("full", f"room {room.name} has two parties already{kept}")

    def _pair_unless_alive(self, room: _Room) -> None:
        """Begins a session, unless both say that they are connected already and by which session."""
        first, second = room.connected
        if first.live is None or first.live != second.live:
            self._pair(room)
        else:
            room.session = first.live
            room.paired = frozenset((first.token, second.token))

    def _pair(self, room: _Room) -> None:
        room.session += 1
        room.changed_at = self._clock()
        room.paired = frozenset(member.token for member in room.connected)
        self._pairings.inc()
        first = min(room.connected, key=lambda member: member.order)
        for member in room.connected:
            member.live = None
            member.put(Paired(session=room.session, offer=member is first))

    def _pass_on(self, room: _Room, sender: _Member, signal: Commit | Signal) -> None:
        if signal.session == room.session and sender in room.members:
            for member in room.members:
                if member is not sender:
                    member.put(signal)

    def _renew(self, room: _Room, session: int) -> None:
        # Both sides notice; the second one's wish has been fulfilled already.
        if session == room.session and len(room.connected) == 2:
            self._pair(room)

    def _remove(self, room: _Room, member: _Member) -> None:
        if member in room.members:
            room.members.remove(member)
            room.changed_at = self._clock()
            for other in room.members:
                other.put(Left())

    async def _write(self, socket: WebSocket, member: _Member) -> None:
        """Sends what is put for one party; whoever does not take it within 10 s is cut off."""
        try:
            while (message := await member.outbox.get()) is not None:
                # Not `wait_for`: on Python 3.11 it swallows a cancellation that comes as the text is sent, and the
                # writer of a party that has left would wait for its next message for ever.
                async with asyncio.timeout(SEND_WITHIN_S):
                    await socket.send_text(message.model_dump_json())
        except (TimeoutError, RuntimeError, OSError) as error:
            logger.info("a party cannot be reached: %s", error)
        # Ends `serve`, which waits for its next message.
        with contextlib.suppress(Exception):
            await socket.close(GOING_AWAY)


def create_app(settings: MeetingSettings | None = None, clock: Callable[[], float] = time.monotonic) -> FastAPI:
    """The meeting point as an application: /ws, /health, /metrics. Its state is `app.state.meeting_point`.

    Run it with `ws_max_size=MAX_MESSAGE_BYTES`, so that longer messages are refused before they are read.
    """
    point = MeetingPoint(settings, clock)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep(point))
        try:
            yield
        finally:
            sweeper.cancel()
            await asyncio.wait([sweeper])
            await point.close()

    app = FastAPI(title="kilocall meeting point", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.meeting_point = point

    @app.get("/health")
    async def health() -> dict[str, str | int]:
        return {"status": "ok", "rooms": len(point.rooms), "connections": point.connections}

    @app.get("/metrics")
    async def metrics() -> Response:
        return point.metrics.response()

    app.add_api_websocket_route("/ws", point.serve)
    return app


async def _sweep(point: MeetingPoint) -> None:
    while True:
        await asyncio.sleep(point.settings.sweep_s)
        point.sweep()
