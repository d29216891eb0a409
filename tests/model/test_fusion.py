"""Corrections by themselves: carried to where their places are now, and one after another."""

from __future__ import annotations

import numpy as np
import pytest

from kilocall.model.compact.fusion import Correction
from kilocall.model.family import Made, Placement

FIELD, SIDE = 64, 128
LEVEL, ONE = 16, 4096


def made(shift_px: float = 0.0, number: int = 0) -> Made:
    """A picture of which everything has moved so far to the right, pixels of 256."""
    displacement = np.zeros((FIELD, FIELD, 2), np.float32)
    displacement[..., 0] = -shift_px / 128
    flat = np.zeros((FIELD, FIELD), np.float32)
    return Made(np.zeros((256, 256, 3), np.uint8), Placement(displacement, flat, flat, np.dstack((flat, flat)), number))


def correction(levels: float, gain: float = 1.0, of: Made | None = None, side: int = SIDE) -> Correction:
    placement = (of or made()).placement
    assert placement is not None
    changes = np.full((side, side, 4), LEVEL * levels, np.int16)
    changes[..., 3] = ONE * gain
    return Correction(changes, placement)


def middle(of: Correction) -> tuple[float, float]:
    """Levels of the offset, and the gain."""
    changes = of.changes[len(of.changes) // 2, len(of.changes) // 2]
    return float(changes[0]) / LEVEL, float(changes[3]) / ONE


@pytest.mark.parametrize(("px", "left"), [(0, 1.0), (1, 1.0), (8, 0.8), (16, 0.5), (48, 0.1)])
def test_the_further_a_place_has_moved_the_less_of_its_correction_is_left(px: float, left: float) -> None:
    offset, gain = middle(correction(40, 0.5).moved_to(made(px)))
    assert offset == pytest.approx(40 * left, abs=0.2)
    assert gain == pytest.approx(1 - 0.5 * left, abs=0.005)


def test_what_moves_is_corrected_where_it_is_now() -> None:
    found = correction(0)
    found.changes[:, 60:64, :3] = 50 * LEVEL
    carried = found.moved_to(made(8)).changes[64, :, 0]
    assert abs(int(np.argmax(carried)) - 65.5) <= 1.5  # 8 of 256 are 4 of 128


@pytest.mark.parametrize(
    ("levels", "first", "then"),
    [(22, 20.85, 21.0), (26, 23.825, 24.5), (60, 54.0, 60.0)],
    ids=["alike: the mean", "half alike", "another: in two steps"],
)
def test_what_is_alike_is_averaged_and_a_change_enters_over_two_pictures(
    levels: float, first: float, then: float
) -> None:
    now = made()
    at_first, afterwards = correction(levels, of=now).after(correction(20, of=now), now)
    assert middle(afterwards)[0] == pytest.approx(then, abs=0.1)
    assert middle(at_first)[0] == pytest.approx(first, abs=0.1)


@pytest.mark.parametrize("before", ["of another picture of the speaker", "of another size"])
def test_what_cannot_be_compared_is_shown_as_it_is(before: str) -> None:
    now = made()
    found = correction(60, of=now)
    other = correction(20, of=made(number=1)) if "speaker" in before else correction(20, of=now, side=256)
    assert found.after(other, now) == (found, found)
