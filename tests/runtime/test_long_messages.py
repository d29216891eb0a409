"""Messages in parts: what is put together again, what is refused, and how fast parts leave."""

from __future__ import annotations

import asyncio

import pytest

from kilocall.proto.control import MAX_MESSAGE_BYTES, MAX_PART_BYTES, Part
from kilocall.proto.errors import BadPacket
from kilocall.runtime.long_messages import BURST_BYTES, Assembly, PartsQueue, is_part
from links import run

MESSAGE = bytes(number % 251 for number in range(2 * MAX_PART_BYTES + 5))


def parts_of(message: bytes) -> list[bytes]:
    return [bytes(part) for part in Part.split(message)]


def test_parts_are_told_from_whole_messages_and_put_together() -> None:
    parts = parts_of(MESSAGE)
    assert all(map(is_part, parts))
    assembly = Assembly()
    assert [assembly.add(part) for part in parts] == [None, None, MESSAGE]
    assert [assembly.add(part) for part in parts] == [None, None, MESSAGE]


def test_a_part_of_another_message_ends_the_one_begun_and_the_next_is_taken() -> None:
    first, second, _ = parts_of(MESSAGE)
    assembly = Assembly()
    assembly.add(first)
    with pytest.raises(BadPacket, match="part leaves"):
        assembly.add(first)
    assembly.add(first)
    assert assembly.add(second) is None
    with pytest.raises(BadPacket):
        assembly.add(second[:-1])
    assert [assembly.add(part) for part in parts_of(MESSAGE)][-1] == MESSAGE


def test_a_message_larger_than_any_is_refused_with_its_first_part() -> None:
    with pytest.raises(BadPacket, match="part leaves"):
        Assembly().add(bytes(Part(MAX_MESSAGE_BYTES, b"x")))


def test_parts_wait_until_they_may_be_sent_and_stop_with_the_connection() -> None:
    async def check() -> None:
        sent: asyncio.Queue[bytes] = asyncio.Queue()
        free, is_open = False, True
        queue = PartsQueue(1_000_000)
        assert queue.add(MESSAGE)
        pump = asyncio.ensure_future(queue.pump(sent.put_nowait, may_send=lambda: free, is_open=lambda: is_open))
        await asyncio.sleep(0.05)
        assert sent.empty()
        free = True
        assert [await sent.get() for _ in range(3)] == parts_of(MESSAGE)
        is_open = False
        queue.clear()
        await asyncio.wait_for(pump, 5)

    run(check())


def test_a_burst_leaves_at_once_and_the_rest_at_the_rate_allowed() -> None:
    async def check() -> None:
        sent: list[bytes] = []
        queue = PartsQueue(1)  # a bit a second: nothing but the burst within this test
        queue.add(bytes(3 * BURST_BYTES))
        pump = asyncio.ensure_future(queue.pump(sent.append, may_send=lambda: True, is_open=lambda: True))
        await asyncio.sleep(0.2)
        pump.cancel()
        assert BURST_BYTES - 2 * MAX_PART_BYTES < sum(map(len, sent)) <= BURST_BYTES

    run(check())


def test_no_more_than_two_of_the_longest_messages_wait() -> None:
    queue = PartsQueue(48_000)
    assert not queue.add(bytes(MAX_MESSAGE_BYTES + 1))
    assert queue.add(bytes(MAX_MESSAGE_BYTES))
    assert queue.add(bytes(MAX_MESSAGE_BYTES // 2))
    assert not queue.add(bytes(MAX_MESSAGE_BYTES))
    queue.clear()
    assert queue.add(bytes(MAX_MESSAGE_BYTES))
