"""When what the camera sees is shown: asked for, or while nobody is seen."""

from __future__ import annotations

from kilocall.sender.camera_view import AWAY_US, BACK_US, CameraView, Why

FRAME_US = 40_000


def looked(view: CameraView, faces: list[bool], start_us: int = 0) -> list[Why | None]:
    return [view.look(seen, start_us + number * FRAME_US) for number, seen in enumerate(faces)]


def test_a_face_out_of_view_for_long_enough_brings_the_camera_and_a_face_that_stays_ends_it() -> None:
    view = CameraView(when_away=True)
    away, back = AWAY_US // FRAME_US, BACK_US // FRAME_US
    said = looked(view, [True] * 10 + [False] * (away + 20) + [True] * (back + 5))
    assert said.index("away") == 10 + away
    assert said[10 + away :] == ["away"] * (20 + back) + [None] * 5


def test_a_hand_before_the_face_or_a_face_for_a_moment_changes_nothing() -> None:
    view = CameraView(when_away=True)
    blinks = ([True] * 3 + [False] * (AWAY_US // FRAME_US - 1)) * 4
    assert set(looked(view, blinks)) == {None}
    start_us = len(blinks) * FRAME_US
    assert looked(view, [False] * 100, start_us)[-1] == "away"
    moments = ([True] * (BACK_US // FRAME_US - 1) + [False]) * 8
    assert set(looked(view, moments, start_us + 100 * FRAME_US)) == {"away"}


def test_who_wants_no_real_video_is_asked_first() -> None:
    view = CameraView(when_away=False)
    assert set(looked(view, [False] * 100)) == {None}
    view.asked = True
    assert set(looked(view, [False, True] * 10, 100 * FRAME_US)) == {"asked"}
    view.asked = False
    assert view.look(False, 200 * FRAME_US) is None


def test_after_a_restart_the_time_away_begins_anew() -> None:
    view = CameraView(when_away=True)
    assert looked(view, [False] * 60)[-1] == "away"
    view.restart()
    assert view.look(False, 60 * FRAME_US) is None
    assert view.look(False, 60 * FRAME_US + AWAY_US) == "away"
