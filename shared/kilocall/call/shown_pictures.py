"""The pictures that a call shows of the other side: how many, how late, and how long each stood."""

from __future__ import annotations

from typing import TypedDict

from kilocall.call.report import Delays, Gaps, Minute, Minutes, Pauses, percentile

__all__ = ["PicturesReport", "ShownPictures"]


class PicturesReport(TypedDict):
    """Fields of a CallReport."""

    pictures: int
    delay_p50_ms: float | None
    delay_p95_ms: float | None
    longest_gap_ms: float
    gaps_ms: Gaps
    minutes: list[Minute]


class ShownPictures:
    """Told of every picture when it is ready, and once a second of the time."""

    def __init__(self) -> None:
        self.count = 0
        self.last_us = 0
        """When the newest of them was ready, on this side's clock."""
        self._longest_gap_us = 0
        self._delays, self._pauses, self._minutes = Delays(), Pauses(), Minutes()
        self._count_before = 0

    def add(self, now: float, made_us: int, *, delay_ms: float | None, face_since_us: int | None) -> None:
        """A picture was ready at `made_us`; the other side's face is seen since `face_since_us`, None: is not."""
        if delay_ms is not None:
            self._delays.add(delay_ms)
        self._minutes.add(now, delay_ms)
        if self.last_us and face_since_us is not None:
            # A pause in which no face was seen is no gap of the transport.
            stood_us = made_us - max(self.last_us, face_since_us)
            self._longest_gap_us = max(self._longest_gap_us, stood_us)
            self._pauses.add(made_us, stood_us)
        self.last_us = made_us
        self.count += 1

    def look(self, now: float) -> tuple[int, float | None]:
        """How many there were since the last look, and their delay in milliseconds, where it is known."""
        self._minutes.look(now)
        added, self._count_before = self.count - self._count_before, self.count
        return added, self._delays.take_recent()

    def report(self, now: float) -> PicturesReport:
        delays = list(self._delays.all)
        return {
            "pictures": self.count,
            "delay_p50_ms": percentile(delays, 0.5),
            "delay_p95_ms": percentile(delays, 0.95),
            "longest_gap_ms": self._longest_gap_us / 1000,
            "gaps_ms": self._pauses.report(),
            "minutes": self._minutes.report(now),
        }
