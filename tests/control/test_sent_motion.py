from __future__ import annotations

from dataclasses import replace

from kilocall.control.rate_control import Feedback
from kilocall.control.sent_motion import SentMotion
from kilocall.proto.control import ReceiverReport

REPORT = ReceiverReport(7, 100, 2000, 20, 5, 1, 40, 3000)


def taken(
    motion: SentMotion, report: ReceiverReport, now_us: int, *, own_lag_ms: float = 0.0, loop_lag_ms: float = 0.0
) -> Feedback:
    return motion.take(report, now_us, now_us=now_us, own_lag_ms=own_lag_ms, loop_lag_ms=loop_lag_ms)


def test_report_says_rate_loss_and_the_way_there_and_back() -> None:
    motion = SentMotion()
    motion.sent(7, 1_000_000)
    feedback = taken(motion, REPORT, 1_150_000)
    assert feedback == Feedback(now_us=1_150_000, loss=0.25, delay_ms=40, received_bps=12_000, rtt_ms=50)
    assert (motion.rtt_ms, motion.loss) == (50, 0.25)


def test_what_this_machine_is_late_by_is_taken_off_and_never_more_than_there_was() -> None:
    motion = SentMotion()
    motion.sent(7, 1_000_000)
    feedback = taken(motion, REPORT, 1_150_000, own_lag_ms=15, loop_lag_ms=20)
    assert (feedback.delay_ms, feedback.rtt_ms) == (25, 30)
    feedback = taken(motion, REPORT, 1_150_000, own_lag_ms=90, loop_lag_ms=90)
    assert (feedback.delay_ms, feedback.rtt_ms) == (0, 0)


def test_report_of_a_packet_that_is_not_remembered_leaves_the_way_as_it_was() -> None:
    motion = SentMotion()
    assert taken(motion, REPORT, 1_000_000).rtt_ms is None
    motion.sent(7, 1_000_000)
    taken(motion, REPORT, 1_150_000)
    for number in range(8, 80):
        motion.sent(number, 2_000_000)
    assert taken(motion, REPORT, 3_000_000).rtt_ms == 50
    motion.restart()
    assert taken(motion, replace(REPORT, highest=79), 3_000_000).rtt_ms == 50


def test_without_packets_to_expect_the_loss_is_that_of_before() -> None:
    motion = SentMotion()
    taken(motion, REPORT, 0)
    assert taken(motion, replace(REPORT, expected=0, lost=0), 0).loss == 0
    assert motion.loss == 0.25
