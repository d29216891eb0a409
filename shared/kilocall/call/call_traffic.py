"""The traffic of a call: all of it, that after the pictures have gone over, and that while nobody is seen or heard."""

from __future__ import annotations

from typing import Final, TypedDict

from kilocall.call.report import Rates, TrafficMeter, Window
from kilocall.runtime.traffic import Traffic

__all__ = ["CallTraffic", "TrafficReport"]

#: After both pictures have gone over, so long until the rates count as steady.
SETTLE_S: Final = 2.0
#: After the last motion and speech, so long until a connection counts as idle.
IDLE_AFTER_S: Final = 5.0


class TrafficReport(TypedDict):
    """Fields of a CallReport."""

    out: Rates
    into: Rates
    steady_out: Rates
    steady_into: Rates
    idle_out: Rates
    idle_into: Rates


class CallTraffic:
    """Sums the traffic of one connection after the other. Times are seconds on one clock."""

    def __init__(self, now: float) -> None:
        self._meter_out, self._meter_in = TrafficMeter(), TrafficMeter()
        self._whole, self._steady, self._idle = Window(), Window(), Window()
        self._packets_before = (0, 0)
        self._busy_at = now
        self._settled_at: float | None = None

    @property
    def seconds(self) -> float:
        """How long there was a connection."""
        return self._whole.seconds

    def opened(self, now: float) -> None:
        """Another connection, whose traffic is counted from nothing."""
        self._busy_at = now
        self._meter_out.new_connection()
        self._meter_in.new_connection()

    def look(
        self, now: float, seconds: float, traffic: tuple[Traffic, Traffic], *, packets: tuple[int, int], exchanged: bool
    ) -> tuple[Rates, Rates]:
        """Rates out and in of the last `seconds`. `traffic` is all that was sent and received on this connection,
        `packets` the motion packets of the call; `exchanged` says whether both sides have each other's pictures."""
        out, into = self._meter_out.look(traffic[0]), self._meter_in.look(traffic[1])
        self._whole.add(seconds, out, into)
        if exchanged and self._settled_at is None:
            self._settled_at = now + SETTLE_S
        if self._settled_at is not None and now >= self._settled_at + seconds:
            self._steady.add(seconds, out, into)
        if packets != self._packets_before or out["audio"] or into["audio"]:
            self._packets_before, self._busy_at = packets, now
        elif now - seconds >= self._busy_at + IDLE_AFTER_S:
            self._idle.add(seconds, out, into)
        return Rates.of(out, seconds), Rates.of(into, seconds)

    def report(self) -> TrafficReport:
        whole, steady, idle = self._whole, self._steady, self._idle
        return {
            "out": Rates.of(whole.out, whole.seconds),
            "into": Rates.of(whole.into, whole.seconds),
            "steady_out": Rates.of(steady.out, steady.seconds),
            "steady_into": Rates.of(steady.into, steady.seconds),
            "idle_out": Rates.of(idle.out, idle.seconds),
            "idle_into": Rates.of(idle.into, idle.seconds),
        }
