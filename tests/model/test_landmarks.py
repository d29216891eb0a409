"""The followed landmarks: a permutation that mirrors, groups that do not overlap, openings that measure."""

import numpy as np
import pytest

from kilocall.model import landmarks as lm


def test_mirror_is_its_own_inverse_and_moves_only_sided_points() -> None:
    order = np.array(lm.MIRROR)
    assert (order[order] == np.arange(lm.LANDMARKS)).all()
    in_the_middle = {lm.MESH_INDEX[i] for i in range(lm.LANDMARKS) if order[i] == i}
    assert in_the_middle == {0, 17, 13, 14, 168, 5, 1, 2, 10, 152, 151}


def test_mirror_swaps_whole_eyes_point_by_point() -> None:
    order = np.array(lm.MIRROR)
    assert tuple(order[list(lm.RIGHT_EYE_REGION)]) == lm.LEFT_EYE_REGION


def test_mesh_numbers_are_unique_and_within_the_mesh() -> None:
    assert len(set(lm.MESH_INDEX)) == lm.LANDMARKS
    assert all(0 <= number < lm.MESH_POINTS for number in lm.MESH_INDEX)


def test_mean_opening_is_the_mean_distance_of_the_pairs() -> None:
    points = np.zeros((2, lm.LANDMARKS, 2), np.float32)
    for upper, lower in lm.LID_PAIRS:
        points[0, upper, 1], points[0, lower, 1] = -0.02, 0.03
    assert lm.mean_opening(points, lm.LID_PAIRS) == pytest.approx([0.05, 0.0])
