"""How many pictures a second this computer can hold, so that it makes fewer evenly rather than many with gaps.

A Pace is told what every picture took and stands on one rung of a ladder of rates. It steps down when pictures take
more of their period than leaves head room, and up again one rung at a time when they have fitted the next one for a
while; a rung that failed is left alone for longer each time. What counts is the time that passes, not the processor's:
both parties of a call, and both threads of each, may share the same cores. They all step down together and take each
other's load away, so a step goes two rungs at most. No clock of its own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["LADDER", "EvenSteps", "Limit", "Pace", "frames_in_message", "rungs"]

LADDER: Final = (25.0, 20.0, 15.0, 12.5, 10.0, 8.0, 6.0, 5.0)
"""Pictures a second."""
FULL: Final = 0.88
"""Pictures that take more of their period than this do not fit."""
FITS: Final = 0.72
"""On a higher rung they must take no more of it than this."""
BUSY: Final = 0.6
"""Pictures that were left out are this thread's fault only while it is so busy."""
LEFT_OUT: Final = 0.2
"""Share of the pictures that may be left out."""
WINDOW_US: Final = 1_200_000
"""What a step down is decided by."""
SETTLE_US: Final = 1_000_000
"""A step needs so long to show."""
ENOUGH_PICTURES: Final = 4
ENOUGH_S: Final = 1.0
"""Work that a decision is based on, if there are not enough pictures."""
MOST_DOWN: Final = 2
UP_AFTER_US: Final = 4_000_000
"""What a step up is decided by; doubled with every time that the rung has failed, DOUBLINGS times at most."""
DOUBLINGS: Final = 5
HELD_US: Final = 60_000_000
"""A rung that was left sooner after a step up to it has failed."""
IN_USE: Final = 0.8
"""So much of a rung's rate must come before the next is tried: another side may ask for less."""
OWN_SHARE: Final = 0.8
"""With this share of the time on the processor it is the processor that is slow; else other programs have it."""
PAUSE_US: Final = 1_000_000

Limit = Literal["none", "network", "processor", "other programs", "the other side"]
"""What keeps a rate from being the camera's."""


def rungs(fps: float) -> tuple[float, ...]:
    """The rates to choose from where `fps` are wanted, the highest first."""
    return (fps, *(rate for rate in LADDER if rate <= 0.9 * fps))


def frames_in_message(planned: int, planned_fps: float, fps: float) -> int:
    """How many frames a message carries at `fps` where `planned` were chosen for `planned_fps`.

    As many messages a second, to the nearest whole frame: at 12.5 a second frames wait no longer for others than at
    25, and little longer in between.
    """
    return max(1, int(planned * min(1.0, fps / planned_fps) + 0.5))


@dataclass(frozen=True)
class _Done:
    at_us: int
    wall_s: float
    cpu_s: float
    left_out: int


