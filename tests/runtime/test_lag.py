from __future__ import annotations

import asyncio
import time

from kilocall.runtime.lag import DelayAboveMinimum, LoopLag


def test_excess_is_what_the_last_values_take_longer_than_the_least() -> None:
    excess = DelayAboveMinimum(recent=3, least_of=10)
    assert excess.value == 0
    for value in (50, 20, 22, 21):
        excess.add(value)
    assert excess.value == 1
    for value in (90, 95, 91):
        excess.add(value)
    assert excess.value == 71


def test_excess_forgets_a_least_of_long_ago() -> None:
    excess = DelayAboveMinimum(recent=3, least_of=5)
    for value in (20, *[80] * 5):
        excess.add(value)
    assert excess.value == 0


def test_loop_that_is_kept_busy_is_late() -> None:
    async def lag(busy_s: float) -> float:
        lag = LoopLag()
        task = asyncio.create_task(lag.watch())
        until = asyncio.get_running_loop().time() + 0.8
        while asyncio.get_running_loop().time() < until:
            time.sleep(busy_s)  # noqa: ASYNC251  (that is the point)
            await asyncio.sleep(0)
        task.cancel()
        return lag.milliseconds

    assert LoopLag().milliseconds == 0
    assert asyncio.run(lag(0.15)) > 30
