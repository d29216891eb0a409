"""The bad link that every method is sent over."""

from __future__ import annotations

import bisect
import random
from dataclasses import dataclass
from typing import Final, Literal

from kilocall.proto.errors import BadInput

__all__ = ["OUTAGE_S", "PLAYOUT_S", "Link", "Outages", "Pattern"]

Pattern = Literal["random", "bursts"]

OUTAGE_S: Final = 0.2
#: How old a frame may be when it arrives and still be shown, beside the way itself: the most that the receiver's
#: buffer waits.
PLAYOUT_S: Final = 0.25


class Outages:
    """When a link is out; the same for the same `seed`."""

    def __init__(self, loss: float, pattern: Pattern, seed: str) -> None:
        if not 0 <= loss < 1:
            raise BadInput(f"loss is {loss}, allowed are 0 to below 1")
        self._random = random.Random(f"{pattern} {loss} {seed}")
        self._loss, self._pattern = loss, pattern
        self._turns_s = [0.0]  # up from 0 on, down from the next, and so on
        self.sent = self.lost = 0

    @property
    def lost_share(self) -> float:
        """Of the packets that were sent."""
        return self.lost / max(1, self.sent)

    def loses(self, at_s: float) -> bool:
        """Whether a packet sent at this time is lost."""
        out = self._draw(at_s)
        self.sent += 1
        self.lost += out
        return out

    def _draw(self, at_s: float) -> bool:
        if self._loss == 0:
            return False
        if self._pattern == "random":
            return self._random.random() < self._loss
        while self._turns_s[-1] <= at_s:
            up = len(self._turns_s) % 2 == 1
            mean = OUTAGE_S * (1 - self._loss) / self._loss if up else OUTAGE_S
            self._turns_s.append(self._turns_s[-1] + self._random.expovariate(1 / mean))
        return bisect.bisect_right(self._turns_s, at_s) % 2 == 0


@dataclass(frozen=True)
class Link:
    """Both directions. A method gets one of its own, but the same outages as all others."""

    forward: Outages
    back: Outages
    round_trip_s: float

    def deliver(self, at_s: float, gap_s: float, *, surely: bool, again: bool) -> tuple[bool, int]:
        """Whether a packet comes in time, and how often it was sent; with `again` what is lost is asked for.

        What is missing shows with the next picture, `gap_s` later.
        """
        if surely or not self.forward.loses(at_s):
            return True, 1
        sent, ask_s = 1, at_s + gap_s + self.round_trip_s / 2
        while again and ask_s + self.round_trip_s / 2 - at_s <= PLAYOUT_S:
            if not self.back.loses(ask_s):
                sent += 1
                if not self.forward.loses(ask_s + self.round_trip_s / 2):
                    return True, sent
            ask_s += max(self.round_trip_s, gap_s)
        return False, sent
