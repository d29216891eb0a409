"""The source picture is the frame with open eyes, a straight look, a shut mouth and sharp skin."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from kilocall.proto.errors import BadInput, NoFace
from kilocall.sender.source_picture import (
    LandmarkGroups,
    choose_source,
    openness,
    pack_source,
    sharpness,
    turn,
)

Picture = NDArray[np.uint8]
Points = NDArray[np.float32]
GROUPS = LandmarkGroups(left_eye=tuple(range(0, 8)), right_eye=tuple(range(8, 16)), inner_lips=tuple(range(16, 24)))


def ring(x: float, y: float, width: float, height: float) -> Points:
    angle = np.arange(8) * np.pi / 4
    points = np.stack([x + width / 2 * np.cos(angle), y + height / 2 * np.sin(angle)], -1)
    return np.asarray(points, np.float32)


def head(eyes: float = 0.33, mouth: float = 0.0, aside: float = 0.0, roll: float = 0.0) -> Points:
    """Landmarks [32, 2] of a drawn head; `aside` moves eyes and mouth within the oval as a turn does."""
    points = np.concatenate(
        [
            ring(0.16 + aside, -0.1, 0.14, 0.14 * eyes),
            ring(-0.16 + aside, -0.1, 0.14, 0.14 * eyes),
            ring(aside, 0.25, 0.2, 0.2 * mouth),
            ring(0, 0.05, 0.8, 1.0),
        ]
    )
    cos, sin = np.cos(roll), np.sin(roll)
    return np.asarray(points @ np.array([[cos, sin], [-sin, cos]]), np.float32)


@pytest.fixture
def crop(astronaut: Picture) -> Picture:
    return astronaut[:256, 100:356].copy()


def chosen(heads: list[Points], crop: Picture) -> int:
    return choose_source([crop] * len(heads), np.stack(heads), [1.0] * len(heads), GROUPS)


def test_openness_is_height_over_width_at_any_tilt() -> None:
    for roll in (0.0, 0.4, -1.2):
        assert openness(head(eyes=0.3, roll=roll), GROUPS.left_eye) == pytest.approx(0.3, abs=1e-6)
    assert openness(head(mouth=0.0), GROUPS.inner_lips) == pytest.approx(0, abs=1e-6)
    assert openness(np.zeros((32, 2), np.float32), GROUPS.left_eye) == 0


def test_turn_grows_with_yaw_and_roll() -> None:
    assert turn(head(), GROUPS) < 0.01
    assert turn(head(aside=0.05), GROUPS) < turn(head(aside=0.12), GROUPS)
    assert turn(head(aside=0.1), GROUPS) == pytest.approx(turn(head(aside=-0.1), GROUPS), rel=1e-5)
    assert turn(head(roll=0.3), GROUPS) > 0.1


def test_sharpness_falls_with_blur(crop: Picture) -> None:
    assert sharpness(np.asarray(cv2.GaussianBlur(crop, (0, 0), 2), np.uint8)) < 0.3 * sharpness(crop)


def test_a_blink_is_not_chosen(crop: Picture) -> None:
    assert chosen([head(eyes=0.05), head(eyes=0.1), head(), head(eyes=0.15)], crop) == 2


def test_one_shut_eye_counts_as_a_blink(crop: Picture) -> None:
    wink = head()
    wink[:8] = ring(0.16, -0.1, 0.14, 0.01)
    assert chosen([wink, head(), wink], crop) == 1


def test_the_straight_look_is_chosen(crop: Picture) -> None:
    assert chosen([head(aside=0.12), head(aside=-0.08), head(aside=0.01), head(aside=0.1)], crop) == 2


def test_the_shut_mouth_is_chosen(crop: Picture) -> None:
    assert chosen([head(mouth=0.6), head(mouth=0.3), head(mouth=0.02)], crop) == 2


def test_open_eyes_matter_more_than_a_shut_mouth(crop: Picture) -> None:
    assert chosen([head(eyes=0.05, mouth=0.0), head(mouth=0.4)], crop) == 1


def test_the_sharp_frame_is_chosen(crop: Picture) -> None:
    blurred = np.asarray(cv2.GaussianBlur(crop, (0, 0), 2), np.uint8)
    points = np.stack([head()] * 3)
    assert choose_source([blurred, crop, blurred], points, [1, 1, 1], GROUPS) == 1


def test_a_frame_far_from_the_usual_place_is_not_chosen(crop: Picture) -> None:
    assert chosen([head() + np.float32(0.3), head(), head() + np.float32(0.01)], crop) in (1, 2)


def test_unsure_and_broken_frames_are_left_out(crop: Picture) -> None:
    broken = head()
    broken[3] = np.nan
    points = np.stack([head(), broken, head(eyes=0.1)])
    assert choose_source([crop] * 3, points, [0.2, 1.0, 0.9], GROUPS) == 2


def test_no_usable_frame_is_refused(crop: Picture) -> None:
    with pytest.raises(NoFace, match="none of 2 frames"):
        choose_source([crop] * 2, np.stack([head()] * 2), [0.1, 0.2], GROUPS)
    with pytest.raises(NoFace, match="none of 0 frames"):
        choose_source([], np.zeros((0, 32, 2), np.float32), [], GROUPS)


def test_lists_of_different_length_are_refused(crop: Picture) -> None:
    with pytest.raises(BadInput, match="do not match"):
        choose_source([crop], np.stack([head()] * 2), [1.0], GROUPS)


@pytest.mark.parametrize(("side", "most"), [(256, 6144), (512, 14 * 1024)])
def test_the_source_picture_travels_in_a_few_kilobytes(crop: Picture, side: int, most: int) -> None:
    packed, seen = pack_source(np.asarray(cv2.resize(crop, (side, side)), np.uint8))
    assert most / 3 < len(packed.data) <= most
    assert seen.shape == (side, side, 3)
