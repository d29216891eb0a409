"""What the generator paints with: no chequers, and a sketch of what is seen between the lips."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from kilocall.model import landmarks as lm  # noqa: E402
from kilocall.model.compact.landmark_raster import GAIN, SIDE, LandmarkRaster  # noqa: E402
from kilocall.model.compact.renderer import smooth  # noqa: E402


def test_nothing_is_left_of_a_chequered_picture() -> None:
    chequered = torch.zeros(1, 4, 16, 16)
    chequered[:, :, ::2, ::2] = chequered[:, :, 1::2, 1::2] = 1
    inside = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(smooth(chequered)[inside], torch.full((1, 4, 12, 12), 0.5))


def test_smoothing_leaves_flat_ground_and_three_quarters_of_what_is_twice_as_coarse() -> None:
    torch.testing.assert_close(smooth(torch.full((1, 3, 8, 8), 0.3)), torch.full((1, 3, 8, 8), 0.3))
    stripes = torch.tensor([0.25, 0.75, 0.75, 0.25]).repeat(8).expand(1, 1, 32, 32)
    left = smooth(stripes)[..., 4:-4, 4:-4]
    assert float(left.amax() - left.amin()) / 0.5 == pytest.approx(0.75, abs=1e-6)


def _mouth(open_px: float, turn: float = 0.0) -> Tensor:
    """Landmarks [1, K, 2] of a mouth in the middle, 40 pixels wide, turned by `turn` radians."""
    points = np.zeros((lm.LANDMARKS, 2), np.float32)
    points[lm.INNER_LIPS[0]], points[lm.INNER_LIPS[4]] = (-20, 0), (20, 0)
    for number, (upper, lower) in enumerate(lm.LIP_PAIRS):
        points[upper], points[lower] = (8 * (number - 1), -open_px / 2), (8 * (number - 1), open_px / 2)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]], np.float32)
    turned: Tensor = torch.from_numpy((points @ rotation / 128)[None].astype(np.float32))
    return turned


def test_bright_and_dark_lie_where_they_were_seen() -> None:
    maps = LandmarkRaster()(_mouth(24), torch.tensor([[0.3, 0.0, -0.4]]))[0]
    middle = SIDE // 2
    above, level, below, every = (m[:, middle] for m in maps[:4])
    # 5 %: no row of the map lies where a band is brightest.
    assert above.max() == pytest.approx(0.3 * GAIN, rel=0.05)
    assert int(above.argmax()) < middle - 1
    assert not level.any()
    assert below.min() == pytest.approx(-0.4 * GAIN, rel=0.05)
    assert int(below.argmin()) > middle
    # Lips end 6 rows of the map above and below the middle.
    assert every[middle - 12] < 0.1 < 0.9 < every[middle]


def test_a_turned_head_turns_the_sketch() -> None:
    brightness = torch.tensor([[0.3, 0.0, -0.4]])
    upright, turned = (LandmarkRaster()(_mouth(24, turn), brightness)[0, :4] for turn in (0, np.pi / 2))
    torch.testing.assert_close(turned, upright.rot90(-1, (1, 2)), atol=1e-5, rtol=0)


def test_closed_lips_are_not_drawn() -> None:
    assert not LandmarkRaster()(_mouth(1), torch.zeros(1, 3))[:, :4].any()


def _eyes(gaze_px: float, open_px: float) -> Tensor:
    """Landmarks [1, K, 2] of two eyes 30 pixels wide at x = -40 and 40, irises aside by `gaze_px`."""
    points = np.zeros((lm.LANDMARKS, 2), np.float32)
    half = len(lm.LID_PAIRS) // 2
    sides = zip((-40, 40), (1, -1), lm.EYES, (lm.LID_PAIRS[:half], lm.LID_PAIRS[half:]), strict=True)
    for x, inner, (iris, rim), pairs in sides:
        points[rim[0]], points[rim[4]] = (x - 15 * inner, 0), (x + 15 * inner, 0)
        for number, (upper, lower) in enumerate(pairs):
            points[upper] = (x + 6 * (number - 1), -open_px / 2)
            points[lower] = (x + 6 * (number - 1), open_px / 2)
        points[iris] = (x + gaze_px, 0)
    found: Tensor = torch.from_numpy((points / 128)[None].astype(np.float32))
    return found


@pytest.mark.parametrize("gaze_px", [-6, 0, 6])
def test_irises_are_drawn_where_the_eyes_look(gaze_px: float) -> None:
    irises = LandmarkRaster()(_eyes(gaze_px, 10), torch.zeros(1, 3))[0, 4]
    row = irises[SIDE // 2]
    for x, part in ((-40, row[: SIDE // 2]), (40, row[SIDE // 2 :])):
        found = int(part.argmax()) + (0 if x < 0 else SIDE // 2)
        assert (2 * found + 1) - 128 == pytest.approx(x + gaze_px, abs=1)  # the map's columns are 2 pixels apart


def test_lids_that_close_take_the_eye_with_them() -> None:
    wide, narrow, closed = (LandmarkRaster()(_eyes(0, gap), torch.zeros(1, 3))[0, 4:].sum() for gap in (10, 5, 0))
    assert wide > 1.5 * narrow
    assert narrow > 5 * closed
