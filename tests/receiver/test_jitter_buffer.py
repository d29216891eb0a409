from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilocall.proto.motion_packet import TIMES_MS, MotionPacket
from kilocall.receiver.jitter_buffer import DueFrame, JitterBuffer, Verdict

SPACING_US = 40_000
TICK_US = 10_000


def packet(number: int, *, frames: int = 3, start_us: int = 0) -> MotionPacket:
    """Packet `number` of a stream at 25 fps that began at `start_us` on the sender's clock."""
    return MotionPacket(
        sequence=number % 65536,
        time_ms=(start_us + number * frames * SPACING_US) // 1000 % TIMES_MS,
        spacing_us=SPACING_US if frames > 1 else 0,
        frame_count=frames,
        reference=None,
        level=4,
        payload=b"",
    )


def ready_us(number: int, *, frames: int = 3) -> int:
    """When packet `number` can leave: after its last frame."""
    return (number * frames + frames - 1) * SPACING_US


def play(
    arrivals: list[tuple[int, MotionPacket]], *, until_us: int | None = None, buffer: JitterBuffer | None = None
) -> tuple[JitterBuffer, list[tuple[int, DueFrame]], list[Verdict]]:
    """Runs a buffer over (time, packet) in time order with a tick every 10 ms; returns what played when."""
    buffer = buffer or JitterBuffer()
    waiting = sorted(arrivals, key=lambda arrival: arrival[0])
    end_us = until_us or waiting[-1][0] + 1_000_000
    played: list[tuple[int, DueFrame]] = []
    verdicts: list[Verdict] = []
    now_us = waiting[0][0] // TICK_US * TICK_US if waiting else 0
    while now_us <= end_us:
        while waiting and waiting[0][0] <= now_us:
            at_us, arrived = waiting.pop(0)
            verdicts.append(buffer.push(arrived, at_us))
        played += [(now_us, frame) for frame in buffer.pop(now_us)]
        now_us += TICK_US
    return buffer, played, verdicts


def times(played: list[tuple[int, DueFrame]]) -> list[int]:
    return [frame.time_us for _, frame in played]


def test_steady_stream_plays_every_frame_evenly_and_soon() -> None:
    buffer, played, verdicts = play([(ready_us(n) + 20_000, packet(n)) for n in range(50)])
    assert set(verdicts) == {Verdict.QUEUED}
    assert times(played) == [n * SPACING_US for n in range(150)]
    shown = [at for at, _ in played]
    assert all(30_000 <= b - a <= 50_000 for a, b in pairwise(shown[10:]))
    # 80 ms until a packet of three frames is full, 20 ms on the way, 10 ms margin, a tick.
    assert max(at - frame.time_us for at, frame in played) <= 125_000
    assert buffer.delay_us <= 95_000


def test_lost_packets_are_declared_with_the_next_frame() -> None:
    lost = {4, 9, 10, 11}
    _, played, _ = play([(ready_us(n), packet(n)) for n in range(20) if n not in lost])
    gaps = {frame.packet.sequence: frame.lost_before for _, frame in played if frame.lost_before}
    assert gaps == {5: 1, 12: 3}
    assert len(played) == 3 * 16


def overlapping(number: int, *, frames: int = 2, repeated: int = 4) -> MotionPacket:
    """Packet `number` of `frames` new frames behind up to `repeated` of those before."""
    again = min(repeated, number * frames)
    whole = packet(number, frames=frames)
    return replace(
        whole,
        time_ms=(number * frames - again) * SPACING_US // 1000 % TIMES_MS,
        spacing_us=SPACING_US,
        frame_count=frames + again,
    )


def test_repeated_frames_are_played_once_and_delay_nothing() -> None:
    buffer, played, _ = play([(ready_us(n, frames=2) + 20_000, overlapping(n)) for n in range(60)])
    assert times(played) == [n * SPACING_US for n in range(120)]
    assert (buffer.skipped, buffer.late) == (0, 0)
    assert buffer.repeated > 200
    plain, _, _ = play([(ready_us(n, frames=2) + 20_000, packet(n, frames=2)) for n in range(60)])
    assert buffer.delay_us == plain.delay_us


