"""How late this machine itself is, so that a busy processor is not taken for a full network."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

__all__ = ["DelayAboveMinimum", "LoopLag"]

EVERY_S: Final = 0.1
RECENT: Final = 15
LEAST_OF: Final = 300


class DelayAboveMinimum:
    """How much the last values lie above the least of many: by how much something takes longer than it need."""

    def __init__(self, recent: int = RECENT, least_of: int = LEAST_OF) -> None:
        self._recent: deque[float] = deque(maxlen=recent)
        self._all: deque[float] = deque(maxlen=least_of)

    def add(self, value: float) -> None:
        self._recent.append(value)
        self._all.append(value)

    @property
    def value(self) -> float:
        """Median of the last ones minus the least; 0 without any."""
        if not self._recent:
            return 0.0
        return sorted(self._recent)[len(self._recent) // 2] - min(self._all)


class LoopLag:
    """How late the event loop wakes a task that sleeps: what the arrival of every packet is late by, too."""

    def __init__(self) -> None:
        self._late_ms: deque[float] = deque(maxlen=RECENT)

    @property
    def milliseconds(self) -> float:
        """Median of the last 1.5 s."""
        return sorted(self._late_ms)[len(self._late_ms) // 2] if self._late_ms else 0.0

    async def watch(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self._late_ms.append(max(0.0, 1000 * (loop.time() - due)))
