"""Lids and irises asked to move further than they shall."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilocall.model import landmarks as lm
from kilocall.model.compact.expression_gain import MAX_GAZE, ExpressionGain
from kilocall.model.motion import Motion

REST = np.zeros((lm.LANDMARKS, 2), np.float32)
for _eye, _x in ((lm.RIGHT_EYE, -0.3), (lm.LEFT_EYE, 0.3)):
    for _number, _point in enumerate(_eye):
        REST[_point] = (_x - 0.1 * np.cos(_number * np.pi / 4), -0.04 * np.sin(_number * np.pi / 4))
REST[[lm.RIGHT_IRIS, lm.LEFT_IRIS]] = ((-0.3, 0), (0.3, 0))
IRISES = [lm.RIGHT_IRIS, lm.LEFT_IRIS]


def looking(x: float, y: float = 0) -> np.ndarray:
    moved = REST.copy()
    moved[IRISES] += (x, y)
    return moved


@given(st.floats(-0.02, 0.02), st.floats(-0.02, 0.02))
def test_irises_go_further_and_nothing_else_moves(x: float, y: float) -> None:
    shown = ExpressionGain(gaze=1.8).keypoints(looking(x, y), REST)
    assert shown[IRISES] - REST[IRISES] == pytest.approx(np.full((2, 2), (1.8 * x, 1.8 * y)), abs=1e-6)
    others = np.delete(np.arange(lm.LANDMARKS), IRISES)
    assert (shown[others] == REST[others]).all()


def test_nothing_changes_at_rest_or_by_one() -> None:
    assert ExpressionGain(gaze=2).keypoints(REST, REST) == pytest.approx(REST, abs=1e-7)
    assert (ExpressionGain().keypoints(looking(0.03), REST) == looking(0.03)).all()


@pytest.mark.parametrize(("asked", "shown"), [(0.05, MAX_GAZE * 0.2), (-0.05, -MAX_GAZE * 0.2), (0.08, 0.08)])
def test_irises_stay_in_their_eyes_unless_asked_out(asked: float, shown: float) -> None:
    result = ExpressionGain(gaze=2.5).keypoints(looking(asked), REST)
    assert result[IRISES, 0] - REST[IRISES, 0] == pytest.approx([shown, shown], abs=1e-6)


def test_lids_and_lips_open_further_and_the_rest_of_a_motion_stays() -> None:
    motion = Motion((0.1, 0.2, 0.3), (0.4, 0.5), 0.6, np.array([1, 2, 3, 4], np.float32))
    shown = ExpressionGain(lids=1.5, lips=1.25).motion(motion)
    assert shown.expression.tolist() == [1.5, 3, 3.75, 4]
    assert (shown.rotation, shown.translation, shown.scale) == (motion.rotation, motion.translation, motion.scale)


def test_stored_and_read_again() -> None:
    said = ExpressionGain(lids=1.25, lips=1.125, gaze=1.75)
    assert ExpressionGain.of(said.arrays) == said
    assert ExpressionGain.of({}) == ExpressionGain(1, 1, 1)
