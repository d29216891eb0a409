"""What a link does when this machine's addresses change."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kilocall.call import link as link_module
from kilocall.call.link import Link, RoomAddress
from kilocall.proto.trust import Handshake
from kilocall.runtime.inbox import Message
from kilocall.runtime.peer import Peer
from kilocall.runtime.peer_settings import PeerSettings
from kilocall.runtime.tasks import Tasks
from links import run
from meeting import SECRET, Server, renewed


class Events:
    """Counts what the link tells."""

    def __init__(self) -> None:
        self.opened_peers: list[Peer] = []
        self.opened_now = asyncio.Event()
        self.joins: list[int] = []
        self.moved: list[bytes] = []

    def joined(self, address: RoomAddress, others: int) -> None:
        self.joins.append(others)

    def paired(self) -> None: ...
    def opened(self, peer: Peer, handshake: Handshake) -> None:
        self.opened_peers.append(peer)
        self.opened_now.set()

    def motion(self, message: Message) -> None:
        self.moved.append(message.data)

    def control(self, message: Message) -> None: ...
    def delivered(self, data: bytes) -> None: ...
    def closed(self, reason: str) -> None: ...
    def wants_another(self) -> bool:
        return False

    def expects_motion(self) -> bool:
        return False

    def left(self) -> None: ...
    def audio_track(self) -> Any:
        return None


def test_signalling_server_that_is_restarted_replaces_no_connection() -> None:
    async def check() -> None:
        tasks = Tasks()
        async with Server() as before:
            parties = await two_links(before, tasks)
            peers = [events.opened_peers[0] for _, events in parties]
            for _, events in parties:
                events.joins.clear()
        async with Server(port=before.port) as server:
            while not all(events.joins for _, events in parties):  # noqa: ASYNC110  # of two links
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
            assert [link.peer for link, _ in parties] == peers
            assert all(len(events.opened_peers) == 1 for _, events in parties)
            assert all(peer.state == "open" for peer in peers)
            # Asked to, it connects them anew as ever.
            for _, events in parties:
                events.opened_now.clear()
            await server.signalling.store.change("tea", renewed)
            for _, events in parties:
                await events.opened_now.wait()
            assert all(len(events.opened_peers) == 2 for _, events in parties)
            for link, _ in parties:
                await link.close(lambda: None)
            await tasks.close()

    run(check())


async def two_links(server: Server, tasks: Tasks) -> list[tuple[Link, Events]]:
    settings = PeerSettings(loopback="only", audio=False)
    parties = []
    for _ in range(2):
        events = Events()
        link = Link(RoomAddress(server.url, "tea", SECRET), settings, events, tasks)
        tasks.own(link.run(), "link")
        parties.append((link, events))
    for _, events in parties:
        await events.opened_now.wait()
    return parties


@pytest.mark.parametrize(("gone", "connections"), [("127.0.0.1", 2), ("192.0.2.9", 1)])
def test_connection_is_renewed_when_its_address_is_gone_and_only_then(
    monkeypatch: pytest.MonkeyPatch, gone: str, connections: int
) -> None:
    addresses = {"127.0.0.1", "192.0.2.9"}
    monkeypatch.setattr(link_module, "own_addresses", lambda: frozenset(addresses))
    monkeypatch.setattr(link_module, "ADDRESSES_EVERY_S", 0.05)

    async def check() -> None:
        tasks = Tasks()
        async with Server() as server:
            parties = await two_links(server, tasks)
            await asyncio.sleep(0.2)
            for _, events in parties:
                events.opened_now.clear()
            addresses.discard(gone)
            if connections == 2:
                for _, events in parties:
                    await events.opened_now.wait()
            else:
                await asyncio.sleep(0.6)
            assert all(len(events.opened_peers) == connections for _, events in parties)
            for link, _ in parties:
                await link.close(lambda: None)
            await tasks.close()

    run(check())
