"""How two parties find each other: the messages of the signalling server, and the client that speaks them.

JSON objects over one WebSocket, each with its `type`; `signalling_server.py` is the other end. Nothing that comes from
it is believed: descriptions are authenticated with the link's secret, which is never sent (`kilocall.proto.trust`).

    -> knock                as the only message: would a join be refused?
    <- free                 it would not
    -> join                 room, token made from the link's secret; when coming back the member token, and the session
                            whose connection is alive
    <- joined               the member token, to come back with after a lost connection, and TURN servers to use
    <- paired               two are here: a new session begins, `offer` says who makes the offer
    -> commit  <- commit    what each side commits to, passed on as it is
    -> signal  <- signal    offer and answer of a session with their tags, passed on as they are
    -> renew                the session's connection is lost: begin another
    -> leave   <- left      one has gone
    <- refused              with a reason; the connection is closed then
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections import deque
from socket import gaierror
from types import TracebackType
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from kilocall.proto.errors import BadInput
from kilocall.proto.trust import LinkSecret

__all__ = [
    "MAX_MESSAGE_BYTES",
    "MOST_RELAYS",
    "SIGNALLING_VERSION",
    "Commit",
    "Event",
    "Free",
    "Join",
    "Joined",
    "Knock",
    "Leave",
    "Left",
    "Paired",
    "Refused",
    "Relay",
    "Renew",
    "Signal",
    "Signalling",
    "knock",
    "websocket_url",
]

logger = logging.getLogger(__name__)

SIGNALLING_VERSION = 2
MAX_MESSAGE_BYTES = 32 << 10
MAX_SDP = 16 << 10
OPEN_WITHIN_S = 8.0
LEAVE_WITHIN_S = 1.0
PING_S = 10.0
MOST_EVENTS = 64
MOST_WAITING = 8
MOST_RELAYS = 4
KNOCK_WITHIN_S = 3.0
#: Refusals that pass by themselves: whoever has a place in a room tries again.
PASSING = frozenset({"busy", "connections", "joins", "rooms"})


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Room = Annotated[str, Field(pattern=r"^[A-Za-z0-9._~-]{1,64}$")]
Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{16,64}$")]
JoinToken = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")]
SessionId = Annotated[int, Field(ge=0, lt=1 << 32)]


class _ForRoom(_Message):
    """A connection's first message."""

    version: int = SIGNALLING_VERSION
    room: Room
    token: JoinToken
    """LinkSecret.token; the same for both sides."""


class Join(_ForRoom):
    type: Literal["join"] = "join"
    member: Token | None = None
    live: SessionId | None = None
    """Session whose connection this side has and keeps, if the other side has it too."""


class Knock(_ForRoom):
    """Asks before joining, on a connection of its own, so that nobody loads models in order to be sent away."""

    type: Literal["knock"] = "knock"


class Free(_Message):
    """A join would not be refused just now."""

    type: Literal["free"] = "free"


class Commit(_Message):
    """What a side commits to for a session, before any description; goes both ways."""

    type: Literal["commit"] = "commit"
    session: SessionId
    commitment: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Signal(_Message):
    """An offer or answer; goes both ways."""

    type: Literal["signal"] = "signal"
    session: SessionId
    kind: Literal["offer", "answer"]
    sdp: Annotated[str, Field(max_length=MAX_SDP)]
    tag: Annotated[str, Field(max_length=64)] = ""
    """Handshake.seal's; none is for the other side to refuse, not for the signalling server."""


class Renew(_Message):
    type: Literal["renew"] = "renew"
    session: SessionId


class Leave(_Message):
    type: Literal["leave"] = "leave"


class Relay(BaseModel):
    """A TURN server and what it may be used with for a while."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    url: Annotated[str, Field(max_length=300, pattern=r"^turns?:[A-Za-z0-9.-]+(:[0-9]{1,5})?(\?transport=(udp|tcp))?$")]
    username: Annotated[str, Field(max_length=128)]
    credential: Annotated[str, Field(max_length=128, repr=False)]


class Joined(_Message):
    type: Literal["joined"] = "joined"
    member: Token
    others: Annotated[int, Field(ge=0, le=1)]
    """How many are in the room beside this one."""
    ice: Annotated[tuple[Relay, ...], Field(max_length=MOST_RELAYS)] | None = None
    """TURN servers for the next connections; absent when the signalling server has none."""


class Paired(_Message):
    type: Literal["paired"] = "paired"
    session: SessionId
    offer: bool
    """Whether this side makes the offer."""


class Left(_Message):
    type: Literal["left"] = "left"


class Refused(_Message):
    type: Literal["refused"] = "refused"
    code: Literal[
        "full",
        "token",
        "version",
        "busy",
        "connections",
        "joins",
        "rooms",
        "draining",
        "malformed",
        "rate",
        "expired",
        "replaced",
    ]
    reason: Annotated[str, Field(max_length=300)]


Event = Joined | Paired | Commit | Signal | Left
"""What `Signalling.next` returns."""
FromClient = Knock | Join | Commit | Signal | Renew | Leave

_from_client: TypeAdapter[FromClient] = TypeAdapter(Annotated[FromClient, Field(discriminator="type")])
_from_server: TypeAdapter[Event | Refused] = TypeAdapter(Annotated[Event | Refused, Field(discriminator="type")])
_answer: TypeAdapter[Free | Refused] = TypeAdapter(Annotated[Free | Refused, Field(discriminator="type")])


def parse_from_client(text: str) -> FromClient:
    """Raises pydantic's ValidationError, a ValueError."""
    return _from_client.validate_json(text)


