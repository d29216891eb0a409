"""The One Euro filter: still heads stand still, fast ones are not late."""

import numpy as np

from kilocall.sender.motion import OneEuroFilter

FRAME_US = 40_000


def filter_() -> OneEuroFilter:
    return OneEuroFilter(np.array([3.0]), np.array([25.0]))


def run(values: np.ndarray) -> np.ndarray:
    f = filter_()
    return np.array([f(np.array([v], np.float32), i * FRAME_US)[0] for i, v in enumerate(values)])


def test_jitter_of_a_still_head_is_halved() -> None:
    noise = np.random.default_rng(0).normal(0, 0.004, 400)
    assert np.abs(np.diff(run(noise))).mean() < 0.5 * np.abs(np.diff(noise)).mean()


def test_a_quick_turn_arrives_within_two_frames() -> None:
    step = np.concatenate((np.zeros(10), np.full(10, 0.5)))
    assert run(step)[11] > 0.45


def test_a_long_gap_starts_anew() -> None:
    f = filter_()
    f(np.array([0.0], np.float32), 0)
    assert f(np.array([1.0], np.float32), 2_000_000)[0] == 1.0


def test_nothing_before_a_reset_smooths_what_comes_after() -> None:
    f = filter_()
    f(np.array([5.0], np.float32), 0)
    f.reset()
    assert f(np.array([1.0], np.float32), FRAME_US)[0] == 1.0
