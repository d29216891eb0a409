from __future__ import annotations

import pytest

from kilocall.call.report import Minutes


def test_minutes_count_from_the_first_picture() -> None:
    minutes = Minutes()
    minutes.look(100.0)
    assert minutes.report(200.0) == []
    for number in range(90 * 10):
        minutes.add(1000 + number / 10, 100.0 if number % 10 else 200.0)
    first, rest = minutes.report(1090.0)
    assert (first.seconds, first.fps_in) == (60, 10)
    assert (first.delay_p50_ms, first.delay_p95_ms) == (100, 200)
    assert (rest.seconds, rest.fps_in) == pytest.approx((30, 10))


def test_a_minute_without_pictures_is_one() -> None:
    minutes = Minutes()
    minutes.add(0.0, 80.0)
    minutes.add(130.0, None)
    first, second, third = minutes.report(150.0)
    assert (first.fps_in, second.fps_in, third.fps_in) == pytest.approx((1 / 60, 0, 1 / 30))
    assert second.delay_p50_ms is None
    # The clocks of the two sides differ: there is a picture, but no delay.
    assert third.delay_p50_ms is None


def test_no_more_than_a_day_is_kept() -> None:
    minutes = Minutes()
    minutes.add(0.0, None)
    assert len(minutes.report(60.0 * 2000)) == Minutes.MOST
