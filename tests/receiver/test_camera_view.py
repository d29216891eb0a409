"""What the other side's camera sees, at its time and no longer."""

from __future__ import annotations

import numpy as np

from kilocall.model.family import Picture
from kilocall.receiver.camera_view import MOST_WAITING, CameraView
from kilocall.receiver.switch_time import SwitchTime

FRAME_US = 40_000


def grey(level: int) -> Picture:
    return np.full((90, 160, 3), level, np.uint8)


def level(picture: Picture | None) -> int | None:
    return None if picture is None else int(picture[0, 0, 0])


def test_each_picture_is_shown_from_its_own_time_on() -> None:
    view = CameraView()
    view.switch(True, SwitchTime(10 * FRAME_US, 0))
    for number in (10, 14, 18):
        view.push(number * FRAME_US, grey(number))
    assert [level(view.picture(number * FRAME_US)) for number in range(8, 20)] == [
        *(None, None, 10, 10, 10, 10, 14, 14, 14, 14, 18, 18)
    ]


def test_the_speaker_comes_back_at_the_frame_that_is_named_and_nothing_old_is_shown_after() -> None:
    view = CameraView()
    view.switch(True, SwitchTime(0, 0))
    view.push(0, grey(7))
    assert level(view.picture(FRAME_US)) == 7
    view.switch(False, SwitchTime(5 * FRAME_US, FRAME_US))
    assert [level(view.picture(number * FRAME_US)) for number in (3, 4, 5, 6)] == [7, 7, None, None]
    view.switch(True, SwitchTime(8 * FRAME_US, 6 * FRAME_US))
    assert view.picture(9 * FRAME_US) is None  # its first picture is still to come
    view.push(8 * FRAME_US, grey(9))
    assert level(view.picture(10 * FRAME_US)) == 9


def test_pictures_that_nobody_asked_for_take_no_memory() -> None:
    view = CameraView()
    for number in range(10 * MOST_WAITING):
        view.push(number * FRAME_US, grey(1))
    assert view.picture(10_000_000_000) is None
