"""Tells the other side every two seconds what became of its motion packets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import Final

from kilocall.call.link import Link
from kilocall.control.session import Session
from kilocall.receiver.live import ReceivePipeline
from kilocall.runtime.lag import LoopLag

__all__ = ["Reporter"]

REPORT_EVERY_S: Final = 2.0
#: While nothing comes there is nothing to report; a sign of life now and then is enough.
IDLE_REPORT_EVERY_S: Final = 10.0


class Reporter:
    """`tick` is called once a second."""

    def __init__(self, session: Session, link: Link, receiving: ReceivePipeline, lag: LoopLag) -> None:
        self._session, self._link, self._receiving, self._lag = session, link, receiving, lag
        self._at = 0.0
        self._packets = 0
        self._bytes = 0

    def opened(self) -> None:
        """Another connection, whose traffic is counted from nothing."""
        self._bytes = self._packets = 0

    async def tick(self) -> None:
        peer = self._link.peer
        now = time.monotonic()
        if peer is None or not self._session.greeted or now - self._at < REPORT_EVERY_S - 0.1:
            return
        packets = self._receiving.motion.jitter.received
        if packets == self._packets and now - self._at < IDLE_REPORT_EVERY_S:
            return
        total = peer.traffic()[1].total_bytes
        received, self._bytes = total - self._bytes, total
        self._at, self._packets = now, packets
        with contextlib.suppress(asyncio.CancelledError):
            answer = self._receiving.report(max(0, received))
            if not answer.cancelled():
                report = await asyncio.wrap_future(answer)
                if report is not None:
                    # What this machine itself was late by would look like a queue on the way.
                    report = replace(report, delay_ms=max(0, report.delay_ms - round(self._lag.milliseconds)))
                self._session.report(report)
