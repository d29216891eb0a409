"""Several signalling servers with their rooms in one Redis; the Redis is a real one."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from call.test_operation import ready, signalling_server
from kilocall.call.signalling import Commit, Joined, Left, Paired, Signal, Signalling, knock
from kilocall.call.signalling_settings import SignallingSettings
from kilocall.proto.errors import BadInput
from links import run
from meeting import OTHER_SECRET, SECRET, Server

pytest.importorskip("redis", reason="the extra redis is not installed")

from kilocall.call.redis_store import RedisStore

TAG = "0f" * 32


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    """Address of a Redis that is there for one test."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    path = tmp_path / "redis.sock"
    server = start_redis(path)
    try:
        yield f"unix://{path}"
    finally:
        server.kill()
        server.wait()


def start_redis(path: Path) -> subprocess.Popen[bytes]:
    server = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(path.parent)],
        stdout=subprocess.DEVNULL,
    )
    until = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    return server


@contextlib.asynccontextmanager
async def shared(url: str, limits: SignallingSettings | None = None) -> AsyncIterator[Server]:
    """A signalling server that keeps its rooms there."""
    store = RedisStore(url, limits or SignallingSettings())
    await store.open()
    async with Server(limits, store=store) as server:
        yield server


def party(server: Server | str) -> Signalling:
    url = server if isinstance(server, str) else server.url
    return Signalling(url, "tea", SECRET, first_wait_s=0.05, most_wait_s=0.3)


def test_parties_at_two_signalling_servers_meet_and_exchange(redis: str) -> None:
    async def check() -> None:
        async with shared(redis) as here, shared(redis) as there, party(here) as first:
            assert isinstance(await first.next(), Joined)
            async with party(there) as second:
                joined = await second.next()
                assert isinstance(joined, Joined)
                assert joined.others == 1
                paired = [await link.next() for link in (first, second)]
                assert [pair.offer for pair in paired if isinstance(pair, Paired)] == [True, False]
                assert isinstance(paired[0], Paired)
                session = paired[0].session
                first.commit(session, "a5" * 32)
                assert await second.next() == Commit(session=session, commitment="a5" * 32)
                first.send(session, "offer", "v=0 offer", TAG)
                assert await second.next() == Signal(session=session, kind="offer", sdp="v=0 offer", tag=TAG)
                second.send(session, "answer", "v=0 answer", TAG)
                assert await first.next() == Signal(session=session, kind="answer", sdp="v=0 answer", tag=TAG)
                second.renew(session)
                first.renew(session)
                for link in (first, second):
                    again = await link.next()
                    assert isinstance(again, Paired)
                    assert again.session == session + 1
                for server in (here, there):
                    with pytest.raises(BadInput, match="two parties already"):
                        await knock(server.url, "tea", SECRET)
                    with pytest.raises(BadInput, match="another secret"):
                        await knock(server.url, "tea", OTHER_SECRET)
            assert isinstance(await first.next(), Left)

    run(check())


def test_many_pairs_that_join_at_the_same_moment_are_paired_once_each(redis: str) -> None:
    async def check() -> None:
        limits = SignallingSettings(join_burst=500, rooms_per_minute=500)
        async with shared(redis, limits) as here, shared(redis, limits) as there:

            async def pair(room: str) -> None:
                async with (
                    Signalling(here.url, room, SECRET) as first,
                    Signalling(there.url, room, SECRET) as second,
                ):
                    sessions = []
                    for link in (first, second):
                        while not isinstance(event := await link.next(), Paired):
                            assert isinstance(event, Joined)
                        sessions.append(event)
                    assert sessions[0].session == sessions[1].session
                    assert sorted(paired.offer for paired in sessions) == [False, True]

            await asyncio.gather(*(pair(f"room-{number}") for number in range(20)))

    run(check(), within_s=40)


def test_a_third_is_refused_wherever_he_asks_and_the_place_of_a_broken_connection_is_kept(redis: str) -> None:
    async def check() -> None:
        async with shared(redis) as here, shared(redis) as there:
            first, second = party(here), Signalling(there.url, "tea", SECRET, first_wait_s=60)
            await first.__aenter__()
            assert isinstance(await first.next(), Joined)
            await second.__aenter__()
            session = await met_after(first, second)
            second.abort()
            await asyncio.sleep(0.3)
            async with party(here) as third:
                with pytest.raises(BadInput, match=r"lost its connection and keeps its place for 1[0-9] s more"):
                    await third.next()
            second.reconnect()
            assert isinstance(await second.next(), Joined)
            first.send(session, "offer", "still here", TAG)
            assert await second.next() == Signal(session=session, kind="offer", sdp="still here", tag=TAG)
            for link in (first, second):
                await link.close()

    run(check())


