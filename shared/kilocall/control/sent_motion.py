"""What becomes of the motion packets that were sent: the way there and back, and the share that is lost."""

from __future__ import annotations

from kilocall.control.rate_control import Feedback
from kilocall.proto.control import ReceiverReport
from kilocall.proto.limits import HISTORY

__all__ = ["SentMotion"]


class SentMotion:
    """Told of every packet that is sent, and of every report about them. Times in microseconds of one clock."""

    def __init__(self) -> None:
        self.rtt_ms: float | None = None
        self.loss: float | None = None
        """Share of the packets that the other side missed lately."""
        self._sent_at: dict[int, int] = {}

    def restart(self) -> None:
        """A new connection counts its packets anew."""
        self._sent_at.clear()

    def sent(self, sequence: int, now_us: int) -> None:
        self._sent_at[sequence] = now_us
        while len(self._sent_at) > HISTORY:
            del self._sent_at[next(iter(self._sent_at))]

    def take(
        self, report: ReceiverReport, arrived_us: int, *, now_us: int, own_lag_ms: float, loop_lag_ms: float
    ) -> Feedback:
        """What the report says of the network; this machine is late by so much before packets leave and after reports
        have come, which is none of the network's."""
        sent_us = self._sent_at.get(report.highest)
        if sent_us is not None:
            rtt = (arrived_us - sent_us) / 1000 - report.held_ms
            self.rtt_ms = rtt if rtt >= 0 else self.rtt_ms
        self.loss = report.lost / report.expected if report.expected else self.loss
        interval_s = max(report.interval_ms, 1) / 1000
        return Feedback(
            now_us=now_us,
            loss=report.lost / report.expected if report.expected else 0.0,
            delay_ms=max(0.0, report.delay_ms - own_lag_ms),
            received_bps=8 * report.received_bytes / interval_s,
            rtt_ms=None if self.rtt_ms is None else max(0.0, self.rtt_ms - loop_lag_ms),
        )
