from __future__ import annotations

import asyncio
from typing import Any

from links import run
from runtime.aiortc_fixes.ends import know_only_aes, listen, send, two_ends


async def last_flight_lost() -> list[bytes]:
    """What arrives of six messages that the server sends once its side of the handshake is done."""
    wires, ends, parameters = two_ends()
    messages = listen(ends[1])
    wires[0].lost = {1}

    async def serve() -> None:
        await ends[0].start(parameters[0])
        for number in range(6):
            await send(ends[0], b"%d" % number)
            await asyncio.sleep(0.3)

    await asyncio.gather(serve(), ends[1].start(parameters[1]))
    got = list(messages.got)
    for end in ends:
        await end.stop()
    await asyncio.sleep(0)
    return got


def test_losing_the_last_flight_of_the_handshake_delays_nothing_afterwards() -> None:
    assert asyncio.run(last_flight_lost()) == [b"0", b"1", b"2", b"3", b"4", b"5"]


def test_without_the_correction_messages_stay_behind_after_that(without: Any) -> None:
    without("read every DTLS record")
    without("quick repeats of the handshake")  # repeats the last flight before anything overtakes it
    got = asyncio.run(last_flight_lost())
    # As many as had come before the handshake was repeated.
    assert 1 <= len(got) <= 5
    assert got == [b"0", b"1", b"2", b"3", b"4"][: len(got)]


async def two_records_in_one_datagram() -> list[bytes]:
    wires, ends, parameters = two_ends()
    await asyncio.gather(ends[0].start(parameters[0]), ends[1].start(parameters[1]))
    messages = listen(ends[1])
    wires[0].held = []
    await send(ends[0], b"first")
    await send(ends[0], b"second")
    wires[1].arrived.put_nowait(b"".join(wires[0].held))
    await asyncio.sleep(0.1)
    got = list(messages.got)
    for end in ends:
        await end.stop()
    await asyncio.sleep(0)
    return got


def test_both_records_of_a_datagram_are_delivered() -> None:
    assert asyncio.run(two_records_in_one_datagram()) == [b"first", b"second"]


def test_without_the_correction_the_second_record_stays_behind(without: Any) -> None:
    without("read every DTLS record")
    assert asyncio.run(two_records_in_one_datagram()) == [b"first"]


async def handshake_with_its_first_flight_lost() -> float:
    """Seconds until both sides are done."""
    wires, ends, parameters = two_ends()
    wires[1].lost = {0}
    began = asyncio.get_running_loop().time()
    await asyncio.gather(ends[0].start(parameters[0]), ends[1].start(parameters[1]))
    took = asyncio.get_running_loop().time() - began
    for end in ends:
        await end.stop()
    await asyncio.sleep(0)
    return took


def test_lost_flight_of_the_handshake_is_repeated_within_half_a_second() -> None:
    assert min(asyncio.run(handshake_with_its_first_flight_lost()) for _ in range(2)) < 0.9


def test_without_the_correction_a_lost_flight_costs_a_second(without: Any) -> None:
    without("quick repeats of the handshake")
    assert asyncio.run(handshake_with_its_first_flight_lost()) >= 1.0


def test_nothing_is_repeated_once_the_handshake_is_over() -> None:
    async def check() -> None:
        wires, ends, parameters = two_ends()
        await asyncio.gather(ends[0].start(parameters[0]), ends[1].start(parameters[1]))
        await send(ends[1], b"the client is done")
        await asyncio.sleep(0.1)
        sent = [wire.count for wire in wires]
        await asyncio.sleep(0.8)
        assert [wire.count for wire in wires] == sent
        for end in ends:
            await end.stop()
        await asyncio.sleep(0)

    run(check())


async def record_around(message: bytes) -> int:
    """Bytes that a DTLS record has more than what it carries."""
    wires, ends, parameters = two_ends()
    await asyncio.gather(ends[0].start(parameters[0]), ends[1].start(parameters[1]))
    await asyncio.sleep(0.1)
    wires[0].held = []
    await send(ends[0], message)
    (record,) = wires[0].held
    for end in ends:
        await end.stop()
    await asyncio.sleep(0)
    return len(record) - len(message)


def test_records_carry_29_bytes_of_headers() -> None:
    assert asyncio.run(record_around(b"motion")) == 29


def test_without_the_correction_they_carry_37(without: Any) -> None:
    without("short DTLS records")
    assert asyncio.run(record_around(b"motion")) == 37


def test_other_side_that_knows_only_aes_still_connects() -> None:
    async def check() -> None:
        _, ends, parameters = two_ends()
        know_only_aes(ends[1])
        messages = listen(ends[1])
        await asyncio.gather(ends[0].start(parameters[0]), ends[1].start(parameters[1]))
        await send(ends[0], b"hello")
        await asyncio.sleep(0.1)
        assert messages.got == [b"hello"]
        for end in ends:
            await end.stop()
        await asyncio.sleep(0)

    run(check())
