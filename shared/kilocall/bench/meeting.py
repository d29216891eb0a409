"""How much a signalling server holds: joins a second, memory of a held connection, what a party waits for among many.

The signalling servers are processes of their own, `kilocall serve` with its limits out of the way; the parties are bare
WebSockets of this process, so on a machine of few cores they take as much of it as what is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import psutil
from pydantic import BaseModel
from websockets.asyncio.client import ClientConnection, connect

from kilocall.call.report import percentile
from kilocall.call.signalling import Join, Leave, websocket_url
from kilocall.call.signalling_http import raise_open_files
from kilocall.proto.errors import BadInput
from kilocall.runtime.children import module_command, same_modules
from kilocall.runtime.machine import resident_bytes

__all__ = ["MeetingBenchReport", "measure_meeting"]

AT_ONCE: Final = 32
"""Joins on their way at a time."""
ANSWER_WITHIN_S: Final = 60
TOKEN: Final = "A" * 43
NO_LIMIT: Final = "1000000"
SETTLES_S: Final = 1.0


class MeetingBenchReport(BaseModel):
    instances: int
    """Signalling servers that share the rooms."""
    redis: bool
    cores: int | None
    joins: int
    joins_per_second: float
    """Each with a connection of its own, a room of its own, and leaving; AT_ONCE at a time."""
    held: int
    """Parties that were in rooms of two at the same time."""
    pairs_per_second: float
    """While these came."""
    join_p50_ms: float
    join_p95_ms: float
    """Of one more party, after another, while all are held."""
    signal_p50_ms: float
    signal_p95_ms: float
    """From one party of a room to the other, while all are held."""
    memory_mib: float
    """Of all signalling servers, empty."""
    memory_kib_per_party: float | None
    """By how much they grew for each that is held; None where the system does not tell."""


class _Instances:
    """Signalling servers on free ports of this machine."""

    def __init__(self, number: int, redis: str | None) -> None:
        limits = ("rooms", "connections", "connections-per-address", "joins-per-second", "join-burst")
        options = [part for name in (*limits, "rooms-per-minute") for part in (f"--{name}", NO_LIMIT)]
        environment = {**same_modules(), **({"KILOCALL_REDIS": redis} if redis is not None else {})}
        command = module_command("kilocall.cli", "serve", "--port", "0", *options)
        self._processes = [
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(number)
        ]
        self.urls = [websocket_url(self._address(process)) for process in self._processes]

    def memory_kib(self) -> float | None:
        """What they hold in memory together."""
        try:
            return sum(resident_bytes(process.pid) for process in self._processes) / 1024
        except psutil.Error:
            return None

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def _address(self, process: subprocess.Popen[str]) -> str:
        assert process.stderr is not None
        said = process.stderr.readline()
        found = re.search(r"http://\S+:\d+", said)
        if found is None:
            self.end()
            raise BadInput(f"the meeting point did not start: {said.strip()}")
        return found.group()


@contextlib.contextmanager
def _instances(number: int, redis: str | None) -> Iterator[_Instances]:
    instances = _Instances(number, redis)
    try:
        yield instances
    finally:
        instances.end()


async def _join(url: str, room: str) -> ClientConnection:
    """A party in a room. Raises BadInput when it is refused."""
    async with asyncio.timeout(ANSWER_WITHIN_S):
        socket = await connect(url, compression=None, ping_interval=None, open_timeout=ANSWER_WITHIN_S, proxy=None)
        await socket.send(Join(room=room, token=TOKEN).model_dump_json())
        answer = json.loads(await socket.recv())
    if answer["type"] != "joined":
        raise BadInput(f"the meeting point refused: {answer.get('reason', answer['type'])}")
    return socket


async def _leave(socket: ClientConnection) -> None:
    await socket.send(Leave().model_dump_json())
    await socket.close()


async def _pair(urls: list[str], room: str) -> tuple[ClientConnection, ClientConnection, int]:
    """Two in a room, at different signalling servers where there are several, and their session."""
    first = await _join(urls[0], room)
    second = await _join(urls[-1], room)
    session = 0
    for socket in (first, second):
        async with asyncio.timeout(ANSWER_WITHIN_S):
            session = json.loads(await socket.recv())["session"]
    return first, second, session


@contextlib.asynccontextmanager
async def _held(
    urls: list[str], pairs: int, progress: Callable[[int, int | None], None]
) -> AsyncIterator[list[tuple[ClientConnection, ClientConnection, int]]]:
    held: list[tuple[ClientConnection, ClientConnection, int]] = []
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with turn:
            held.append(await _pair(urls, f"held-{number}"))
            progress(len(held), pairs)

    try:
        async with asyncio.TaskGroup() as tasks:
            for number in range(pairs):
                tasks.create_task(one(number))
        yield held
    finally:
        for first, second, _ in held:
            first.transport.abort()
            second.transport.abort()


async def _measure(
    instances: _Instances, joins: int, held: int, redis: bool, progress: Callable[[int, int | None], None]
) -> MeetingBenchReport:
    urls = instances.urls
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with turn:
            await _leave(await _join(urls[number % len(urls)], f"alone-{number}"))

    for number in range(AT_ONCE):  # what is made with the first connections
        await one(number)
    began = time.monotonic()
    await asyncio.gather(*(one(number) for number in range(joins)))
    joins_s = time.monotonic() - began

    await asyncio.sleep(SETTLES_S)
    before_kib = instances.memory_kib()
    began = time.monotonic()
    async with _held(urls, held // 2, progress) as pairs:
        pairs_s = time.monotonic() - began
        await asyncio.sleep(SETTLES_S)
        after_kib = instances.memory_kib()
        join_ms, signal_ms = [], []
        for number in range(200):
            began = time.monotonic()
            socket = await _join(urls[number % len(urls)], f"more-{number}")
            join_ms.append(1000 * (time.monotonic() - began))
            await _leave(socket)
            first, second, session = pairs[number % len(pairs)]
            began = time.monotonic()
            await first.send(json.dumps({"type": "commit", "session": session, "commitment": "0" * 64}))
            await second.recv()
            signal_ms.append(1000 * (time.monotonic() - began))
    grown = None if before_kib is None or after_kib is None else (after_kib - before_kib) / (2 * len(pairs))
    return MeetingBenchReport(
        instances=len(urls),
        redis=redis,
        cores=os.cpu_count(),
        joins=joins,
        joins_per_second=joins / joins_s,
        held=2 * len(pairs),
        pairs_per_second=len(pairs) / pairs_s,
        join_p50_ms=percentile(join_ms, 0.5) or 0.0,
        join_p95_ms=percentile(join_ms, 0.95) or 0.0,
        signal_p50_ms=percentile(signal_ms, 0.5) or 0.0,
        signal_p95_ms=percentile(signal_ms, 0.95) or 0.0,
        memory_mib=(before_kib or 0.0) / 1024,
        memory_kib_per_party=grown,
    )


def measure_meeting(
    joins: int,
    held: int,
    redis: str | None = None,
    *,
    instances: int = 1,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> MeetingBenchReport:
    """Raises BadInput when more is asked for than this machine lets one process open, or a server refuses."""
    most = raise_open_files()
    if most is not None and held > most:
        raise BadInput(f"held is {held}; this system lets one process open {most} connections (ulimit -Hn)")
    with _instances(instances, redis) as running:
        return asyncio.run(_measure(running, joins, held, redis is not None, progress))