def websocket_url(server: str, room: str = "") -> str:
    """`http://host:port` or `https://host` of a signalling server to its WebSocket's address. Raises BadInput.

    It ends with the room, by which a proxy may choose one of several signalling servers.
    """
    parts = urlsplit(server if "://" in server else f"http://{server}")
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise BadInput(f"server is {server!r}, allowed is http://host:port or https://host")
    # Those two would be taken for folders.
    part = f"/{room}" if room and room not in (".", "..") else ""
    return urlunsplit((scheme, parts.netloc, f"{parts.path.rstrip('/')}/ws{part}", "", ""))


async def knock(server: str, room: str, secret: LinkSecret) -> str:
    """What is wrong if the signalling server does not answer, else nothing. BadInput when it refuses this party."""
    try:
        asked = Knock(room=room, token=secret.token)
    except ValidationError:
        raise _no_room(room) from None
    try:
        async with (
            asyncio.timeout(KNOCK_WITHIN_S),
            connect(
                websocket_url(server, room),
                open_timeout=KNOCK_WITHIN_S,
                max_size=MAX_MESSAGE_BYTES,
                close_timeout=0.1,
            ) as socket,
        ):
            await _say(socket, asked)
            answer = _answer.validate_json(await socket.recv())
    except (OSError, TimeoutError, ConnectionClosed, InvalidHandshake, InvalidURI, EOFError, ValidationError) as error:
        logger.info("meeting point %s does not say whether there is room: %s", server, error)
        return unreachable(server, error)
    if isinstance(answer, Refused):
        raise BadInput(f"meeting point refused: {answer.reason}")
    return ""


async def _say(socket: ClientConnection, first: _Message) -> None:
    # Whoever is refused before saying anything, for having come too often, can still read why.
    with contextlib.suppress(ConnectionClosed):
        await socket.send(first.model_dump_json())


def unreachable(server: str, error: Exception) -> str:
    """A sentence about a signalling server that cannot be reached: what is wrong, and what to look at."""
    where = urlsplit(server if "://" in server else f"http://{server}").netloc or server
    match error:
        case gaierror():
            why = f"there is no computer of the name {where}; look for a typing mistake"
        case ssl.SSLError():
            why = f"{where} does not speak https, or has no valid certificate; try http://{where}"
        case ConnectionRefusedError():
            why = f"nothing listens at {where}; is kilocall serve running there, on that port?"
        case InvalidStatus():
            why = f"{where} answers with {error.response.status_code}: it is another web server, not a meeting point"
        case InvalidHandshake() | EOFError() | ConnectionClosed() | ValidationError():
            why = f"{where} does not speak as a meeting point does; is the port right, and is it http or https?"
        case TimeoutError():
            why = f"{where} does not answer; is it switched on, and does a firewall let this port through?"
        case _:
            why = f"{where}: {str(error)[:120] or type(error).__name__}"
    return f"the meeting point cannot be reached: {why}"


def _no_room(room: str) -> BadInput:
    return BadInput(f"room is {room!r:.80}; allowed are 1 to 64 letters, digits and . _ ~ -")


