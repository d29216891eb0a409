"""Somebody in place of the signalling server, who puts himself between the two parties of a call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from kilocall.bench.call import empty_room
from kilocall.call import ROOM_VARIABLE
from kilocall.call.link import Link, RoomAddress
from kilocall.call.signalling import MAX_MESSAGE_BYTES, websocket_url
from kilocall.proto.control import Reveal, parse_control
from kilocall.proto.errors import BadInput
from kilocall.proto.trust import NOT_PROVEN, Handshake, LinkSecret
from kilocall.runtime.inbox import Message
from kilocall.runtime.peer import Peer
from kilocall.runtime.peer_settings import PeerSettings
from kilocall.runtime.tasks import Tasks
from links import run
from meeting import OTHER_SECRET, SECRET, Server, renewed

ROOM = "tea"
SETTINGS = PeerSettings(loopback="only", audio=False)
#: Far less than any time limit of the link.
SECONDS = 8.0


class Between:
    """Relays between parties and the real signalling server; this one changes nothing and remembers what it sees."""

    def __init__(self, server: str) -> None:
        self.seen: list[dict[str, Any]] = []
        """All that parties have sent."""
        self.parties: list[ServerConnection] = []
        self._server = server

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Its own address, to be given to the parties."""
        async with serve(self._party, "127.0.0.1", 0, max_size=MAX_MESSAGE_BYTES) as listening:
            yield f"http://127.0.0.1:{next(iter(listening.sockets)).getsockname()[1]}"

    async def from_party(self, party: ServerConnection, message: dict[str, Any]) -> dict[str, Any] | None:
        """What goes on to the signalling server; None: nothing."""
        return message

    def other(self, party: ServerConnection) -> ServerConnection:
        return next(one for one in self.parties if one is not party)

    async def _party(self, party: ServerConnection) -> None:
        self.parties.append(party)
        with contextlib.suppress(ConnectionClosed):
            async with connect(websocket_url(self._server), max_size=MAX_MESSAGE_BYTES) as upstream:
                back = asyncio.create_task(self._back(upstream, party))
                try:
                    async for text in party:
                        self.seen.append(json.loads(text))
                        message = await self.from_party(party, json.loads(text))
                        if message is not None:
                            await upstream.send(json.dumps(message))
                finally:
                    back.cancel()
        self.parties.remove(party)

    async def _back(self, upstream: ClientConnection, party: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in upstream:
                await party.send(text)
            await party.close()


class ForgedHandshake(Handshake):
    """Of somebody who has the link's key, and passes on what the two parties commit to."""

    def __init__(self, key: bytes, offer: bytes, answer: bytes, *, offers: bool) -> None:
        super().__init__(key, ROOM, offers=offers)
        self._commitments = {"offer": offer, "answer": answer}


class Impostor(Between):
    """Ends both connections itself. `key` is the link's when he has got hold of the link; else he invents tags."""

    def __init__(self, server: str, key: bytes | None = None) -> None:
        super().__init__(server)
        self.peers: list[Peer] = []
        self._key = key
        self._commitments: dict[ServerConnection, bytes] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def from_party(self, party: ServerConnection, message: dict[str, Any]) -> dict[str, Any] | None:
        if message["type"] == "commit":
            self._commitments[party] = bytes.fromhex(message["commitment"])
        if message["type"] != "signal":
            return message
        if message["kind"] == "answer":
            await self.peers[1].accept(message["sdp"])
            return None
        self.peers = [Peer(SETTINGS), Peer(SETTINGS)]
        other = self.other(party)
        answer, offer = await self.peers[0].answer(message["sdp"]), await self.peers[1].offer()
        tags = self._tags(party, other, message, answer, offer)
        head = {"type": "signal", "session": message["session"]}
        await party.send(json.dumps({**head, "kind": "answer", "sdp": answer, "tag": tags[0]}))
        await other.send(json.dumps({**head, "kind": "offer", "sdp": offer, "tag": tags[1]}))
        for here, there in (self.peers, self.peers[::-1]):
            task = asyncio.create_task(_relay(here, there))
            self._tasks.add(task)
        return None

    def _tags(
        self, party: ServerConnection, other: ServerConnection, message: dict[str, Any], answer: str, offer: str
    ) -> tuple[str, str]:
        if self._key is None:
            return "0f" * 32, message["tag"]
        commitments = self._commitments[party], self._commitments[other]
        hands = [ForgedHandshake(self._key, *commitments, offers=offers) for offers in (False, True)]
        hands[0].check(message["sdp"], message["tag"])
        return hands[0].seal(answer), hands[1].seal(offer)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for peer in self.peers:
            await peer.close()


async def _relay(here: Peer, there: Peer) -> None:
    if await there.wait_open():
        while (message := await here.control.get()) is not None:
            there.send_control(message.data)


class Party:
    """A link, and what a session would do with the nonces."""

    def __init__(self, address: RoomAddress) -> None:
        self.tasks = Tasks()
        self.link = Link(address, SETTINGS, self, self.tasks)
        self.handshake: Handshake | None = None
        self.opened_now = asyncio.Event()
        self.reasons: list[str] = []

    @property
    def words(self) -> tuple[str, ...]:
        return self.handshake.words if self.handshake is not None else ()

    def joined(self, address: RoomAddress, others: int) -> None: ...
    def paired(self) -> None: ...
    def opened(self, peer: Peer, handshake: Handshake) -> None:
        self.handshake = handshake
        peer.send_control(bytes(Reveal(handshake.nonce)))
        self.opened_now.set()

    def motion(self, message: Message) -> None: ...
    def control(self, message: Message) -> None:
        match parse_control(message.data):
            case Reveal(nonce):
                assert self.handshake is not None
                self.handshake.reveal(nonce)

    def delivered(self, data: bytes) -> None: ...
    def closed(self, reason: str) -> None:
        self.reasons.append(reason)

    def wants_another(self) -> bool:
        return False

    def expects_motion(self) -> bool:
        return False

    def left(self) -> None: ...
    def audio_track(self) -> Any:
        return None

    async def close(self) -> None:
        await self.link.close(lambda: None)
        await self.tasks.close()


def parties(address: str, *secrets: LinkSecret) -> list[Party]:
    return [Party(RoomAddress(address, ROOM, secret)) for secret in secrets or (SECRET, SECRET)]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not true():  # noqa: ASYNC110  # nothing tells the test
            await asyncio.sleep(0.01)


def test_call_with_somebody_in_between_is_refused_on_both_sides_within_seconds() -> None:
    async def check() -> None:
        async with Server() as server:
            impostor = Impostor(server.url)
            async with impostor.running() as address:
                both = parties(address)
                began = time.monotonic()
                ends = await asyncio.gather(*(party.link.run() for party in both), return_exceptions=True)
                assert time.monotonic() - began < SECONDS
                assert [(type(end), str(end)) for end in ends] == [(BadInput, NOT_PROVEN)] * 2
                for party in both:
                    assert party.handshake is None
                    assert party.link.connections == 0
                    assert party.link.not_proven == 1
                assert all(peer.state != "open" for peer in impostor.peers)
                # What he saw of the link is no more than the token.
                assert SECRET.text not in json.dumps(impostor.seen)
                assert SECRET.key.hex() not in json.dumps(impostor.seen)
                for party in both:
                    await party.close()
                await impostor.close()

    run(check())


class Hasty(Impostor):
    """Says besides, again and again, that the other side has left."""

    async def from_party(self, party: ServerConnection, message: dict[str, Any]) -> dict[str, Any] | None:
        both = list(self.parties)
        result = await super().from_party(party, message)
        if message["type"] == "signal":
            with contextlib.suppress(ConnectionClosed):
                for _ in range(1000):
                    for one in both:
                        await one.send('{"type": "left"}')
                    await asyncio.sleep(0.0005)
        return result


def test_refusal_is_not_lost_when_the_other_side_leaves_at_that_moment() -> None:
    async def check() -> None:
        async with Server() as server:
            hasty = Hasty(server.url)
            async with hasty.running() as address:
                both = parties(address)
                ends = [asyncio.create_task(party.link.run()) for party in both]
                done, left = await asyncio.wait(ends, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
                for party in both:
                    await party.close()
                for end in left:
                    end.cancel()
                await hasty.close()
            assert done
            assert [str(end.exception()) for end in done] == [NOT_PROVEN] * len(done)

    run(check())


def test_relay_that_changes_nothing_is_no_harm_and_the_words_are_the_same() -> None:
    async def check() -> None:
        async with Server() as server, Between(server.url).running() as address:
            both = parties(address)
            for party in both:
                party.tasks.own(party.link.run(), "link")
            await until(lambda: all(party.words for party in both))
            assert both[0].words == both[1].words
            for party in both:
                await party.close()

    run(check())


def test_somebody_in_between_who_has_the_link_is_given_away_by_the_words() -> None:
    async def check() -> None:
        async with Server() as server:
            impostor = Impostor(server.url, SECRET.key)
            async with impostor.running() as address:
                both = parties(address)
                for party in both:
                    party.tasks.own(party.link.run(), "link")
                # It is a real attack: both are connected, to him.
                await until(lambda: all(party.words for party in both))
                assert all(peer.state == "open" for peer in impostor.peers)
                assert both[0].words != both[1].words
                for party in both:
                    await party.close()
                await impostor.close()

    run(check(), within_s=40)


class Replayer(Between):
    """Gives the answering side the offer of the first session again."""

    first: dict[str, Any] | None = None

    async def from_party(self, party: ServerConnection, message: dict[str, Any]) -> dict[str, Any] | None:
        if message["type"] == "signal" and message["kind"] == "offer":
            self.first = self.first or message
            return {**self.first, "session": message["session"]}
        return message


def test_description_of_an_earlier_session_is_refused() -> None:
    async def check() -> None:
        async with Server() as server, Replayer(server.url).running() as address:
            both = parties(address)
            ends = [asyncio.create_task(party.link.run()) for party in both]
            await until(lambda: all(party.opened_now.is_set() for party in both))
            await server.signalling.store.change(ROOM, renewed)
            done, _ = await asyncio.wait(ends, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
            assert len(done) == 1
            with pytest.raises(BadInput, match="could not prove that it has the link"):
                await done.pop()
            assert sum(party.link.not_proven for party in both) == 1
            assert sum(party.link.connections for party in both) == 2  # those of the first session
            for party, end in zip(both, ends, strict=True):
                await party.close()
                end.cancel()
            await asyncio.wait(ends)

    run(check())


def test_wrong_secret_does_not_get_in_and_sees_nothing_of_the_call() -> None:
    async def check() -> None:
        async with Server() as server, Between(server.url).running() as address:
            host, stranger = parties(address, SECRET, OTHER_SECRET)
            host.tasks.own(host.link.run(), "link")
            await until(lambda: bool(server.rooms))
            with pytest.raises(BadInput, match="another secret"):
                await stranger.link.run()
            assert not stranger.opened_now.is_set()
            assert len(server.rooms[ROOM].members) == 1
            assert stranger.link.connections == host.link.connections == 0
            for party in (host, stranger):
                await party.close()

    run(check())


# Whole programs


@pytest.fixture
def impostor() -> Iterator[tuple[Impostor, str]]:
    """One in place of the signalling server, on a thread of its own, and his address."""
    ready: list[tuple[Impostor, str]] = []
    loop = asyncio.new_event_loop()
    end = asyncio.Event()

    async def main() -> None:
        async with Server() as server:
            one = Impostor(server.url)
            async with one.running() as address:
                ready.append((one, address))
                await end.wait()
                await one.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    while not ready:
        time.sleep(0.01)
    yield ready[0]
    loop.call_soon_threadsafe(end.set)
    thread.join(10)
    loop.close()


def program(link: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`kilocall call`, which reads its link from standard input."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "KILOCALL_CACHE": str(folder)}
    environment.pop(ROOM_VARIABLE, None)
    command = [sys.executable, "-m", "kilocall.cli", "call", "--room", "-", "--gallery", "0", *arguments]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdin is not None
    process.stdin.write(link + "\n")
    process.stdin.flush()
    return process


@pytest.mark.slow
def test_programs_say_that_somebody_may_be_in_between_and_exit_with_2(
    impostor: tuple[Impostor, str], tmp_path: Path
) -> None:
    clip = str(empty_room(tmp_path))
    link = RoomAddress(impostor[1], ROOM, SECRET).link
    shown = program(link, tmp_path / "a", "--camera", clip, "--no-open", "--port", "0", "--recordings", str(tmp_path))
    headless = program(link, tmp_path / "b", "--camera", clip, "--headless", "--seconds", "240")
    try:
        said = headless.communicate(timeout=280)[0]
        assert headless.returncode == 2, said
        assert NOT_PROVEN in " ".join(said.split())
        assert shown.stdout is not None
        page = ""
        while not page:
            line = shown.stdout.readline()
            assert line
            page = (re.findall(r"page: (http://\S+)", line) or [""])[0]
        address, _, key = page.partition("/#")
        state: dict[str, Any] = {}
        until_s = time.monotonic() + 30
        while state.get("phase") != "refused" and time.monotonic() < until_s:
            asked = urllib.request.Request(f"{address}/api/state", headers={"Authorization": f"Bearer {key}"})
            with urllib.request.urlopen(asked, timeout=10) as answer:
                state = json.load(answer)
            time.sleep(0.1)
        # The one that refuses first leaves, and the other may be alone before it has a description to refuse.
        assert (state["phase"], state["reason"]) in (("refused", NOT_PROVEN), ("alone", ""))
        assert state["trust"] == {"words": [], "verified": False, "expected": False}
        shown.send_signal(signal.SIGINT)
        said = " ".join(shown.communicate(timeout=60)[0].split())
        if state["phase"] == "refused":
            assert NOT_PROVEN in said
            assert shown.returncode == 2
    finally:
        for process in (shown, headless):
            if process.poll() is None:
                process.kill()
                process.communicate()