async def nothing_follows(*links: Signalling) -> None:
    """No event within 0.3 s."""
    waiting = [asyncio.ensure_future(link.next()) for link in links]
    done, _ = await asyncio.wait(waiting, timeout=0.3)
    assert not done
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)


async def met_after(first: Signalling, second: Signalling) -> int:
    """Of a first who has joined already."""
    assert isinstance(await second.next(), Joined)
    paired = [await link.next() for link in (first, second)]
    assert isinstance(paired[0], Paired)
    return paired[0].session


def test_a_signalling_server_that_is_killed_ends_no_call_and_both_come_back_at_the_other(redis: str) -> None:
    async def check() -> None:
        (killed, first_port), (other, second_port) = [
            await asyncio.to_thread(signalling_server, "--redis", redis) for _ in range(2)
        ]
        try:
            first = await party(f"http://127.0.0.1:{first_port}").__aenter__()
            assert isinstance(await first.next(), Joined)
            second = await party(f"http://127.0.0.1:{second_port}").__aenter__()
            session = await met_after(first, second)
            first.live = second.live = session
            killed.send_signal(signal.SIGKILL)
            await asyncio.to_thread(killed.wait)
            assert second.connected
            # As a load balancer would: the next connection leads to the one that is left.
            first.url = second.url
            again = await first.next()
            assert isinstance(again, Joined)
            assert again.others == 1
            second.reconnect()
            assert isinstance(await second.next(), Joined)
            await nothing_follows(first, second)
            first.send(session, "offer", "the same session", TAG)
            assert await second.next() == Signal(session=session, kind="offer", sdp="the same session", tag=TAG)
            second.renew(session)
            renewed = await first.next()
            assert isinstance(renewed, Paired)
            assert renewed.session == session + 1
            for link in (first, second):
                await link.close()
        finally:
            for process in (killed, other):
                process.kill()
                await asyncio.to_thread(process.communicate)

    run(check(), within_s=90)


def test_place_at_a_signalling_server_that_ended_is_free_in_the_end(redis: str) -> None:
    async def check() -> None:
        limits = SignallingSettings(come_back_within_s=1)
        async with shared(redis, limits) as here:
            process, port = await asyncio.to_thread(signalling_server, "--redis", redis)
            first = await party(here).__aenter__()
            assert isinstance(await first.next(), Joined)
            second = await party(f"http://127.0.0.1:{port}").__aenter__()
            await met_after(first, second)
            process.kill()
            await asyncio.to_thread(process.communicate)
            await asyncio.sleep(6)  # until it has said nothing for long enough
            await here.signalling.sweep()
            assert isinstance(await first.next(), Left)
            async with party(here) as third:
                await met_after(first, third)
            for link in (first, second):
                await link.close()

    run(check(), within_s=60)


def test_while_redis_is_away_nobody_joins_and_afterwards_all_come_back(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    path = tmp_path / "redis.sock"

    async def check() -> None:
        server = await asyncio.to_thread(start_redis, path)
        async with shared(f"unix://{path}") as here:
            first, second = party(here), party(here)
            await first.__aenter__()
            assert isinstance(await first.next(), Joined)
            await second.__aenter__()
            first.live = second.live = await met_after(first, second)
            server.kill()
            server.wait()
            path.unlink(missing_ok=True)
            with pytest.raises(BadInput, match="cannot reach its rooms"):
                await knock(here.url, "tea", SECRET)
            assert await ready(here.port) == (503, "without rooms")
            server = await asyncio.to_thread(start_redis, path)  # and it knows nothing
            try:
                while not here.signalling.store.well:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                await asyncio.sleep(1.5)  # it listens again
                with contextlib.suppress(Exception):
                    await here.signalling.sweep()
                for link in (first, second):
                    assert isinstance(await link.next(), Joined)
                await nothing_follows(first, second)  # the connection that both have goes on
                for link in (first, second):
                    await link.close()
            finally:
                server.kill()
                server.wait()

    run(check(), within_s=60)


def test_redis_that_is_none_or_not_there_is_told_at_the_start(tmp_path: Path) -> None:
    async def check() -> None:
        with pytest.raises(BadInput, match="allowed is redis://"):
            RedisStore("http://here", SignallingSettings())
        store = RedisStore(f"unix://{tmp_path}/none", SignallingSettings())
        with pytest.raises(BadInput, match="redis cannot be used"):
            await store.open()
        await store.close()

    run(check())