class Signalling:
    """A place in a room of a signalling server, kept through lost connections.

        async with Signalling("http://localhost:8400", "tea", LinkSecret.make()) as link:
            match await link.next():
                case Paired(session=session):
                    link.commit(session, handshake.commitment)

    Comes back by itself, after 0.25 s and then up to 8 s, as the same member of the room. A connection between
    the parties does not depend on it: while `live` names its session, coming back does not replace it. Raises BadInput
    for settings that cannot be used.
    """

    def __init__(
        self,
        server: str,
        room: str,
        secret: LinkSecret,
        *,
        first_wait_s: float = 0.25,
        most_wait_s: float = 8.0,
    ) -> None:
        self._server = server
        try:
            self._join = Join(room=room, token=secret.token)
        except ValidationError:
            raise _no_room(room) from None
        self.url = websocket_url(server, room)
        self.connected = False
        self.trouble = ""
        """Why it cannot be reached, for people; nothing while it can."""
        self.live: int | None = None
        """Session whose connection is open."""
        self.malformed = 0
        """Messages of the server that made no sense and were dropped."""
        self._waits_s = (first_wait_s, most_wait_s)
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._changed = asyncio.Event()
        self._outbox: deque[_Message] = deque(maxlen=MOST_WAITING)
        self._to_send = asyncio.Event()
        self._refused: Refused | None = None
        self._given_up = ""
        self._failure: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._leaving = False
        self._socket: ClientConnection | None = None
        self._hurry = asyncio.Event()

    @property
    def local_address(self) -> str | None:
        """This machine's address towards the signalling server, while there is a connection."""
        address = self._socket.local_address if self._socket is not None else None
        return str(address[0]) if address else None

    def reconnect(self) -> None:
        """Begins again at once, without waiting for a connection that leads nowhere any more."""
        self._hurry.set()
        self.abort()

    def abort(self) -> None:
        """Ends the connection without a word, as a network that breaks does; it comes back by itself."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Leaves the room."""
        if self._task is None:
            return
        self._leaving = True
        if self.connected:
            self._outbox.clear()
            self._put(Leave())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._task), LEAVE_WITHIN_S)
        self._task.cancel()
        await asyncio.wait([self._task])

    async def next(self) -> Event:
        """The next event. Raises BadInput with the reason when the signalling server refuses for good."""
        self.check()
        while not self._events:
            if self._refused is not None:
                raise BadInput(f"meeting point refused: {self._refused.reason}")
            if self._failure is not None:
                raise BadInput(f"signalling has ended: {self._failure}")
            self._changed.clear()
            await self._changed.wait()
            self.check()
        return self._events.popleft()

    def check(self) -> None:
        """Raises BadInput once this has been given up."""
        if self._given_up:
            raise BadInput(self._given_up)

    def commit(self, session: int, commitment: str) -> None:
        """Sends what this side commits to for a session; later, when there is no connection just now."""
        self._put(Commit(session=session, commitment=commitment))

    def send(self, session: int, kind: Literal["offer", "answer"], sdp: str, tag: str) -> None:
        """Sends this side's offer or answer of a session, likewise."""
        self._put(Signal(session=session, kind=kind, sdp=sdp, tag=tag))

    def give_up(self, reason: str) -> None:
        """Makes `next` and `check` raise BadInput with this reason, whatever else has come."""
        self._given_up = reason
        self._changed.set()

    def renew(self, session: int) -> None:
        """Asks for a new session, because the connection of this one is lost."""
        self._put(Renew(session=session))

    def _put(self, message: _Message) -> None:
        self._outbox.append(message)
        self._to_send.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            logger.error("signalling ended", exc_info=self._failure)
        self._changed.set()

    async def _run(self) -> None:
        first_s, most_s = self._waits_s
        wait_s = first_s
        while True:
            try:
                async with connect(
                    self.url,
                    open_timeout=OPEN_WITHIN_S,
                    ping_interval=PING_S,
                    ping_timeout=PING_S,
                    max_size=MAX_MESSAGE_BYTES,
                    close_timeout=LEAVE_WITHIN_S,
                ) as socket:
                    self._socket = socket
                    if await self._converse(socket):
                        return
            except InvalidURI as error:
                raise BadInput(f"server {self.url}: {error}") from None
            except (OSError, TimeoutError, ConnectionClosed, InvalidHandshake, EOFError) as error:
                logger.info("meeting point %s: %s", self.url, error)
                self._note(error)
            finally:
                self._socket = None
            if self.connected:
                self.connected = False
                wait_s = first_s
            # Spread out, so that not all come back at once to a signalling server that was restarted.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), wait_s * random.uniform(0.5, 1))
                wait_s = first_s
            self._hurry.clear()
            wait_s = min(2 * wait_s, most_s)

    def _note(self, error: Exception) -> None:
        # A connection that was there is mostly back in a moment; only the next try says what is wrong.
        if self.connected:
            return
        trouble = unreachable(self._server, error)
        if trouble != self.trouble:
            self.trouble = trouble
            logger.warning("%s", trouble)

    async def _converse(self, socket: ClientConnection) -> bool:
        """Speaks until the connection ends; True when it was to end for good."""
        await _say(socket, self._join.model_copy(update={"live": self.live}))
        writer = asyncio.create_task(self._write(socket))
        try:
            async for text in socket:
                try:
                    message = _from_server.validate_json(text)
                except ValidationError:
                    self.malformed += 1
                    continue
                if isinstance(message, Refused):
                    if message.code == "draining" or (message.code in PASSING and self._join.member is not None):
                        logger.info("meeting point refused for now: %s", message.reason)
                        return False
                    self._refused = message
                    return True
                if isinstance(message, Joined):
                    self.connected = True
                    self.trouble = ""
                    self._join = self._join.model_copy(update={"member": message.member})
                    self._to_send.set()
                self._events.append(message)
                self._changed.set()
            return self._leaving
        finally:
            writer.cancel()
            await asyncio.wait([writer])
            if not writer.cancelled():
                writer.exception()

    async def _write(self, socket: ClientConnection) -> None:
        """Sends what waits, once joined; ends after Leave."""
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            while self.connected and self._outbox:
                message = self._outbox[0]
                await socket.send(message.model_dump_json())
                # Only what has gone out is taken off: the rest goes out after the next joining.
                if self._outbox and self._outbox[0] is message:
                    self._outbox.popleft()
                if isinstance(message, Leave):
                    await socket.close()
                    return