class Pace:
    """Chooses a rate for one thread's work. Told of each picture with `done`; `fps` may be read on any thread."""

    def __init__(self, fps: float = 25.0) -> None:
        self.rates = rungs(fps)
        self.rung = 0
        """Which of the rates holds; 0 is the highest."""
        self.changes = 0
        self.least_fps = fps
        """The lowest rate so far."""
        self._done: deque[_Done] = deque()
        self._changed_us: int | None = None
        self._climbed_us: int | None = None
        self._failed = [0] * len(self.rates)
        self._own_share = 1.0  # lately
        self._own_share_then = 1.0  # when the rate was chosen: with less to do threads wait less for each other

    @property
    def fps(self) -> float:
        """Pictures a second that this thread holds, as far as it has been tried."""
        return self.rates[self.rung]

    @property
    def bound(self) -> Limit:
        """What limits it: the processor itself, or others that use it; "none" on the highest rung."""
        return "none" if self.rung == 0 else self.slow_by

    @property
    def slow_by(self) -> Limit:
        """What would limit it, or does."""
        own_share = min(self._own_share, self._own_share_then)
        return "processor" if own_share >= OWN_SHARE else "other programs"

    def done(self, now_us: int, wall_s: float, cpu_s: float, left_out: int = 0) -> bool:
        """Takes one picture's work, which ended at `now_us`; whether the rate is another now.

        It took `wall_s` seconds, `cpu_s` of them on the processor; `left_out` were to be made since the one before
        and were not.
        """
        if self._changed_us is None:
            self._changed_us = now_us - round(1e6 * wall_s)
        done = self._done
        done.append(_Done(now_us, wall_s, cpu_s, left_out))
        while done[0].at_us < now_us - UP_AFTER_US:
            done.popleft()
        worked_s = sum(one.wall_s for one in done)
        if worked_s > 0:
            self._own_share = sum(one.cpu_s for one in done) / worked_s
        rung = self._lower(now_us)
        if rung is None:
            rung = self._higher(now_us)
        if rung is None:
            return False
        self._go_to(now_us, rung)
        return True

    def _lower(self, now_us: int) -> int | None:
        """The rung to step down to, or None."""
        assert self._changed_us is not None
        recent = [one for one in self._done if one.at_us > now_us - WINDOW_US]
        enough = len(recent) >= ENOUGH_PICTURES
        if not enough and sum(one.wall_s for one in recent) < ENOUGH_S:
            return None
        if self.rung == len(self.rates) - 1 or now_us - self._changed_us < SETTLE_US:
            return None
        each_s = sorted(one.wall_s for one in recent)
        if enough:
            each_s.pop()  # one picture that takes long is no reason
        mean_s = sum(each_s) / len(each_s)
        left_out = sum(one.left_out for one in recent)
        gaps = left_out > LEFT_OUT * (left_out + len(recent)) and mean_s * self.fps > BUSY
        if mean_s * self.fps <= FULL and not gaps:
            return None
        last = min(self.rung + MOST_DOWN, len(self.rates) - 1)
        fitting = (rung for rung in range(self.rung + 1, last) if mean_s * self.rates[rung] <= FULL)
        return next(fitting, last)

    def _higher(self, now_us: int) -> int | None:
        """The rung to step up to, or None."""
        assert self._changed_us is not None
        if self.rung == 0:
            return None
        wait_us = UP_AFTER_US << min(self._failed[self.rung - 1], DOUBLINGS)
        span_us = now_us - self._done[0].at_us
        if now_us - self._changed_us < wait_us or span_us < 0.9 * UP_AFTER_US:
            return None
        count = len(self._done)
        mean_s = sum(one.wall_s for one in self._done) / count
        left_out = sum(one.left_out for one in self._done)
        in_use = 1e6 * (count - 1 + left_out) / span_us >= IN_USE * self.fps
        fits = mean_s * self.rates[self.rung - 1] <= FITS and left_out <= LEFT_OUT * (left_out + count)
        return self.rung - 1 if in_use and fits else None

    def _go_to(self, now_us: int, rung: int) -> None:
        climbed_us = self._climbed_us
        if rung < self.rung:
            self._climbed_us = now_us
        else:
            if climbed_us is not None:
                held = now_us - climbed_us >= HELD_US
                self._failed[self.rung] = 0 if held else self._failed[self.rung] + 1
            self._climbed_us = None
        self.rung = rung
        self._own_share_then = self._own_share
        self.changes += 1
        self.least_fps = min(self.least_fps, self.fps)
        self._changed_us = now_us
        self._done.clear()


class EvenSteps:
    """Which of a source's frames to take for a lower rate: those nearest to even steps in time."""

    def __init__(self, source_fps: float = 25.0) -> None:
        """`source_fps`: of the frames that it is asked about, about."""
        # Just over half a period, so that at 10 of 25 the trembling of a camera does not decide.
        self._near_us = 0.6e6 / source_fps
        self._step_us: float | None = None  # where the step was that the last frame stands for
        self._taken_us = 0
        self.left_out = 0
        """Steps without a frame before the one taken last."""

    def take(self, time_us: int, fps: float) -> bool:
        """Whether the frame of this time is one of `fps` a second."""
        period_us = 1e6 / fps
        since_us = time_us - self._taken_us
        if self._step_us is None or not -PAUSE_US < since_us < PAUSE_US:
            self._step_us, self.left_out = time_us, 0
        else:
            next_us = self._step_us + period_us
            if time_us < next_us - min(self._near_us, period_us / 3):
                return False
            self._step_us = max(next_us, time_us - period_us / 2)
            self.left_out = max(0, int(since_us / period_us - 0.7))
        self._taken_us = time_us
        return True
