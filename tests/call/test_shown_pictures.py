from __future__ import annotations

import pytest

from kilocall.call.shown_pictures import ShownPictures


def test_pictures_and_delay_are_of_the_time_since_the_last_look() -> None:
    shown = ShownPictures()
    assert shown.look(0) == (0, None)
    for number in range(3):
        shown.add(number / 25, 40_000 * number, delay_ms=100.0 + number, face_since_us=0)
    assert shown.look(1) == (3, 101)
    shown.add(1, 1_000_000, delay_ms=None, face_since_us=0)
    assert shown.look(2) == (1, None)
    assert (shown.count, shown.last_us) == (4, 1_000_000)


def test_a_gap_is_what_stood_while_the_face_was_seen() -> None:
    shown = ShownPictures()
    shown.add(0, 1_000_000, delay_ms=None, face_since_us=0)
    shown.add(0, 1_200_000, delay_ms=None, face_since_us=0)
    shown.add(0, 9_000_000, delay_ms=None, face_since_us=None)
    shown.add(0, 9_900_000, delay_ms=None, face_since_us=9_800_000)
    report = shown.report(0)
    assert report["longest_gap_ms"] == pytest.approx(200)
    assert report["pictures"] == 4
