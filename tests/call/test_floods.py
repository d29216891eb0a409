"""Whoever wants to keep others from calling: what one address can take of a signalling server, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from kilocall.call.addresses import Bucket, network_of
from kilocall.call.running import serve
from kilocall.call.signalling import Join, Joined, Knock, Signalling, knock
from kilocall.call.signalling_http import check_proxies, raise_open_files
from kilocall.call.signalling_settings import SignallingSettings
from kilocall.proto.errors import BadInput
from kilocall.proto.trust import LinkSecret
from kilocall.runtime.web import listen
from links import run
from meeting import OTHER_SECRET, SECRET, Clock, Server, two

ROOT = Path(__file__).parents[2]
OTHER = "127.0.0.2"
UPGRADE = (
    "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


def join(room: str = "tea") -> str:
    return Join(room=room, token=SECRET.token).model_dump_json()


async def answer_to(socket: ClientConnection, message: str) -> dict[str, object]:
    # Who is refused before a word can still read why.
    with contextlib.suppress(ConnectionClosed):
        await socket.send(message)
    answer: dict[str, object] = json.loads(await socket.recv())
    return answer


def test_a_thousand_joins_of_one_address_keep_nobody_else_from_joining() -> None:
    async def check() -> None:
        async with Server() as server, contextlib.AsyncExitStack() as stack:

            async def one(number: int) -> str:
                try:
                    held = await stack.enter_async_context(server.raw())
                    answer = await answer_to(held, join(f"room-{number}"))
                except (OSError, TimeoutError, ConnectionClosed, InvalidHandshake):
                    return "cut off"
                return str(answer.get("code", answer["type"]))

            got: Counter[str] = Counter()
            for start in range(0, 1000, 50):
                got.update(await asyncio.gather(*(one(start + number) for number in range(50))))
            assert got["joined"] <= 64
            assert not got["busy"]
            assert set(got) <= {"joined", "joins", "rooms", "connections", "cut off"}
            began = time.monotonic()
            async with server.raw(OTHER) as socket:
                assert (await answer_to(socket, join("another")))["type"] == "joined"
            assert time.monotonic() - began < 1

    run(check(), within_s=60)


def test_each_limit_of_an_address_has_a_code_of_its_own() -> None:
    async def check() -> None:
        one = SignallingSettings(connections_per_address=1)
        async with Server(one) as server, server.raw() as socket:
            assert (await answer_to(socket, join()))["type"] == "joined"
            said = await server.said_to(join())
            assert (said["code"], said["reason"]) == (
                "connections",
                "your address has 1 connections open, which is the most allowed",
            )
            async with server.raw(OTHER) as elsewhere:
                assert (await answer_to(elsewhere, join()))["type"] == "joined"
        async with Server(SignallingSettings(join_burst=1, joins_per_second=0.01)) as server:
            async with server.raw() as first:
                assert (await answer_to(first, join()))["type"] == "joined"
            assert (await server.said_to(join()))["code"] == "joins"
            async with server.raw(OTHER) as elsewhere:
                assert (await answer_to(elsewhere, join()))["type"] == "joined"
        async with Server(SignallingSettings(rooms_per_minute=1)) as server, server.raw() as socket:
            assert (await answer_to(socket, join()))["type"] == "joined"
            assert (await server.said_to(join("coffee")))["code"] == "rooms"
            async with server.raw() as second:  # no new room
                assert (await answer_to(second, join()))["type"] == "joined"

    run(check())


def test_office_of_twenty_that_comes_back_at_once_meets_no_limit() -> None:
    async def check() -> None:
        async with contextlib.AsyncExitStack() as stack:
            async with Server() as server:
                links = []
                for number in range(20):
                    await knock(server.url, f"room-{number // 2}", SECRET)
                    link = Signalling(server.url, f"room-{number // 2}", SECRET, first_wait_s=0.2, most_wait_s=0.5)
                    links.append(await stack.enter_async_context(link))
                for link in links:
                    assert isinstance(await link.next(), Joined)
            async with Server(port=server.port) as server:
                for link in links:
                    while not isinstance(await link.next(), Joined):
                        pass
                assert "kilocall_refused_total{" not in server.metrics
                for link in links:
                    await link.close()

    run(check())


def test_who_has_a_place_and_is_refused_for_now_comes_back() -> None:
    clock = Clock()

    async def check() -> None:
        async with (
            Server(SignallingSettings(joins_per_second=1, join_burst=1, sweep_s=1000), clock) as server,
            Signalling(server.url, "tea", SECRET, first_wait_s=0.02, most_wait_s=0.05) as link,
        ):
            assert isinstance(await link.next(), Joined)
            link.reconnect()
            while 'code="joins"' not in server.metrics:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            clock.now += 1
            assert isinstance(await link.next(), Joined)
            with pytest.raises(BadInput, match="your address joins more often than 1 a second"):
                await knock(server.url, "coffee", SECRET)

    run(check())


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("x" * 1000, "x" * 64),
        ("", ""),
    ],
)
def test_ipv6_is_counted_by_64(host: str, counted: str) -> None:
    assert network_of(host) == counted


def test_bucket_fills_again() -> None:
    bucket = Bucket(rate=2, burst=3, now=0)
    assert [bucket.take(0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(0.5), bucket.take(0.5)] == [True, False]
    assert not bucket.full(1)
    assert bucket.full(2.0)


def test_forwarded_address_is_believed_only_of_a_proxy_that_is_named() -> None:
    async def joined(server: Server, *forwarded: str) -> list[object]:
        async with contextlib.AsyncExitStack() as stack:
            answers = []
            for address in forwarded:
                socket = await stack.enter_async_context(server.raw(**{"X-Forwarded-For": address}))
                answer = await answer_to(socket, Knock(room="tea", token=SECRET.token).model_dump_json())
                answers.append(answer.get("code", answer["type"]))
            return answers

    async def check() -> None:
        limits = SignallingSettings(join_burst=1, joins_per_second=0.01)
        async with Server(limits) as server:
            assert await joined(server, "192.0.2.1", "192.0.2.2") == ["free", "joins"]
        proxies = SignallingSettings(join_burst=1, joins_per_second=0.01, proxies=("127.0.0.0/30", "2001:db8::1"))
        async with Server(proxies) as server:
            # What a party wrote itself stands before what the proxy has added.
            assert await joined(server, "192.0.2.1", "192.0.2.2", "198.51.100.9, 192.0.2.1", "2001:db8::7") == [
                "free",
                "free",
                "joins",
                "free",
            ]

    run(check())


def test_proxy_that_is_no_address_is_refused() -> None:
    check_proxies(("127.0.0.1", "10.0.0.0/8", "2001:db8::/32"))
    with pytest.raises(BadInput, match="proxy is 'nginx'"):
        check_proxies(("nginx",))


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    gc.collect()  # of tasks whose exception nobody has fetched
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR" or record.exc_info]


async def open_tcp(server: Server, address: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", server.port, local_addr=(address, 0))


def break_off(writer: asyncio.StreamWriter) -> None:
    """As a program that is killed, or a network that breaks: an RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def test_party_that_is_gone_leaves_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        async with Server() as server:
            for wait_s in [0, 0, 0, 0.001, 0.002, 0.005] * 4:  # before, while and after it is accepted
                _, writer = await open_tcp(server)
                writer.write((UPGRADE + "\r\n").encode())
                await asyncio.sleep(wait_s)
                break_off(writer)
            first, second, session = await two(server)
            # One goes while it is sent something.
            second.abort()
            for _ in range(10):
                first.renew(session)
                first.send(session, "offer", "v=0" * 4000, "")
                await asyncio.sleep(0.01)
            for link in (first, second):
                await link.close()
            while server.signalling.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert errors(caplog) == []

    run(check())


