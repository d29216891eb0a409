"""Running a signalling server: being ready, ending without disturbing a call, and what it writes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from kilocall.call.signalling import Join, Joined, Paired, Signalling
from kilocall.call.signalling_settings import SignallingSettings
from links import run
from meeting import SECRET, Server

ROOT = Path(__file__).parents[2]


def signalling_server(*options: str, port: int = 0) -> tuple[subprocess.Popen[str], int]:
    """A process that serves, and its port."""
    roots = os.pathsep.join(str(ROOT / root) for root in ("sender", "receiver", "shared", "proto"))
    process = subprocess.Popen(
        [sys.executable, "-m", "kilocall.cli", "serve", "--port", str(port), *options],
        env={**os.environ, "PYTHONPATH": roots},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = process.stderr.readline()
    found = re.search(r"http://127.0.0.1:(\d+)", said)
    if found is None:
        process.kill()
        raise AssertionError(said + process.stderr.read())
    return process, int(found[1])


async def ready(port: int) -> tuple[int, str]:
    async with httpx2.AsyncClient(trust_env=False) as client:
        reply = await client.get(f"http://127.0.0.1:{port}/ready")
    return reply.status_code, reply.json()["status"]


def test_ready_says_when_there_is_no_room() -> None:
    async def check() -> None:
        async with Server(SignallingSettings(most_rooms=1)) as server:
            assert await ready(server.port) == (200, "ready")
            async with Signalling(server.url, "tea", SECRET) as first:
                assert isinstance(await first.next(), Joined)
                assert await ready(server.port) == (503, "full")
            assert await ready(server.port) == (200, "ready")
        async with Server(SignallingSettings(most_connections=1)) as server, server.raw():
            assert await ready(server.port) == (503, "full")

    run(check())


def test_signalling_server_that_drains_takes_no_new_rooms_but_those_who_are_there() -> None:
    async def check() -> None:
        async with Server() as server, Signalling(server.url, "tea", SECRET) as first:
            assert isinstance(await first.next(), Joined)
            draining = asyncio.create_task(server.signalling.drain())
            await asyncio.sleep(0)
            assert await ready(server.port) == (503, "draining")
            join = Join(room="coffee", token=SECRET.token).model_dump_json()
            assert (await server.said_to(join))["code"] == "draining"
            async with Signalling(server.url, "tea", SECRET) as second:
                assert isinstance(await second.next(), Joined)
                assert isinstance(await second.next(), Paired)
            draining.cancel()

    run(check())


def test_told_to_terminate_it_ends_within_10_s_and_the_call_goes_on() -> None:
    async def check() -> None:
        process, port = await asyncio.to_thread(signalling_server)
        url = f"http://127.0.0.1:{port}"
        links = []
        for _ in range(2):
            links.append(await Signalling(url, "tea", SECRET, first_wait_s=0.1, most_wait_s=0.5).__aenter__())
            assert isinstance(await links[-1].next(), Joined)
        paired = [await link.next() for link in links]
        for link, pair in zip(links, paired, strict=True):
            assert isinstance(pair, Paired)
            link.live = pair.session
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        await asyncio.sleep(0.5)
        assert await ready(port) == (503, "draining")
        assert all(link.connected for link in links)
        _, rest = await asyncio.to_thread(process.communicate)
        assert (process.returncode, rest) == (0, "")
        assert time.monotonic() - began < 10
        process, _ = await asyncio.to_thread(signalling_server, port=port)
        try:
            for link in links:
                assert isinstance(await link.next(), Joined)
            # The connection that both have is left alone.
            for link in links:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(link.next(), 0.3)
        finally:
            for link in links:
                await link.close()
            process.terminate()
            await asyncio.to_thread(process.communicate)

    run(check(), within_s=90)


def test_nobody_is_waited_for_where_nobody_is() -> None:
    process, _ = signalling_server()
    process.terminate()
    began = time.monotonic()
    assert process.communicate(timeout=15)[1] == ""
    assert process.returncode == 0
    assert time.monotonic() - began < 3


def test_json_log_has_every_event_and_neither_addresses_nor_tokens_nor_names() -> None:
    async def check() -> None:
        process, port = await asyncio.to_thread(signalling_server, "--log-format", "json", "--drain-seconds", "0")
        url = f"http://127.0.0.1:{port}"
        async with Signalling(url, "teatime", SECRET) as first, Signalling(url, "teatime", SECRET) as second:
            joined = await first.next()
            assert isinstance(joined, Joined)
            assert isinstance(await second.next(), Joined)
            assert isinstance(await second.next(), Paired)
            async with Signalling(url, "coffee", SECRET) as third:
                assert isinstance(await third.next(), Joined)
        process.terminate()
        text = (await asyncio.to_thread(process.communicate))[1]
        lines = [json.loads(line) for line in text.splitlines()]
        events = [line["event"] for line in lines]
        assert events.count("joined") == 3
        assert {"joined", "paired", "left", "draining"} <= set(events)
        rooms = [line["room"] for line in lines if line["event"] == "joined"]
        assert len(set(rooms)) == 2
        assert all(re.fullmatch("[0-9a-f]{12}", room) for room in rooms)
        assert all(line["level"] == "INFO" and line["time"] for line in lines)
        for secret in ("teatime", "coffee", SECRET.token, SECRET.text, joined.member, "127.0.0.1"):
            assert secret is not None
            assert secret not in text

    run(check(), within_s=60)
