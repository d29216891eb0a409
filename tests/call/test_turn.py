"""Passwords of a TURN server that the signalling server makes; with a real coturn where there is one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aioice.turn
import pytest
from aioice.stun import TransactionFailed

from call.test_link import Events
from kilocall.call.link import Link, RoomAddress
from kilocall.call.signalling import Joined, Relay, Signalling
from kilocall.call.signalling_settings import SignallingSettings
from kilocall.call.turn import Relays, password
from kilocall.proto.errors import BadInput
from kilocall.runtime.peer import Peer
from kilocall.runtime.peer_settings import IceServer, PeerSettings
from kilocall.runtime.tasks import Tasks
from links import run
from meeting import SECRET, Server

ROOT = Path(__file__).parents[2]
VECTORS: dict[str, Any] = json.loads((ROOT / "tests" / "vectors" / "turn.json").read_text())
TURN_SECRET: str = VECTORS["secret"]
URL = "turn:turn.example:3478"


@pytest.mark.parametrize(("username", "made"), VECTORS["passwords"].items())
def test_password_is_that_of_openssl(username: str, made: str) -> None:
    assert password(TURN_SECRET, username) == made


def test_joined_with_and_without_a_turn_server_are_these_bytes() -> None:
    ((username, credential), *_) = VECTORS["passwords"].items()
    with_one = Joined(
        member="0123456789abcdef", others=0, ice=(Relay(url=URL, username=username, credential=credential),)
    )
    without = Joined(member="0123456789abcdef", others=1)
    for message, text in ((with_one, VECTORS["joined"]), (without, VECTORS["joined_without"])):
        assert message.model_dump_json(exclude_none=True) == text
        assert Joined.model_validate_json(text) == message


def test_everybody_gets_a_name_of_his_own_that_is_good_for_12_h() -> None:
    relays = Relays(
        SignallingSettings(turn_urls=(URL, "turns:b.example"), turn_secret=TURN_SECRET), clock=lambda: 1000.5
    )
    made = [relays.for_one() for _ in range(2)]
    assert made[0] is not None
    assert made[0] != made[1]
    assert [relay.url for relay in made[0]] == [URL, "turns:b.example"]
    for relay in made[0]:
        assert re.fullmatch(r"44200:[0-9a-f]{16}", relay.username)
        assert relay.credential == password(TURN_SECRET, relay.username)
        assert relay.credential not in repr(relay)
    assert Relays(SignallingSettings(turn_secret=TURN_SECRET)).for_one() is None
    assert TURN_SECRET not in repr(SignallingSettings(turn_secret=TURN_SECRET))


@pytest.mark.parametrize(
    ("urls", "secret", "said"),
    [
        ((URL,), "", "TURN_SECRET has 0 characters"),
        ((URL,), "short", "at least 32"),
        (("stun:host",), TURN_SECRET, "turn_url is 'stun:host'"),
        (("turn:host name",), TURN_SECRET, "allowed are turn:HOST"),
        ((URL,) * 5, TURN_SECRET, "given 5 times, most is 4"),
    ],
)
def test_turn_server_that_cannot_be_used_is_refused_at_the_start(urls: tuple[str, ...], secret: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Relays(SignallingSettings(turn_urls=urls, turn_secret=secret))


def test_passwords_come_with_every_joining() -> None:
    async def check() -> None:
        async with Server(SignallingSettings(turn_urls=(URL,), turn_secret=TURN_SECRET)) as server:
            async with Signalling(server.url, "tea", SECRET, first_wait_s=0.01) as link:
                first = await link.next()
                link.reconnect()
                second = await link.next()
            for joined in (first, second):
                assert isinstance(joined, Joined)
                assert joined.ice is not None
                assert int(joined.ice[0].username.partition(":")[0]) == pytest.approx(time.time() + 43_200, abs=5)
            assert first != second
        async with Server() as server, Signalling(server.url, "tea", SECRET) as link:
            joined = await link.next()
            assert isinstance(joined, Joined)
            assert joined.ice is None

    run(check())


def test_relay_only_without_any_turn_server_is_refused_before_a_connection_is_made() -> None:
    async def check() -> None:
        async with Server() as server:
            link = Link(
                RoomAddress(server.url, "tea", SECRET),
                PeerSettings(ice_servers=(IceServer("stun:host"),), relay_only=True),
                Events(),
                Tasks(),
            )
            with pytest.raises(BadInput, match="relay_only is for a TURN server, and the meeting point names none"):
                await link.run()

    run(check())


def free_port(kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    with socket.socket(socket.AF_INET, kind) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextlib.asynccontextmanager
async def coturn(folder: Path) -> AsyncIterator[int]:
    """The server of docker/turn.sh on the loopback; its port."""
    if shutil.which("turnserver") is None:
        pytest.skip("turnserver (coturn) is not installed")
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *("sh", str(ROOT / "docker" / "turn.sh")),
        *(f"--listening-port={port}", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1"),
        *("--allow-loopback-peers", "--allowed-peer-ip=127.0.0.1"),
        env={"PATH": os.environ["PATH"], "TMPDIR": str(folder), "TURN_SECRET": TURN_SECRET},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await asyncio.sleep(1)
        assert process.returncode is None
        yield port
    finally:
        process.kill()
        await process.wait()


async def allocate(port: int, username: str, secret: str = TURN_SECRET) -> None:
    transport, _ = await aioice.turn.create_turn_endpoint(
        asyncio.DatagramProtocol,
        server_addr=("127.0.0.1", port),
        username=username,
        password=password(secret, username),
    )
    transport.close()
    await asyncio.sleep(0.1)


def test_coturn_takes_a_password_until_it_expires_and_of_nobody_else(tmp_path: Path) -> None:
    async def check() -> None:
        async with coturn(tmp_path) as port:
            await allocate(port, f"{int(time.time()) + 60}:0011223344556677")
            with pytest.raises(TransactionFailed, match="401"):
                await allocate(port, f"{int(time.time()) - 60}:0011223344556677")
            with pytest.raises(TransactionFailed, match="401"):
                await allocate(port, f"{int(time.time()) + 60}:0011223344556677", secret="f" * 32)

    run(check())


def test_the_first_turn_server_that_answers_is_taken_and_the_one_named_first_preferred(tmp_path: Path) -> None:
    async def check() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            async with coturn(tmp_path) as port:
                username = f"{int(time.time()) + 60}:0011223344556677"
                servers = tuple(
                    IceServer(f"turn:127.0.0.1:{where}", username, password(TURN_SECRET, username))
                    for where in (silent.getsockname()[1], port, f"{port}?transport=tcp")
                )
                peer = Peer(PeerSettings(ice_servers=servers, relay_only=True, loopback="only", audio=False))
                began = time.monotonic()
                description = await peer.offer()
                assert time.monotonic() - began < 4  # the silent one would be waited for 5 s
                candidates = re.findall(r"a=candidate:\S+ 1 udp (\d+) \S+ \d+ typ (\w+)", description)
                assert [kind for _, kind in candidates] == ["relay", "relay"]
                assert int(candidates[0][0]) > int(candidates[1][0])
                await peer.close()

    run(check())


def test_two_meet_through_the_signalling_servers_turn_server_alone(tmp_path: Path) -> None:
    async def check() -> None:
        async with coturn(tmp_path) as port:
            settings = SignallingSettings(turn_urls=(f"turn:127.0.0.1:{port}",), turn_secret=TURN_SECRET)
            async with Server(settings) as server:
                tasks = Tasks()
                parties = []
                for _ in range(2):
                    events = Events()
                    address = RoomAddress(server.url, "tea", SECRET)
                    link = Link(address, PeerSettings(relay_only=True, loopback="only", audio=False), events, tasks)
                    tasks.own(link.run(), "link")
                    parties.append((link, events))
                peers: list[Peer] = []
                for _, events in parties:
                    await events.opened_now.wait()
                    peers.append(events.opened_peers[0])
                for peer in peers:
                    assert peer.local_address is None  # it is a relay's
                while not parties[1][1].moved:
                    assert peers[0].send_motion(b"motion")  # one that is lost is not sent again
                    await asyncio.sleep(0.1)
                assert set(parties[1][1].moved) == {b"motion"}
                for link, _ in parties:
                    await link.close(lambda: None)
                await tasks.close()

    run(check(), within_s=40)
