"""Landmarks back to the motion that made them."""

import numpy as np
import pytest

from kilocall.model import landmarks as lm
from kilocall.model.compact.motion_fit import MotionFit
from kilocall.model.family import place, retarget, turn_head
from kilocall.model.motion import Motion
from kilocall.model.shape import ShapeModel

EXPRESSIONS = 6


@pytest.fixture
def model() -> ShapeModel:
    rng = np.random.default_rng(5)
    mean = rng.normal(0, 0.5, (lm.LANDMARKS, 3)).astype(np.float32)
    basis = rng.normal(0, 0.1, (EXPRESSIONS, lm.LANDMARKS, 3)).astype(np.float32)
    return ShapeModel(mean, basis, np.linspace(0.5, 0.2, EXPRESSIONS).astype(np.float32))


def posed(model: ShapeModel, motion: Motion) -> tuple[np.ndarray, np.ndarray]:
    from kilocall.model.geometry import rotation_matrix

    shape = model.mean + model.delta(motion.expression)
    depth = (shape @ rotation_matrix(*motion.rotation).T)[:, 2] * motion.scale
    return place(shape, motion), depth.astype(np.float32)


TRUE = Motion((0.4, -0.2, 0.1), (0.1, -0.05), 0.4, np.linspace(-0.3, 0.3, EXPRESSIONS).astype(np.float32))


def test_clean_landmarks_give_back_pose_and_expression(model: ShapeModel) -> None:
    found = MotionFit(model).fit(model.mean, *posed(model, TRUE))
    # The prior pulls expressions a little towards zero, by 0.002 here, and the pose with them.
    assert found.rotation == pytest.approx(TRUE.rotation, abs=2e-4)
    assert found.translation == pytest.approx(TRUE.translation, abs=1e-4)
    assert found.expression == pytest.approx(TRUE.expression, abs=4e-3)
    again, _ = posed(model, found)
    assert np.abs(again - posed(model, TRUE)[0]).mean() * 128 < 0.2


def test_start_far_away_ends_in_the_same_place(model: ShapeModel) -> None:
    fit = MotionFit(model)
    points, depth = posed(model, TRUE)
    elsewhere = Motion((-0.3, 0.3, -0.3), (0, 0), 0.5, np.zeros(EXPRESSIONS, np.float32))
    near, far = (
        fit.fit(model.mean, points, depth, rounds=8),
        fit.fit(model.mean, points, depth, elsewhere, rounds=12),
    )
    assert far.vector == pytest.approx(near.vector, abs=1e-5)


def test_one_wild_landmark_moves_the_pose_by_less_than_two_degrees(model: ShapeModel) -> None:
    points, depth = posed(model, TRUE)
    points = points.copy()
    points[lm.OVAL[3]] += 0.2
    found = MotionFit(model).fit(model.mean, points, depth)
    assert np.abs(np.subtract(found.rotation, TRUE.rotation)).max() < np.deg2rad(2)


def test_vector_is_motion_and_back() -> None:
    again = Motion.from_vector(TRUE.vector)
    assert again.vector == pytest.approx(TRUE.vector, abs=1e-6)


def test_transfer_to_the_same_pose_changes_nothing() -> None:
    start = Motion((0.1, 0, 0), (0, 0.1), 0.5, np.zeros(EXPRESSIONS, np.float32))
    assert retarget(TRUE, start, start).vector == pytest.approx(TRUE.vector, abs=1e-4)


def test_transfer_of_no_movement_is_the_other_picture_pose() -> None:
    start = Motion((0.1, 0.2, 0), (0, 0.1), 0.5, np.zeros(EXPRESSIONS, np.float32))
    other = Motion((-0.3, 0, 0.1), (0.2, 0), 0.3, np.zeros(EXPRESSIONS, np.float32))
    assert retarget(start, start, other).vector == pytest.approx(other.vector, abs=1e-4)


def test_turn_head_by_twenty_degrees_is_twenty_degrees_of_yaw() -> None:
    straight = Motion((0, 0, 0), (0, 0), 0.4, np.zeros(EXPRESSIONS, np.float32))
    assert np.rad2deg(turn_head(straight, np.deg2rad(20), 0, 0).rotation[0]) == pytest.approx(20, abs=1e-4)


def test_turn_about_the_neck_leaves_the_neck_where_it_is() -> None:
    tilted = Motion((0.1, -0.2, 0.05), (0.03, -0.1), 0.4, np.zeros(EXPRESSIONS, np.float32))
    neck = (0.1, 0.55, 1.43)
    point = np.array([neck], np.float32)
    turned = turn_head(tilted, 0.3, -0.1, 0.02, neck)
    assert place(point, turned) == pytest.approx(place(point, tilted), abs=1e-5)
    # Something in front of the neck goes to the side that the head turns to.
    nose = np.array([[0, 0, -0.6]], np.float32)
    straight = Motion((0, 0, 0), (0, 0), 0.4, np.zeros(EXPRESSIONS, np.float32))
    about_neck, about_middle = (place(nose, turn_head(straight, 0.3, 0, 0, p))[0, 0] for p in (neck, (0.0, 0.0, 0.0)))
    assert about_neck / about_middle > 2
