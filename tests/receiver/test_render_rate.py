from __future__ import annotations

import pytest

from kilocall.receiver.render_rate import RenderRate


def slowed(rate: RenderRate, took_s: float) -> None:
    """As after four seconds in which every picture took so long."""
    for number in range(round(4 / took_s)):
        rate.pace.done(round(1e6 * number * took_s), took_s, took_s)


def test_every_frame_is_rendered_while_this_computer_holds_them_all() -> None:
    rate = RenderRate()
    assert all(rate.takes(time_us) for time_us in (0, 40_000, 41_000, 42_000, 80_000))


def test_of_more_frames_than_it_holds_those_on_even_steps_are_rendered() -> None:
    rate = RenderRate()
    slowed(rate, 0.07)
    assert rate.pace.fps == 12.5
    taken = [time_us for time_us in range(10_000_000, 11_000_000, 40_000) if rate.takes(time_us)]
    assert taken == list(range(10_000_000, 11_000_000, 80_000))


def test_a_frame_stands_for_those_that_were_not_sent_because_this_side_asked_for_fewer() -> None:
    rate = RenderRate()
    rate.count(80_000)  # nothing was asked for: the other side has lost one, or none was due
    assert rate.wanted == 1
    slowed(rate, 0.07)
    rate.count(80_000)
    assert rate.wanted == pytest.approx(3)
    rate.count(5_000_000)  # a pause is none of its making
    assert rate.wanted == pytest.approx(4)


def test_another_camera_is_begun_with_anew_and_what_was_told_holds_no_more() -> None:
    rate = RenderRate()
    assert not rate.expect(25)
    assert not rate.expect(10)
    assert rate.pace.rates == (10, 8, 6, 5)
    slowed(rate, 0.15)
    rate.count(0)
    assert rate.expect(25)
    assert (rate.pace.fps, rate.wanted) == (25, 1)
