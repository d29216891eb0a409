"""When a call came how far: two in the room, connected, the first picture, lost and connected again."""

from __future__ import annotations

from collections import deque
from typing import Final, TypedDict

from kilocall.call.report import PhaseChange

__all__ = ["Milestones", "MilestonesReport"]

MOST_PHASES: Final = 200


class MilestonesReport(TypedDict):
    """Fields of a CallReport."""

    seconds: float
    phases: list[PhaseChange]
    reconnect_s: list[float]
    first_picture_ms: float | None
    first_picture_after_open_ms: float | None


class Milestones:
    """Times are seconds on one clock."""

    def __init__(self, now: float) -> None:
        self.began = now
        self.first_picture: tuple[float, float] | None = None
        """How long after both were in the room, and after they were connected."""
        self._paired_at: float | None = None
        self._opened_at: float | None = None
        self._lost_at: float | None = None
        self._reconnects: list[float] = []
        self._phases: deque[PhaseChange] = deque(maxlen=MOST_PHASES)

    def paired(self, now: float) -> None:
        """Two are in the room."""
        self._paired_at = self._paired_at or now

    def lost(self, now: float) -> None:
        """The connection is gone, or about to be replaced."""
        self._lost_at = now

    def opened(self, now: float) -> None:
        """There is a connection, or another one."""
        self._opened_at = self._opened_at or now
        if self._lost_at is not None:
            self._reconnects.append(now - self._lost_at)
            self._lost_at = None

    def picture(self, now: float) -> float | None:
        """A picture of the other side is ready; if it is the first, how long after both were in the room."""
        if self.first_picture is not None:
            return None
        self.first_picture = now - (self._paired_at or now), now - (self._opened_at or now)
        return self.first_picture[0]

    def phase(self, at_us: int, phase: str, reason: str) -> None:
        """The phase may have changed."""
        last = self._phases[-1] if self._phases else None
        if last is None or (last.phase, last.reason) != (phase, reason):
            self._phases.append(PhaseChange(at_us=at_us, phase=phase, reason=reason))

    def report(self, now: float) -> MilestonesReport:
        first = self.first_picture
        return {
            "seconds": now - self.began,
            "phases": list(self._phases),
            "reconnect_s": self._reconnects,
            "first_picture_ms": 1000 * first[0] if first else None,
            "first_picture_after_open_ms": 1000 * first[1] if first else None,
        }
