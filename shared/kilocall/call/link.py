"""Keeps one party connected: its place in the room, and a Peer that is made anew whenever the way has changed."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol
from urllib.parse import urlsplit

from aiortc import MediaStreamTrack

from kilocall.call.signalling import Commit, Joined, Left, Paired, Signal, Signalling
from kilocall.proto.errors import BadInput, BadPacket, NotProven
from kilocall.proto.trust import Handshake, LinkSecret
from kilocall.runtime.inbox import Message
from kilocall.runtime.peer import Peer, own_addresses
from kilocall.runtime.peer_settings import IceServer, PeerSettings
from kilocall.runtime.tasks import Tasks

__all__ = ["Link", "LinkEvents", "RoomAddress", "find_room"]

logger = logging.getLogger(__name__)

SIGNAL_WITHIN_S: Final = 10.0
RENEW_EVERY_S: Final = 1.0
ADDRESSES_EVERY_S: Final = 0.5
BYE_S: Final = 0.15
#: A peer whose motion has stopped for so long while motion is expected is tried to be reached another way.
SILENT_S: Final = 3.5


@dataclass(frozen=True)
class RoomAddress:
    """Where two meet."""

    server: str
    room: str
    secret: LinkSecret

    @property
    def link(self) -> str:
        """What the other side gives to --room."""
        base = self.server if "://" in self.server else f"http://{self.server}"
        return f"{base.rstrip('/')}/{self.room}#{self.secret.text}"


def find_room(room: str, server: str) -> RoomAddress:
    """`NAME`, `NAME#secret` or a whole link, which then names the server too; a secret is made where none is given.

    Raises BadInput.
    """
    if "://" in room:
        parts = urlsplit(room)
        place, name, secret = f"{parts.scheme}://{parts.netloc}", parts.path.strip("/"), parts.fragment
        if parts.scheme not in ("http", "https") or not parts.netloc:
            shown = room.partition("#")[0]
            raise BadInput(f"room is {shown!r:.120}; allowed: a name, NAME#secret, or http(s)://server/NAME#secret")
    else:
        place = server
        name, _, secret = room.partition("#")
    if not re.fullmatch(r"[A-Za-z0-9._~-]{1,64}", name):
        raise BadInput(f"room is {name!r:.80}; allowed are 1 to 64 letters, digits and . _ ~ -")
    return RoomAddress(place, name, LinkSecret(secret) if secret else LinkSecret.make())


class LinkEvents(Protocol):
    """What the link tells, on the event loop."""

    def joined(self, address: RoomAddress, others: int) -> None:
        """In the room; `others` are there already."""

    def paired(self) -> None:
        """Two are in the room: a connection is being made."""

    def opened(self, peer: Peer, handshake: Handshake) -> None:
        """Messages can be sent; `handshake` is how the connection was made."""

    def motion(self, message: Message) -> None: ...
    def control(self, message: Message) -> None: ...
    def delivered(self, data: bytes) -> None: ...
    def closed(self, reason: str) -> None:
        """The connection is gone; another follows unless `wants_another` says no."""

    def wants_another(self) -> bool: ...
    def expects_motion(self) -> bool:
        """Whether silence means that something is wrong."""

    def left(self) -> None:
        """The other side has left the room."""

    def audio_track(self) -> MediaStreamTrack | None:
        """What the next connection sends as speech."""


@dataclass
class _Attempt:
    session: int
    offer: bool
    commits: asyncio.Queue[Commit] = field(default_factory=lambda: asyncio.Queue(2))
    signals: asyncio.Queue[Signal] = field(default_factory=lambda: asyncio.Queue(2))
    peer: Peer | None = None
    task: asyncio.Task[None] | None = None

    def take(self, message: Commit | Signal) -> None:
        """One of the other side's; more than are needed are dropped."""
        if isinstance(message, Commit):
            if not self.commits.full():
                self.commits.put_nowait(message)
        elif not self.signals.full():
            self.signals.put_nowait(message)


