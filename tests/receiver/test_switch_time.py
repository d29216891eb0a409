"""From which frame on something holds, where times of frames are known but for multiples of 65.5 s."""

from __future__ import annotations

import pytest

from kilocall.proto.motion_packet import TIMES_MS
from kilocall.receiver.switch_time import SwitchTime

FRAME_US = 40_000
WRAP_US = TIMES_MS * 1000
#: How far the sender's clock is ahead of what frames have, whose times are counted on from the first.
AHEAD_US = 7 * WRAP_US
PAUSES_S = (1, 33, 40, 50, 65, 66, 99, 200)


def test_it_holds_from_the_frame_on_that_is_named() -> None:
    since = SwitchTime(AHEAD_US + 10 * FRAME_US, 7 * FRAME_US)
    assert [since.reached(number * FRAME_US) for number in (8, 9, 10, 11)] == [False, False, True, True]


def test_a_frame_whose_time_is_rounded_is_the_one_that_is_named() -> None:
    since = SwitchTime(AHEAD_US + 10 * FRAME_US + 499, 0)
    assert since.reached(10 * FRAME_US - 1000)


@pytest.mark.parametrize("pause_s", PAUSES_S)
def test_what_is_said_before_a_pause_holds_after_it(pause_s: int) -> None:
    since = SwitchTime(AHEAD_US + FRAME_US, 0)
    assert not since.reached(0)
    assert since.reached(pause_s * 1_000_000)


@pytest.mark.parametrize("pause_s", PAUSES_S)
def test_what_is_said_after_a_pause_holds_from_the_next_frame_on(pause_s: int) -> None:
    assert SwitchTime(AHEAD_US + pause_s * 1_000_000, 0).reached(pause_s * 1_000_000)


@pytest.mark.parametrize("first_us", [0, WRAP_US // 2 - FRAME_US, -WRAP_US // 2, -FRAME_US])
def test_what_is_said_before_any_frame_has_come_is_near_the_first(first_us: int) -> None:
    since = SwitchTime(AHEAD_US + first_us, None)
    assert since.reached(first_us)
    later = SwitchTime(AHEAD_US + first_us + 5 * FRAME_US, None)
    assert [later.reached(first_us + number * FRAME_US) for number in (0, 4, 5)] == [False, False, True]
    assert later.reached(first_us + 50_000_000)
