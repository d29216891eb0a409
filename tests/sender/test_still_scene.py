from __future__ import annotations

import cv2
import numpy as np
import pytest

from kilocall.model.family import Picture
from kilocall.sender.still_scene import AGAIN_US, StillScene

STEP_US = 40_000


@pytest.fixture
def room() -> Picture:
    patches = np.random.default_rng(0).integers(40, 200, (6, 8, 3), np.uint8)
    return np.asarray(cv2.resize(patches, (640, 480), interpolation=cv2.INTER_CUBIC), np.uint8)


def noisy(room: Picture, seed: int) -> Picture:
    noise = np.random.default_rng(seed).normal(0, 4, room.shape)
    return np.asarray(np.clip(room + noise, 0, 255), np.uint8)


def test_a_room_that_nobody_is_in_is_shown_once_a_second_however_its_camera_trembles(room: Picture) -> None:
    scene = StillScene()
    shown = [n * STEP_US for n in range(100) if scene.shows(noisy(room, n), n * STEP_US)]
    assert shown == list(range(0, 100 * STEP_US, AGAIN_US))


def test_what_moves_is_shown_at_once_be_it_a_hand_in_a_corner(room: Picture) -> None:
    scene = StillScene()
    assert scene.shows(noisy(room, 0), 0)
    moved = room.copy()
    moved[440:480, 0:40] = 255 - moved[440:480, 0:40] // 2
    assert scene.shows(noisy(moved, 1), STEP_US)
    assert not scene.shows(noisy(moved, 2), 2 * STEP_US)


def test_light_that_is_dimmed_slowly_is_followed(room: Picture) -> None:
    scene = StillScene()
    dimmed = [np.asarray(room * (1 - 0.004 * n), np.uint8) for n in range(25)]
    assert 3 <= sum(scene.shows(picture, n * STEP_US) for n, picture in enumerate(dimmed)) <= 12


def test_after_a_new_start_whatever_comes_is_shown(room: Picture) -> None:
    scene = StillScene()
    assert scene.shows(room, 0)
    assert not scene.shows(room, STEP_US)
    scene.restart()
    assert scene.shows(room, 2 * STEP_US)
    assert scene.shows(room, STEP_US)  # another camera's clock