class Link:
    """Runs until it is closed or refused. `peer` is the open connection, if there is one."""

    def __init__(self, address: RoomAddress, settings: PeerSettings, events: LinkEvents, tasks: Tasks) -> None:
        self.address, self.settings = address, settings
        self.peer: Peer | None = None
        self.connections = 0
        """How many have been opened."""
        self.not_proven = 0
        """Descriptions that were refused, because they may be of somebody who is not the other side."""
        self._events, self._tasks = events, tasks
        self._attempt: _Attempt | None = None
        self._meeting: Signalling | None = None
        self._relays: tuple[IceServer, ...] = ()
        """The signalling server's TURN servers, as of the last joining."""
        self._ending = False

    @property
    def trouble(self) -> str:
        """Why the signalling server cannot be reached, for people; nothing while it can."""
        return self._meeting.trouble if self._meeting is not None else ""

    async def run(self) -> None:
        """Raises BadInput when the signalling server refuses, or somebody may be in between."""
        address = self.address
        async with Signalling(address.server, address.room, address.secret) as meeting:
            self._meeting = meeting
            self._tasks.own(self._renew_when_lost(meeting), "renew")
            self._tasks.own(self._follow_addresses(meeting), "addresses")
            while not self._ending:
                event = await meeting.next()
                match event:
                    case Joined():
                        self._take_relays(event)
                        self._events.joined(address, event.others)
                    case Paired():
                        await self._begin(event, meeting)
                    case Commit() | Signal() if self._attempt is not None and event.session == self._attempt.session:
                        self._attempt.take(event)
                    case Left():
                        self._events.left()
                    case _:
                        logger.debug("signal of another session")
            # It may have been given up between two events, while `next` was not waiting.
            meeting.check()

    async def close(self, bye: Callable[[], None]) -> None:
        """Says goodbye and closes the connection."""
        self._ending = True
        attempt = self._attempt
        if attempt is None or attempt.peer is None:
            return
        if attempt.peer.state == "open":
            bye()
            await asyncio.sleep(BYE_S)
        await attempt.peer.close("hung up")

    def _take_relays(self, joined: Joined) -> None:
        """Raises BadInput where there has to be one and is none."""
        self._relays = tuple(IceServer(relay.url, relay.username, relay.credential) for relay in joined.ice or ())
        if self.settings.relay_only and not any(server.relays for server in self._ice_servers):
            raise BadInput(
                "relay_only is for a TURN server, and the meeting point names none: name one with "
                "--ice turn:HOST,USER,PASSWORD"
            )

    @property
    def _ice_servers(self) -> tuple[IceServer, ...]:
        # The user's own first: of several TURN servers aiortc takes the first.
        return (*self.settings.ice_servers, *self._relays)

    async def _begin(self, paired: Paired, meeting: Signalling) -> None:
        before, self._attempt = self._attempt, _Attempt(paired.session, paired.offer)
        if before is not None and before.task is not None:
            before.task.cancel()
            await asyncio.wait([before.task], timeout=1.0)
        self._events.paired()
        self._attempt.task = self._tasks.own(self._converse(self._attempt, meeting), f"connection {paired.session}")

    async def _converse(self, attempt: _Attempt, meeting: Signalling) -> None:
        events = self._events
        peer = Peer(
            replace(self.settings, ice_servers=self._ice_servers),
            audio=events.audio_track() if self.settings.audio else None,
            on_delivered=events.delivered,
        )
        attempt.peer = peer
        handshake = Handshake(self.address.secret.key, self.address.room, offers=attempt.offer)
        opened = False
        try:
            try:
                await asyncio.wait_for(self._describe(attempt, peer, meeting, handshake), SIGNAL_WITHIN_S)
            except TimeoutError:
                await peer.close(f"no answer from the other side within {SIGNAL_WITHIN_S:g} s")
            except NotProven as error:
                # Not tried again: whoever is in between would get as many tries.
                self.not_proven += 1
                logger.warning("%s", error)
                self._ending = True
                meeting.give_up(str(error))
                await peer.close(str(error))
            except BadPacket as error:
                logger.warning("%s", error)
                await peer.close(str(error))
            if await peer.wait_open():
                opened = True
                self.peer = peer
                meeting.live = attempt.session
                self.connections += 1
                events.opened(peer, handshake)
                motion = self._tasks.own(_pump(peer.motion.get, events.motion), "motion")
                await _pump(peer.control.get, events.control)
                await peer.wait_closed()
                motion.cancel()
        finally:
            if self.peer is peer:
                self.peer = meeting.live = None
            # Whoever replaced this connection has told already.
            if self._attempt is attempt and not self._ending:
                events.closed(peer.closed_because or "the connection has ended")
            if peer.state != "closed":
                await peer.close("replaced by another connection" if opened else "given up")

    async def _describe(self, attempt: _Attempt, peer: Peer, meeting: Signalling, handshake: Handshake) -> None:
        meeting.commit(attempt.session, handshake.commitment)
        if attempt.offer:
            offer = await peer.offer()  # while the other side's commitment is on its way
            handshake.meet((await attempt.commits.get()).commitment)
            meeting.send(attempt.session, "offer", offer, handshake.seal(offer))
            theirs = await attempt.signals.get()
            handshake.check(theirs.sdp, theirs.tag)
            await peer.accept(theirs.sdp)
        else:
            handshake.meet((await attempt.commits.get()).commitment)
            theirs = await attempt.signals.get()
            handshake.check(theirs.sdp, theirs.tag)
            answer = await peer.answer(theirs.sdp)
            meeting.send(attempt.session, "answer", answer, handshake.seal(answer))

    async def _renew_when_lost(self, meeting: Signalling) -> None:
        """Asks for another connection for as long as the last one is lost, or silent against expectation."""
        while not self._ending:
            await asyncio.sleep(RENEW_EVERY_S)
            attempt = self._attempt
            if attempt is None or attempt.task is None or not meeting.connected or not self._events.wants_another():
                continue
            peer = attempt.peer
            lost = attempt.task.done()
            silent = (
                peer is not None and peer.state == "open" and peer.silent_s > SILENT_S and self._events.expects_motion()
            )
            if lost or silent:
                logger.info("asking for another connection: %s", "lost" if lost else "silent")
                meeting.renew(attempt.session)

    async def _follow_addresses(self, meeting: Signalling) -> None:
        """Begins anew over another network as soon as an address that was in use is gone."""
        before = own_addresses()
        while not self._ending:
            await asyncio.sleep(ADDRESSES_EVERY_S)
            now = own_addresses()
            gone, new, before = before - now, now - before, now
            if not gone and not new:
                continue
            logger.info("this machine's addresses have changed: %s gone, %s new", len(gone), len(new))
            if meeting.local_address in gone or (new and not meeting.connected):
                meeting.reconnect()
            attempt = self._attempt
            peer = attempt.peer if attempt is not None else None
            if attempt is not None and peer is not None and peer.local_address in gone:
                meeting.renew(attempt.session)


async def _pump(get: Callable[[], Awaitable[Message | None]], take: Callable[[Message], None]) -> None:
    while (message := await get()) is not None:
        try:
            take(message)
        # A defect in handling one message must not end the call; the message is lost.
        except Exception:
            logger.exception("a message could not be handled")
