"""Tells the other side every two seconds what became of its motion packets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import Final

from kilocall.call.parts import CallParts

__all__ = ["Reporter"]

REPORT_EVERY_S: Final = 2.0
#: While nothing comes there is nothing to report; a sign of life now and then is enough.
IDLE_REPORT_EVERY_S: Final = 10.0


class Reporter:
    """`tick` is called once a second."""

    def __init__(self, parts: CallParts) -> None:
        self._parts = parts
        self._at = 0.0
        self._packets = 0
        self._bytes = 0

    def opened(self) -> None:
        """Another connection, whose traffic is counted from nothing."""
        self._bytes = self._packets = 0

    async def tick(self) -> None:
        parts = self._parts
        session, peer = parts.session, parts.link.peer
        now = time.monotonic()
        if session is None or peer is None or not session.greeted or now - self._at < REPORT_EVERY_S - 0.1:
            return
        packets = parts.receiving.jitter.received
        if packets == self._packets and now - self._at < IDLE_REPORT_EVERY_S:
            return
        total = peer.traffic()[1].total_bytes
        received, self._bytes = total - self._bytes, total
        self._at, self._packets = now, packets
        with contextlib.suppress(asyncio.CancelledError):
            answer = parts.receiving.report(max(0, received))
            if not answer.cancelled():
                report = await asyncio.wrap_future(answer)
                if report is not None:
                    # What this machine itself was late by would look like a queue on the way.
                    report = replace(report, delay_ms=max(0, report.delay_ms - round(parts.loop_lag.milliseconds)))
                session.report(report)
