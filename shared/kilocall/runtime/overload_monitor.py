"""Whether this computer makes as many pictures a second as there are to make, and how to say that it does not.

A renderer that is slower than the pictures come is no error: fewer are made. But whoever looks must be told why the
picture is not as smooth as it could be.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

from kilocall.runtime.pace import Limit

__all__ = ["OverloadMonitor"]

#: What is counted: long enough for a picture every few seconds, and how much of it there must be.
WINDOW_US: Final = 10_000_000
ENOUGH_US: Final = 3_000_000
#: A smaller share of the pictures than this is told, until it is more than that again.
TOO_FEW: Final = 0.7
ENOUGH: Final = 0.85
#: A stage is to blame that is busy for so much of the time between two pictures; otherwise something else is.
BUSY: Final = 0.8


class OverloadMonitor:
    """Compares what is made with what there is to make, over the last seconds."""

    def __init__(self, verb: Literal["shows", "sends"], family: str, fps: float, *, light: str) -> None:
        """`verb` is what this computer does with pictures; `fps` how many there are until that has been counted.
        `light` is the family that needs no GPU, which others are advised to."""
        self._verb, self._family, self._fps, self._light = verb, family, fps, light
        self._counts: deque[tuple[int, float, int]] = deque()
        self._slow_by: Limit = "processor"
        self.text = ""
        """What to tell people; empty while all is well."""

    def reset(self) -> None:
        """Nothing is to be made now: what was counted before does not matter any more."""
        self._counts.clear()
        self.text = ""

    def look(self, at_us: int, due: float, made: int, each_ms: float | None, slow_by: Limit = "processor") -> str:
        """`text` after another look at counters that only grow.

        `due` pictures of which `made` were made by the time `at_us`, microseconds on whatever clock they are counted
        by; making one takes `each_ms`, and `slow_by` is what makes it take so long. Counters that have begun anew are
        noticed.
        """
        self._slow_by = slow_by
        counts = self._counts
        if counts and (at_us < counts[-1][0] or due < counts[-1][1] or made < counts[-1][2]):
            self.reset()
        counts.append((at_us, due, made))
        while len(counts) > 2 and at_us - counts[1][0] >= WINDOW_US:
            counts.popleft()
        span_us = at_us - counts[0][0]
        if each_ms is None:
            return self.text
        if span_us < ENOUGH_US:
            # One picture can take longer than all that has been seen yet.
            if 1000 * each_ms >= ENOUGH_US:
                self.text = self._say(1000 / each_ms, self._fps)
            return self.text
        due_fps, made_fps = 1e6 * (due - counts[0][1]) / span_us, 1e6 * (made - counts[0][2]) / span_us
        busy = each_ms * due_fps / 1000
        if made_fps >= ENOUGH * due_fps or busy < BUSY:
            self.text = ""
        elif self.text or made_fps < TOO_FEW * due_fps:
            self.text = self._say(made_fps, due_fps)
        return self.text

    def _say(self, made_fps: float, due_fps: float) -> str:
        made = f"{made_fps:.0f}" if made_fps >= 10 else f"{made_fps:.1f}" if made_fps >= 0.1 else f"{made_fps:.1g}"
        said = f"this computer {self._verb} {made} of {due_fps:.0f} pictures a second"
        if self._family == self._light:
            others = self._slow_by == "other programs"
            return f"{said}: {'other programs are keeping it busy' if others else 'its processor makes no more'}"
        return (
            f"{said} with {self._family}; {self._light} is made for computers without a GPU: "
            "start both sides without --family"
        )