def test_frames_of_lost_packets_play_from_those_that_repeat_them() -> None:
    # One in ten and two in a row now and then, as random loss has it.
    lost = {n for n in range(200) if n % 10 == 4 or n % 40 == 5}
    _, played, _ = play([(ready_us(n, frames=2) + 20_000, overlapping(n)) for n in range(200) if n not in lost])
    after = [(at, frame) for at, frame in played if at > 2_000_000]
    assert times(after) == list(range(after[0][1].time_us, after[-1][1].time_us + 1, SPACING_US))
    assert max(b - a for (a, _), (b, _) in pairwise(after)) <= 60_000


def test_one_lost_packet_makes_nothing_later() -> None:
    arrivals = [(ready_us(n, frames=2) + 20_000, overlapping(n)) for n in range(60)]
    whole, _, _ = play(arrivals)
    buffer, played, _ = play([arrival for n, arrival in enumerate(arrivals) if n != 30])
    assert buffer.delay_us == whole.delay_us
    assert max(b - a for (a, _), (b, _) in pairwise(played)) <= 130_000


def test_repeated_frames_in_a_late_packet_are_not_played() -> None:
    arrivals = [(ready_us(n, frames=2) + 20_000, overlapping(n)) for n in range(40) if n != 20]
    _, played, verdicts = play([*arrivals, (ready_us(20, frames=2) + 700_000, overlapping(20))])
    assert verdicts.count(Verdict.LATE) == 1
    assert times(played) == sorted(set(times(played)))


def test_one_packet_in_ten_that_is_late_does_not_delay_the_rest() -> None:
    arrivals = [(ready_us(n) + 20_000 + (70_000 if n % 20 == 7 else 0), packet(n)) for n in range(100)]
    buffer, played, _ = play(arrivals, until_us=ready_us(100))
    steady, _, _ = play([(ready_us(n) + 20_000, packet(n)) for n in range(100)], until_us=ready_us(100))
    assert buffer.delay_us <= steady.delay_us + 5_000
    assert buffer.late == 0
    assert len(played) >= 290


def test_reordered_packets_play_in_order() -> None:
    order = [0, 1, 3, 2, 4, 6, 5, 7, 8, 9]
    arrivals = [(ready_us(place) + 5_000, packet(number)) for place, number in enumerate(order)]
    _, played, verdicts = play(arrivals)
    assert times(played) == sorted(set(times(played)))
    assert Verdict.OLD not in verdicts
    assert times(played)[-1] == 29 * SPACING_US


def test_late_packet_is_not_played() -> None:
    arrivals = [(ready_us(n), packet(n)) for n in range(30) if n != 10]
    arrivals.append((ready_us(10) + 600_000, packet(10)))
    buffer, played, verdicts = play(arrivals)
    assert verdicts.count(Verdict.LATE) == 1
    assert buffer.late == 1
    assert 10 not in {frame.packet.sequence for _, frame in played}
    assert times(played) == sorted(times(played))


def test_duplicates_and_replays_are_ignored() -> None:
    arrivals = [(ready_us(n) + extra, packet(n)) for n in range(100) for extra in (0, 15_000)]
    arrivals += [(ready_us(99) + 50_000, packet(n)) for n in range(20)]
    buffer, played, _ = play(arrivals)
    assert (buffer.received, buffer.duplicates, buffer.old) == (100, 100, 20)
    assert times(played) == [n * SPACING_US for n in range(300)]


def test_sequence_and_time_wrap_around() -> None:
    first = 65536 - 20
    start_us = 65_536_000 - first * 3 * SPACING_US - 25 * 3 * SPACING_US
    stream = [packet(first + n, start_us=start_us) for n in range(60)]
    assert any(a.sequence > b.sequence for a, b in pairwise(stream))
    assert any(a.time_ms > b.time_ms for a, b in pairwise(stream))
    _, played, _ = play([(ready_us(n), one) for n, one in enumerate(stream)])
    steps = {b - a for a, b in pairwise(times(played))}
    assert (len(played), steps) == (180, {SPACING_US})
    assert all(frame.lost_before == 0 for _, frame in played)


