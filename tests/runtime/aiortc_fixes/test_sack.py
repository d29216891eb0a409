from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kilocall.runtime import aiortc_fixes
from links import lose_pattern, peer_and_stranger, run, two_peers
from runtime.aiortc_fixes.ends import QUIET, Association


async def acknowledgements(messages: int, *, both: bool = False) -> tuple[int, int]:
    """Data packets and their bytes that come back while one side sends 25 a second."""
    async with two_peers(QUIET) as (first, second):
        await asyncio.sleep(0.5)
        before = first.traffic()[1].kinds["data"]
        for number in range(messages):
            first.send_motion(bytes([number]) * 26)
            if both:
                second.send_motion(bytes([number]) * 26)
            await asyncio.sleep(0.04)
        after = first.traffic()[1].kinds["data"]
        assert len(second.motion) == messages
        return after.packets - before.packets, after.bytes - before.bytes


def test_acknowledgements_are_few() -> None:
    async def check() -> None:
        packets, _ = await acknowledgements(25)
        assert 1 <= packets <= 5

    run(check())


def test_acknowledgements_ride_with_motion_that_goes_the_other_way() -> None:
    async def check() -> None:
        packets, size = await acknowledgements(25, both=True)
        assert packets == 25
        # 28 bytes of message in 113 on the wire, and now and then 16 of an acknowledgement.
        assert 25 * 113 < size <= 25 * 113 + 8 * 16

    run(check())


async def timer_after_steady_round_trips_of_one_second() -> float:
    return Association().timer_after([1.0] * 100)


def test_retransmission_timer_stays_a_delay_above_the_round_trips() -> None:
    """They come to vary by nothing, and a timer at their mean goes off before the acknowledgement."""
    assert asyncio.run(timer_after_steady_round_trips_of_one_second()) == pytest.approx(1 + aiortc_fixes.SACK_DELAY_S)


def test_without_the_correction_the_timer_sinks_to_the_round_trip(without: Any) -> None:
    without("delayed acknowledgements")
    assert asyncio.run(timer_after_steady_round_trips_of_one_second()) == pytest.approx(1.0)


def test_without_the_correction_every_message_is_acknowledged(without: Any) -> None:
    without("delayed acknowledgements")

    async def check() -> None:
        packets, _ = await acknowledgements(25)
        assert packets >= 25

    run(check())


def test_missing_packet_is_reported_soon_and_with_what_goes_out_anyway() -> None:
    async def check() -> None:
        async with two_peers(QUIET) as (first, second):
            await asyncio.sleep(0.5)
            lose_pattern(first, [True])
            before = first.traffic()[1].kinds["data"]
            for _ in range(3):
                first.send_motion(b"x")
            await asyncio.sleep(0.02)
            assert len(second.motion) == 2
            second.send_motion(b"back")
            await asyncio.sleep(0.02)
            after = first.traffic()[1].kinds["data"]
            # A message of 89, an acknowledgement of 16 with a gap of 4.
            assert (after.packets - before.packets, after.bytes - before.bytes) == (1, 89 + 16 + 4)
            first.send_motion(b"x")
            await asyncio.sleep(0.2)
            assert first.traffic()[1].kinds["data"].packets - after.packets == 1

    run(check())


def test_long_message_is_not_slowed_down_by_rare_acknowledgements() -> None:
    async def check() -> None:
        async with peer_and_stranger(QUIET) as (peer, stranger):
            started = asyncio.get_running_loop().time()
            stranger.control.send(bytes(200_000))
            message = await peer.control.get()
            assert message is not None
            assert len(message.data) == 200_000
            assert asyncio.get_running_loop().time() - started < 2

    run(check())


def test_reliable_messages_survive_loss_with_rare_acknowledgements() -> None:
    async def check() -> None:
        async with two_peers(QUIET) as (first, second):
            lose_pattern(first, [False, True, False, False, True] * 4)
            for number in range(12):
                first.send_control(bytes([number]))
                await asyncio.sleep(0.02)
            got = [await second.control.get() for _ in range(12)]
            assert [message.data[0] for message in got if message] == list(range(12))

    run(check())
