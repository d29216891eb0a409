from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import aiortc.rtcsctptransport as sctp

from kilocall.runtime.aiortc_fixes.ice import watch
from links import lose_all, lose_pattern, peer_and_stranger, run, two_peers
from runtime.aiortc_fixes.ends import QUIET, Association


async def longest_datagram() -> int:
    """Of a message that the other side sends in one piece, with the headers of IP and UDP."""
    longest = 0

    def measure(data: bytes, addr: Any) -> None:
        nonlocal longest
        longest = max(longest, len(data) + 28)

    async with peer_and_stranger(QUIET) as (peer, stranger):
        for endpoint in peer.endpoints:
            watch(endpoint, sent=lambda data, addr: None, received=measure)
        stranger.control.send(bytes(5000))
        assert await peer.control.get() is not None
    return longest


def test_packets_fit_a_1280_byte_mtu() -> None:
    async def check() -> None:
        assert 1150 < await longest_datagram() <= 1205

    run(check())


def test_without_the_correction_packets_are_longer(without: Any) -> None:
    without("packets that fit a 1280-byte MTU")

    async def check() -> None:
        assert await longest_datagram() > 1240

    run(check())


async def held_of_an_endless_message() -> int:
    transport = Association()
    for tsn in range(1, 1501):
        await transport.take_data(tsn, bytes(1100), sctp.SCTP_DATA_FIRST_FRAG if tsn == 1 else 0)
    return transport.held_bytes


def test_endless_message_is_dropped_beyond_the_window() -> None:
    assert asyncio.run(held_of_an_endless_message()) <= 1 << 20


def test_without_the_correction_an_endless_message_fills_the_memory(without: Any) -> None:
    without("bounded receive window")
    assert asyncio.run(held_of_an_endless_message()) == 1500 * 1100


async def association_with_lost(lost: Callable[[int, int], bool], *, within_s: float) -> float | None:
    """Seconds until both sides are established, when packet n (from 0) of side s is lost; None: not within that."""
    loop = asyncio.get_running_loop()
    counts = [0, 0]
    tasks: set[asyncio.Task[None]] = set()

    def leave(side: int, data: bytes) -> None:
        number, counts[side] = counts[side], counts[side] + 1
        if not lost(side, number):
            task = loop.create_task(sides[1 - side].arrive(data))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    sides = [Association(partial(leave, side)) for side in range(2)]
    began = loop.time()
    for side in sides:
        await side.start(sctp.RTCSctpCapabilities(65536), 5000)
    took: float | None = None
    while took is None and loop.time() - began <= within_s:
        await asyncio.sleep(0.01)
        if all(side.established for side in sides):
            took = loop.time() - began
    for side in sides:
        await side.stop()
    await asyncio.gather(*tasks)
    return took


def both_first_answers(side: int, number: int) -> bool:
    """INIT is 0, INIT ACK is 1."""
    return number == 1


def test_association_survives_the_loss_of_any_packet_within_half_a_second() -> None:
    async def check() -> None:
        for lost in range(3):  # INIT, INIT ACK and COOKIE ECHO of both sides
            took = await association_with_lost(lambda _, number, lost=lost: number == lost, within_s=3)  # type: ignore[misc]
            assert took is not None
            assert took < 1.5

    run(check())


def test_without_the_correction_both_sides_wait_for_each_other_for_ever(without: Any) -> None:
    without("quick setup")

    async def check() -> None:
        # The first repetition comes after 3 s, and is dropped for its tag.
        assert await association_with_lost(both_first_answers, within_s=3.6) is None

    run(check())


def test_init_that_comes_again_changes_nothing() -> None:
    async def check() -> None:
        transport = Association()
        await transport.take_init(7, 100)
        assert transport.received_up_to == 99
        for tsn in range(100, 141):
            await transport.take_data(tsn, b"x")
        assert transport.received_up_to == 140
        await transport.take_init(7, 100)
        assert transport.received_up_to == 140
        await transport.take_init(8, 500)  # another association
        assert transport.received_up_to == 499

    run(check())


async def last_message_lost() -> float:
    """Seconds until a reliable message arrives whose first sending was lost, and that nothing follows."""
    async with two_peers(QUIET) as (first, second):
        loop = asyncio.get_running_loop()
        first.send_control(b"before")
        await second.control.get()
        await asyncio.sleep(0.5)
        lose_pattern(first, [True])
        began = loop.time()
        first.send_control(b"last")
        await second.control.get()
        return loop.time() - began


def test_reliable_message_that_nothing_follows_is_repeated_soon() -> None:
    assert 0.3 <= min(asyncio.run(last_message_lost()) for _ in range(2)) < 0.9


def test_without_the_correction_it_waits_for_the_retransmission_timer(without: Any) -> None:
    without("quick repeats of reliable messages")
    assert asyncio.run(last_message_lost()) >= 0.99


def test_acknowledged_messages_are_not_repeated() -> None:
    async def check() -> None:
        async with two_peers(QUIET) as (first, second):
            await asyncio.sleep(0.5)
            for number in range(5):
                first.send_control(bytes([number]))
                await asyncio.sleep(0.05)
            before = first.traffic()[0].kinds["data"].packets
            await asyncio.sleep(1.5)
            assert first.traffic()[0].kinds["data"].packets - before <= 1  # an acknowledgement of the other side's
            assert len(second.control) == 5

    run(check())


async def motion_that_waits_for_a_picture() -> int:
    """Bytes of pieces of a picture that are not acknowledged, and of motion after them, that may not be sent yet."""
    async with two_peers(QUIET) as (first, _):
        await asyncio.sleep(0.5)
        lose_all(first)
        for _ in range(5):
            first.send_control(bytes(1000))
        await asyncio.sleep(0.1)
        first.send_motion(bytes(26))
        await asyncio.sleep(0.1)
        return first.backlog_bytes


def test_motion_does_not_wait_for_a_picture() -> None:
    assert asyncio.run(motion_that_waits_for_a_picture()) == 0


def test_without_the_correction_it_waits_until_the_picture_is_acknowledged(without: Any) -> None:
    without("room for motion")
    waiting = asyncio.run(motion_that_waits_for_a_picture())
    assert waiting >= 1000
    assert waiting % 1000 == 26


async def told_of() -> tuple[list[bytes], list[bytes]]:
    told: list[bytes] = []
    async with two_peers(QUIET, on_delivered=told.append) as (first, second):
        lose_pattern(first, [False, True, False, False, True, False, False, False])
        for number in range(8):
            first.send_motion(bytes([number]))
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.8)  # the retransmission timer gives the lost ones up after 1 s
        first.send_motion(b"last")
        await asyncio.sleep(0.6)
        arrived = [message.data for _ in range(len(second.motion)) if (message := await second.motion.get())]
    return told, arrived


def test_sender_is_told_of_what_arrived_and_of_nothing_else() -> None:
    async def check() -> None:
        told, arrived = await told_of()
        assert sorted(told) == sorted(arrived)
        assert [data[0] for data in arrived[:-1]] == [0, 2, 3, 5, 6, 7]

    run(check())


def test_without_the_correction_nobody_is_told(without: Any) -> None:
    without("told of delivery")

    async def check() -> None:
        told, arrived = await told_of()
        assert not told
        assert arrived

    run(check())