@pytest.mark.parametrize("frames", [1, 3, 5])
def test_after_an_outage_of_two_seconds_fresh_motion_plays_within_300_ms(frames: int) -> None:
    per_s = 25 / frames
    gone = range(int(2 * per_s), int(4 * per_s) + 1)
    arrivals = [(ready_us(n, frames=frames) + 30_000, packet(n, frames=frames)) for n in range(150) if n not in gone]
    _, played, _ = play(arrivals)
    back_us = min(at for at, one in arrivals if one.sequence > gone[-1])
    shown_us = min(at for at, frame in played if frame.packet.sequence > gone[-1])
    assert 0 <= shown_us - back_us <= 300_000


@pytest.mark.parametrize(
    ("period_us", "late_us", "shown"), [(40_000, 130_000, False), (160_000, 130_000, True), (160_000, 190_000, False)]
)
def test_how_late_a_frame_may_be_depends_on_how_far_the_next_is(period_us: int, late_us: int, shown: bool) -> None:
    """A renderer that is busy asks for nothing for a while: one frame a packet, 25 or six a second."""
    buffer = JitterBuffer()
    for number in range(12):
        at_us = number * period_us
        buffer.push(replace(packet(0, frames=1), sequence=number, time_ms=at_us // 1000), at_us)
        buffer.pop(at_us)
    due_us = buffer.next_due_us()
    assert due_us is not None
    assert any(frame.due_us == due_us for frame in buffer.pop(due_us + late_us)) == shown


def test_packets_held_up_for_two_seconds_are_not_shown_when_they_come_at_once() -> None:
    arrivals = [(ready_us(n) + 30_000, packet(n)) for n in range(16)]
    free_us = ready_us(16) + 2_000_000
    arrivals += [(max(ready_us(n) + 30_000, free_us + n * 1000), packet(n)) for n in range(16, 80)]
    _, played, _ = play(arrivals)
    after = [(at, frame) for at, frame in played if at >= free_us]
    assert after[0][0] - free_us <= 300_000
    assert max(at - frame.time_us for at, frame in after) <= 450_000


def test_way_that_grew_by_a_second_is_followed_within_half_a_second() -> None:
    arrivals = [(ready_us(n) + 20_000, packet(n)) for n in range(30)]
    arrivals += [(ready_us(n) + 1_020_000, packet(n)) for n in range(30, 60)]
    buffer, played, _ = play(arrivals)
    grown_us = ready_us(30) + 1_020_000
    shown_us = min(at for at, frame in played if frame.packet.sequence >= 30)
    assert shown_us - grown_us <= 500_000
    assert len([frame for _, frame in played if frame.packet.sequence >= 32]) == 3 * 28
    assert buffer.delay_us <= 250_000


def test_delay_grows_with_jitter_and_comes_back() -> None:
    steady = [(ready_us(n) + 20_000, packet(n)) for n in range(40)]
    buffer, _, _ = play(steady, until_us=ready_us(40))
    before_us = buffer.delay_us
    wobbling = [(ready_us(n) + 20_000 + (100_000 if n % 4 == 0 else 0), packet(n)) for n in range(40, 80)]
    _, played, verdicts = play(wobbling, until_us=ready_us(80), buffer=buffer)
    assert verdicts.count(Verdict.LATE) <= 1
    assert before_us + 80_000 <= buffer.delay_us <= 250_000
    # Once it has grown every frame plays in time.
    assert len({frame.time_us for _, frame in played}) >= 3 * 40 - 6
    play([(ready_us(n) + 20_000, packet(n)) for n in range(80, 200)], until_us=ready_us(200), buffer=buffer)
    assert buffer.delay_us <= before_us + 5_000


def test_buffer_holds_at_most_64_packets_and_does_not_grow() -> None:
    buffer = JitterBuffer()
    sizes = []
    for number in range(3000):
        buffer.push(packet(number), 1_000)
        assert buffer.waiting <= 64
        if number in (400, 2999):
            sizes.append(len(pickle.dumps(buffer)))
    # Equal but for numbers that take a byte more.
    assert sizes[1] <= 1.05 * sizes[0]


def test_report_counts_what_was_lost_since_the_one_before() -> None:
    buffer = JitterBuffer()
    assert buffer.report(0, 0) is None
    for number in range(10):
        buffer.push(packet(number), ready_us(number))
    buffer.report(ready_us(9), 1000)
    for number in (10, 12, 13, 16, 17, 19):
        buffer.push(packet(number), ready_us(number))
    report = buffer.report(ready_us(19) + 30_000, 700)
    assert report is not None
    assert (report.highest, report.expected, report.lost, report.late) == (19, 10, 4, 0)
    assert (report.held_ms, report.interval_ms, report.received_bytes) == (30, 1230, 700)


def test_report_shows_a_queue_that_builds_up() -> None:
    buffer = JitterBuffer()
    for number in range(20):
        buffer.push(packet(number), ready_us(number) + 20_000 + max(0, number - 8) * 25_000)
    report = buffer.report(ready_us(20), 0)
    assert report is not None
    assert 100 <= report.delay_ms <= 300


def test_packets_that_a_busy_machine_holds_up_now_and_then_are_no_queue() -> None:
    buffer = JitterBuffer()
    for number in range(60):
        at = ready_us(number) + 20_000
        busy_for = max(0, 300_000 - at % 500_000) if number > 20 else 0
        buffer.push(packet(number), at + busy_for)
    assert buffer.playout.queueing_us(ready_us(60)) <= 5_000


def test_queue_that_stands_for_ten_seconds_still_shows() -> None:
    buffer = JitterBuffer()
    for number in range(120):
        buffer.push(packet(number), ready_us(number) + 20_000 + (400_000 if number > 20 else 0))
    assert 390_000 <= buffer.playout.queueing_us(ready_us(120)) <= 410_000


@given(
    pattern=st.lists(st.sampled_from([None, 0, 10, 40, 90, 160, 300, 1500]), max_size=60),
    frames=st.integers(1, 8),
    first=st.sampled_from([0, 65_500]),
    start_ms=st.sampled_from([0, 65_000, 1_000_000]),
)
@settings(max_examples=80, deadline=None)
def test_any_loss_and_reordering_plays_forward_once_and_in_time(
    pattern: list[int | None], frames: int, first: int, start_ms: int
) -> None:
    """`pattern`: each packet's extra milliseconds on the way, None where it is lost."""
    arrivals = [
        (
            ready_us(n, frames=frames) + 20_000 + 1000 * late,
            replace(packet(n, frames=frames, start_us=start_ms * 1000), sequence=(first + n) % 65536),
        )
        for n, late in enumerate(pattern)
        if late is not None
    ]
    buffer, played, verdicts = play(arrivals) if arrivals else (JitterBuffer(), [], [])
    assert times(played) == sorted(set(times(played)))
    assert all(at - frame.due_us <= 100_000 + TICK_US for at, frame in played)
    assert len(played) + buffer.skipped == frames * verdicts.count(Verdict.QUEUED)
    assert buffer.received == len(arrivals)


@given(
    packets=st.lists(
        st.tuples(st.integers(0, 65535), st.integers(0, 65535), st.integers(1, 8), st.integers(0, 3_000_000)),
        max_size=80,
    )
)
@settings(max_examples=80, deadline=None)
def test_packets_of_any_content_at_any_time_neither_raise_nor_pile_up(
    packets: list[tuple[int, int, int, int]],
) -> None:
    buffer = JitterBuffer()
    now_us, last_us = 0, None
    for sequence, time_ms, frames, pause_us in packets:
        now_us += pause_us
        spacing_us = 0 if frames == 1 else 204_700
        buffer.push(MotionPacket(sequence, time_ms, spacing_us, frames, None, 0, b""), now_us)
        for frame in buffer.pop(now_us):
            assert last_us is None or frame.due_us <= now_us
            last_us = frame.time_us
        buffer.report(now_us, 0)
        buffer.next_due_us()
    assert buffer.waiting <= 64
