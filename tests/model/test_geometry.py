"""Rotations that undo each other, fits that recover what was posed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilocall.model import geometry as geo

ANGLE = st.floats(-1.3, 1.3)


@given(yaw=ANGLE, pitch=ANGLE, roll=ANGLE)
def test_angles_and_matrix_are_inverses(yaw: float, pitch: float, roll: float) -> None:
    matrix = geo.rotation_matrix(yaw, pitch, roll)
    assert matrix @ matrix.T == pytest.approx(np.eye(3), abs=1e-5)
    # float32 entries near +-1 leave 1e-3 rad of an angle
    assert geo.rotation_angles(matrix) == pytest.approx((yaw, pitch, roll), abs=2e-3)


def test_positive_yaw_moves_the_nose_to_the_right_of_the_picture() -> None:
    nose = np.array([0, 0, -1], np.float32)  # towards the camera
    assert (geo.rotation_matrix(0.3, 0, 0) @ nose)[0] > 0.2


def test_positive_pitch_looks_down() -> None:
    nose = np.array([0, 0, -1], np.float32)
    assert (geo.rotation_matrix(0, 0.3, 0) @ nose)[1] > 0.2


def test_positive_roll_tilts_clockwise() -> None:
    right = np.array([1, 0, 0], np.float32)
    assert (geo.rotation_matrix(0, 0, 0.3) @ right)[1] > 0.2


def test_similarity_recovers_pose_of_many_faces_at_once() -> None:
    rng = np.random.default_rng(3)
    shape = rng.normal(size=(20, 3)).astype(np.float32)
    weight = rng.uniform(0.1, 2, 20).astype(np.float32)
    rotation = np.stack([geo.rotation_matrix(*a) for a in rng.uniform(-1, 1, (5, 3))])
    scale = rng.uniform(0.3, 2, 5).astype(np.float32)
    shift = rng.normal(size=(5, 3)).astype(np.float32)
    points = scale[:, None, None] * (shape @ np.swapaxes(rotation, 1, 2)) + shift[:, None]
    found_r, found_t, found_s = geo.similarity(points, shape, weight)
    assert found_r == pytest.approx(rotation, abs=1e-4)
    assert found_t == pytest.approx(shift, abs=1e-4)
    assert found_s == pytest.approx(scale, rel=1e-4)
    assert geo.unpose(points, found_r, found_t, found_s) == pytest.approx(
        np.broadcast_to(shape, points.shape), abs=1e-4
    )


def test_a_mirrored_shape_is_not_taken_for_a_turned_one() -> None:
    shape = np.random.default_rng(1).normal(size=(9, 3)).astype(np.float32)
    rotation, _, _ = geo.similarity(shape * np.array([-1, 1, 1], np.float32), shape, np.ones(9, np.float32))
    assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-4)
