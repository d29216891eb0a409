"""Cores as slow as an older processor's: a share of each one's time is taken away, in slices too short to be noticed.

On each core a process of the first real-time class spins for its share of every 1.5 ms; what else runs there comes that
much later, and its own clock of processor time does not count it. With networks held to AVX2 as well, a new processor
so stands in for an older one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from kilocall.proto.errors import BadInput
from kilocall.runtime.children import module_command, same_modules

__all__ = ["MOST_TAKEN", "slower_cores", "why_unavailable"]

#: Linux leaves the other classes a twentieth.
MOST_TAKEN: Final = 0.9
SLICE_S: Final = 0.0015
_PRIORITY: Final = 50


def why_unavailable() -> str | None:
    """Why cores cannot be made slower here; None when they can."""
    if sys.platform != "linux":
        return "real-time priority for a thread is a matter of Linux"
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except PermissionError:
        return "real-time priority needs root"
    os.sched_setscheduler(0, *before)
    return None


@contextmanager
def slower_cores(taken: float) -> Iterator[None]:
    """While inside, every core that this process may use has `taken` (0..MOST_TAKEN) of its time taken away.

    Raises BadInput for another share, and where this user may not do so.
    """
    if not 0 <= taken <= MOST_TAKEN:
        raise BadInput(f"share taken of each core is {taken:g}; allowed are 0 to {MOST_TAKEN:g}")
    if taken == 0:
        yield
        return
    if (why := why_unavailable()) is not None:
        raise BadInput(f"cores cannot be made slower here: {why}")
    takers: list[subprocess.Popen[str]] = []
    try:
        for core in sorted(os.sched_getaffinity(0)):
            command = module_command(__name__, str(core), str(taken))
            takers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=same_modules()))
        for taker in takers:
            assert taker.stdout is not None
            if taker.stdout.readline() != "taking\n":
                raise BadInput("cores cannot be made slower here: what takes their time has ended")
        yield
    finally:
        for taker in takers:
            taker.kill()
            taker.communicate()


def _take(core: int, share: float) -> None:
    """Until whoever started it is gone."""
    parent = os.getppid()
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    print("taking", flush=True)
    next_s = time.perf_counter()
    while os.getppid() == parent:
        until_s = time.perf_counter() + share * SLICE_S
        while time.perf_counter() < until_s:
            pass
        next_s = max(next_s + SLICE_S, time.perf_counter())
        time.sleep(max(0.0, next_s - time.perf_counter()))


if __name__ == "__main__":
    _take(int(sys.argv[1]), float(sys.argv[2]))
