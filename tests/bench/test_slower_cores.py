"""Cores that are made slower: work takes longer than the processor time that it has."""

from __future__ import annotations

import time

import psutil
import pytest

from kilocall.bench.slower_cores import slower_cores, why_unavailable
from kilocall.proto.errors import BadInput

WHY_NOT = why_unavailable()
can_be_made_slower = pytest.mark.skipif(WHY_NOT is not None, reason=f"no slower cores here: {WHY_NOT}")


def slowed() -> float:
    """How many times as long as its processor time some work takes; of three the least: others may be at work too."""
    found = []
    for _ in range(3):
        began_s, had_s = time.perf_counter(), time.thread_time()
        while time.thread_time() - had_s < 0.1:
            pass
        found.append((time.perf_counter() - began_s) / (time.thread_time() - had_s))
    return min(found)


@can_be_made_slower
def test_work_takes_as_much_longer_as_is_taken_away() -> None:
    with slower_cores(0.5):
        assert slowed() > 1.6


@can_be_made_slower
def test_nobody_takes_anything_once_it_is_over_or_has_failed() -> None:
    before = psutil.Process().children()
    with pytest.raises(ZeroDivisionError), slower_cores(0.3):
        raise ZeroDivisionError
    assert psutil.Process().children() == before


@pytest.mark.parametrize("share", [-0.1, 0.95, float("nan")])
def test_other_shares_are_refused(share: float) -> None:
    with pytest.raises(BadInput, match=r"allowed are 0 to 0\.9"), slower_cores(share):
        pass


def test_nothing_is_nothing() -> None:
    with slower_cores(0):
        pass
