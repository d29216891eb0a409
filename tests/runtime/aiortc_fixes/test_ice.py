from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aioice import ice

from kilocall.runtime.peer import Peer
from links import delay, lose, two_peers
from runtime.aiortc_fixes.ends import QUIET


async def state_after_checks_with_a_round_trip_of_600_ms() -> str:
    async with two_peers(QUIET) as (first, second):
        for peer in (first, second):
            delay(peer, 0.3)
        await asyncio.sleep(2.2)
        return first.state


@pytest.fixture
def _frequent_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice, "CONSENT_INTERVAL", 0.1)
    monkeypatch.setattr(ice, "CONSENT_FAILURES", 2)


@pytest.mark.usefixtures("_frequent_checks")
def test_slow_answers_to_consent_checks_are_waited_for() -> None:
    assert asyncio.run(state_after_checks_with_a_round_trip_of_600_ms()) == "open"


@pytest.mark.usefixtures("_frequent_checks")
def test_without_the_correction_a_slow_link_is_closed(without: Any) -> None:
    without("patient consent checks")
    assert asyncio.run(state_after_checks_with_a_round_trip_of_600_ms()) == "closed"


async def connecting_with_first_checks_lost() -> float:
    """Seconds until ICE is done when each side's first check is lost."""
    first, second = Peer(QUIET), Peer(QUIET)
    try:
        offer = await first.offer()
        answering = asyncio.ensure_future(second.answer(offer))
        while not second.endpoints:  # noqa: ASYNC110  (aioice has no event for it)
            await asyncio.sleep(0)
        for peer in (first, second):
            checks = iter([True])
            lose(peer, lambda data, checks=checks: data[0] < 4 and next(checks, False))  # type: ignore[misc]
        await first.accept(await answering)
        began = asyncio.get_running_loop().time()
        while not (first.local_address and second.local_address):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return asyncio.get_running_loop().time() - began
    finally:
        await first.close()
        await second.close()


def test_lost_connectivity_check_is_repeated_soon() -> None:
    # The best of some: the machine may be busy.
    assert min(asyncio.run(connecting_with_first_checks_lost()) for _ in range(3)) < 0.45


def test_without_the_correction_a_lost_check_costs_half_a_second(without: Any) -> None:
    without("quick connectivity checks")
    assert asyncio.run(connecting_with_first_checks_lost()) >= 0.48