def test_text_that_is_not_utf8_ends_that_connection_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        async with Server() as server, server.raw() as socket:
            await socket.send(b'{"type": "join\xff', text=True)
            with pytest.raises(ConnectionClosed, match="1007"):
                await socket.recv()
            async with Signalling(server.url, "tea", SECRET) as link:
                assert isinstance(await link.next(), Joined)
        assert errors(caplog) == []

    run(check())


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(b"\x89\x80\0\0\0\0" * 200_000, id="pings"),
        pytest.param(b"\x8a\x80\0\0\0\0" * 200_000, id="pongs"),
        pytest.param(b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 200_000, id="parts of a message"),
    ],
)
def test_flood_of_frames_ends_its_connection_and_holds_up_nobody(
    frames: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        async with Server() as server, server.raw() as socket:
            await socket.send(join())
            await socket.recv()
            socket.transport.write(frames)
            began = time.monotonic()
            async with server.raw(OTHER) as other:
                assert (await answer_to(other, join("another")))["type"] == "joined"
            assert time.monotonic() - began < 1
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await socket.recv()
            while server.signalling.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert errors(caplog) == []

    run(check())


def test_flood_of_pings_is_told_why() -> None:
    async def check() -> None:
        async with Server() as server, server.raw() as socket:
            for _ in range(120):
                socket.transport.write(b"\x89\x80\0\0\0\0")
            with pytest.raises(ConnectionClosed, match="more than 20 frames a second"):
                await socket.recv()

    run(check())


def test_a_party_that_pings_as_programs_do_is_let_alone() -> None:
    async def check() -> None:
        async with Server() as server, server.raw() as socket:
            await socket.send(join())
            await socket.recv()
            for _ in range(60):
                await (await socket.ping())
            assert server.signalling.connections == 1

    run(check())


async def ended(reader: asyncio.StreamReader, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            while await reader.read(4096):
                pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize(
    ("begins", "goes_on"),
    [
        pytest.param("", "", id="silent"),
        pytest.param("GET /health HTTP/1.1\r\n", "X", id="headers that come slowly"),
        pytest.param("POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", "X", id="slow body"),
        pytest.param("GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n", "X", id="slow second request"),
        pytest.param(UPGRADE + "".join(f"X-{n}: x\r\n" for n in range(200)) + "\r\n", "", id="upgrade that is none"),
    ],
)
def test_connection_without_a_whole_request_is_cut_off(
    begins: str, goes_on: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        async with Server(SignallingSettings(request_within_s=0.4)) as server:
            reader, writer = await open_tcp(server)
            writer.write(begins.encode())

            async def drip() -> None:
                while True:
                    writer.write(goes_on.encode())
                    await asyncio.sleep(0.05)

            dripping = asyncio.create_task(drip())
            assert await ended(reader, 3)
            dripping.cancel()
            writer.close()
            while server.signalling.addresses.sockets:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert errors(caplog) == []

    run(check())


def test_a_connection_that_is_used_is_not_cut_off() -> None:
    async def check() -> None:
        async with (
            Server(SignallingSettings(request_within_s=1)) as server,
            httpx2.AsyncClient(trust_env=False) as client,
            server.raw() as socket,
        ):
            await socket.send(join())
            await socket.recv()
            for _ in range(4):
                assert (await client.get(server.url + "/health")).status_code == 200
                await asyncio.sleep(0.4)
            assert server.signalling.connections == 1

    run(check())


def test_silent_connections_of_one_address_keep_nobody_else_from_joining() -> None:
    raise_open_files()  # both ends of them are in this process

    async def check() -> None:
        async with Server() as server, hold(server, 1100) as held:
            began = time.monotonic()
            async with server.raw(OTHER) as other:
                assert (await answer_to(other, join("another")))["type"] == "joined"
            assert time.monotonic() - began < 1
            assert server.signalling.addresses.of("127.0.0.1").sockets == 128
            assert sum([await ended(reader, 0.001) for reader in held]) == 1100 - 128
        assert server.signalling.addresses.sockets == 0

    run(check(), within_s=60)


@contextlib.asynccontextmanager
async def hold(server: Server, number: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    held = []
    for _ in range(number):
        with contextlib.suppress(ConnectionError):
            held.append(await open_tcp(server))
    try:
        yield [reader for reader, _ in held]
    finally:
        for _, writer in held:
            writer.transport.abort()


def test_addresses_are_forgotten_when_they_have_nothing_any_more() -> None:
    clock = Clock()

    async def check() -> None:
        async with Server(SignallingSettings(sweep_s=1000), clock) as server:
            async with server.raw() as socket:
                await answer_to(socket, join())
                await server.signalling.sweep()
                assert len(server.signalling.addresses) == 1
            while server.signalling.addresses.sockets:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await server.signalling.sweep()
            assert len(server.signalling.addresses) == 1  # it has joined a moment ago
            clock.now += 60
            await server.signalling.sweep()
            assert len(server.signalling.addresses) == 0

    run(check())


def test_pages_from_elsewhere_are_refused() -> None:
    async def check() -> None:
        async with Server(SignallingSettings(origins=("https://meet.example",))) as server:
            for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
                with pytest.raises(InvalidStatus, match="403"):
                    async with server.raw(Origin=origin):
                        pass
            for origin in ("https://meet.example", server.url):
                async with server.raw(Origin=origin) as socket:
                    assert (await answer_to(socket, join()))["type"] == "joined"
                    await socket.send(json.dumps({"type": "leave"}))
            assert 'kilocall_refused_total{code="origin"} 3.0' in server.metrics

    run(check())


def test_who_knocks_is_told_what_a_join_would_be_told_and_takes_no_place() -> None:
    async def check() -> None:
        async with Server() as server:
            await knock(server.url, "tea", SECRET)
            assert not server.rooms
            first, second, session = await two(server)
            began = time.monotonic()
            with pytest.raises(BadInput, match=r"meeting point refused: room tea has two parties already$"):
                await knock(server.url, "tea", SECRET)
            with pytest.raises(BadInput, match="room tea exists and has another secret"):
                await knock(server.url, "tea", OTHER_SECRET)
            assert time.monotonic() - began < 1
            assert server.rooms["tea"].session == session
            await second.close()
            await knock(server.url, "tea", SECRET)
            await first.close()
        await knock(server.url, "tea", SECRET)  # nobody there: whoever joins goes on trying

    run(check())


def _kilocall(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    roots = os.pathsep.join(str(ROOT / root) for root in ("sender", "receiver", "shared", "proto"))
    return subprocess.Popen(
        [sys.executable, "-m", "kilocall.cli", *arguments],
        env={**os.environ, "PYTHONPATH": roots, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_program_of_a_third_ends_before_it_loads_models() -> None:
    async def check() -> None:
        secret = LinkSecret.make()
        async with (
            Server() as server,
            Signalling(server.url, "tea", secret) as first,
            Signalling(server.url, "tea", secret) as second,
        ):
            for link in (first, second):
                assert isinstance(await link.next(), Joined)
            link_text = f"{server.url}/tea#{secret.text}"
            third = _kilocall("call", "--headless", "--seconds", "5", KILOCALL_ROOM=link_text)
            began = time.monotonic()
            said, _ = await asyncio.to_thread(third.communicate)
            took_s = time.monotonic() - began
        assert third.returncode == 2
        assert "kilocall: meeting point refused: room tea has two parties already" in said
        assert took_s < 15  # what python takes to import the program, on one busy core

    run(check(), within_s=60)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the limits of another process from /proc")
def test_as_many_files_are_opened_as_the_system_allows() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, hard), hard))
    try:
        server = _kilocall("serve", "--port", "0")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert server.stdout is not None
    try:
        assert re.search(r"meeting point at http", server.stdout.readline())
        assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        server.terminate()
        server.communicate(timeout=15)


def test_numbers_are_on_a_port_of_this_machine_alone() -> None:
    async def check() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        listening = listen("127.0.0.1", 0)
        ready = asyncio.Event()
        serving = asyncio.create_task(serve(listening, metrics_port=port, on_ready=ready.set))
        await ready.wait()
        async with httpx2.AsyncClient(trust_env=False) as client:
            reply = await client.get(f"http://127.0.0.1:{port}/metrics")
        assert "kilocall_rooms 0.0" in reply.text
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(OTHER, port)
        serving.cancel()
        await asyncio.wait([serving])

    run(check())
