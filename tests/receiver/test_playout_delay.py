from __future__ import annotations

from kilocall.receiver.playout_delay import Arrival, PlayoutDelay

#: Between packets of three frames at 25 a second.
APART_US = 120_000
#: From the first frame of such a packet to its last.
SPAN_US = 80_000


def arrived(delay: PlayoutDelay, way_us: int, *, packets: int = 1, start_us: int = 0) -> int:
    """Packets that took `way_us` each from the capture of their last frame; when the newest came."""
    now_us = start_us
    for _ in range(packets):
        now_us += APART_US
        delay.learn(Arrival(now_us, SPAN_US + way_us, way_us, SPAN_US + way_us))
    return now_us


def test_nothing_is_known_before_the_first_packet() -> None:
    delay = PlayoutDelay()
    assert delay.offset_us is None
    assert delay.delay_us == 60_000
    assert delay.queueing_us(0) == 0


def test_first_frame_of_most_packets_is_in_time() -> None:
    delay = PlayoutDelay()
    arrived(delay, 20_000, packets=10)
    assert delay.offset_us == SPAN_US + 20_000 + 10_000  # and a tick of the display
    assert delay.delay_us == SPAN_US + 10_000


def test_offset_rises_at_once_with_a_late_packet_and_sinks_slowly() -> None:
    delay = PlayoutDelay()
    now_us = arrived(delay, 20_000, packets=10)
    before_us = delay.offset_us
    assert before_us is not None
    now_us = arrived(delay, 180_000, start_us=now_us)
    assert delay.offset_us == 190_000  # its last frame is in time, its first one is not waited for
    now_us = arrived(delay, 20_000, packets=34, start_us=now_us)  # the late packet is forgotten
    delay.sink(now_us + 500_000)
    assert before_us < delay.offset_us < 190_000
    delay.sink(now_us + 10_000_000)
    assert delay.offset_us == before_us


def test_nothing_waits_longer_than_a_quarter_of_a_second_more_than_the_fastest_packet() -> None:
    delay = PlayoutDelay()
    now_us = arrived(delay, 20_000, packets=10)
    arrived(delay, 900_000, start_us=now_us)
    assert delay.delay_us == 250_000


def test_repeated_frames_that_make_up_for_lost_ones_are_waited_for_from_the_second_time_on() -> None:
    delay = PlayoutDelay()
    now_us = arrived(delay, 20_000, packets=10)
    before_us = delay.offset_us
    assert before_us is not None
    delay.learn(Arrival(now_us + APART_US, 100_000, 20_000, 220_000))
    assert delay.offset_us is not None
    assert delay.offset_us <= before_us
    delay.learn(Arrival(now_us + 3 * APART_US, 100_000, 20_000, 220_000))
    assert delay.offset_us == 230_000


def test_late_packets_in_a_row_mean_that_the_way_is_longer_unless_something_was_played() -> None:
    delay = PlayoutDelay()
    now_us = arrived(delay, 20_000, packets=10)
    way_us, late = 500_000, []
    for played_at_us in (now_us, now_us, None):
        now_us = arrived(delay, way_us, start_us=now_us)
        late.append(delay.late(now_us, now_us - way_us, played_at_us))
    assert late == [False, False, True]
    assert delay.offset_us == SPAN_US + way_us + 10_000


def test_packets_that_come_faster_than_they_were_made_end_a_stall() -> None:
    delay = PlayoutDelay()
    now_us = arrived(delay, 20_000, packets=10)
    late = [delay.late(now_us + 1000 * number, now_us + APART_US * number, None) for number in range(3)]
    assert late == [False, False, False]
    delay.in_time()
    assert not delay.late(now_us, now_us, None)  # the first of another row


def test_queue_is_what_even_the_fastest_of_late_waited() -> None:
    delay = PlayoutDelay()
    now_us = arrived(delay, 20_000, packets=20)
    assert delay.queueing_us(now_us) == 0
    now_us = arrived(delay, 320_000, packets=6, start_us=now_us)
    assert delay.queueing_us(now_us) == 300_000
    delay.forget()
    assert (delay.queueing_us(now_us), delay.offset_us) == (0, None)
