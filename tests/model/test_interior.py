"""What is seen between the lips is measured, sent and shown."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kilocall.model import landmarks as lm
from kilocall.model.interior import BANDS, BASIS, interior, openness

SKIN, DARK, TEETH = 150, 30, 230


def _face(open_px: float) -> NDArray[np.float32]:
    """A face with level lips `open_px` of 256 apart, the upper one's edge in the middle of the picture."""
    points = np.zeros((lm.LANDMARKS, 2), np.float32)
    points[list(lm.CHEEKS)] = [(-0.5, -0.2), (0.5, -0.2), (-0.5, -0.1), (0.5, -0.1), (0, -0.6)]
    for number, (upper, lower) in enumerate(lm.LIP_PAIRS):
        points[upper] = (0.1 * (number - 1), 0)
        points[lower] = (0.1 * (number - 1), open_px / 128)
    return points


def _picture(open_px: int, teeth_px: int) -> NDArray[np.uint8]:
    picture = np.full((256, 256, 3), SKIN, np.uint8)
    picture[128 : 128 + open_px] = DARK
    picture[128 : 128 + teeth_px] = TEETH
    return picture


def test_bands_tell_teeth_above_from_the_dark_below() -> None:
    found = interior(_picture(24, 12), _face(24))
    assert found.shape == (BANDS,)
    assert found[0] == pytest.approx((TEETH - SKIN) / 255, abs=1e-5)
    assert found[2] == pytest.approx((DARK - SKIN) / 255, abs=1e-5)


def test_closed_lips_show_nothing_whatever_colour_they_have() -> None:
    face = _face(1)
    assert openness(face) == 0
    assert not interior(_picture(24, 12), face).any()


def test_what_is_seen_comes_in_as_lips_part() -> None:
    seen = [float(-interior(_picture(24, 0), _face(apart)).mean()) for apart in (1.5, 2.5, 3.5, 4.5, 5.5, 8)]
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert seen[-1] == pytest.approx(seen[-2]) == pytest.approx((SKIN - DARK) / 255, abs=1e-5)


def test_a_brighter_room_changes_nothing() -> None:
    face, picture = _face(24), _picture(24, 12)
    assert interior(np.clip(picture.astype(int) + 20, 0, 255).astype(np.uint8), face) == pytest.approx(
        interior(picture, face), abs=1e-5
    )


def test_what_is_sent_keeps_how_bright_it_is_and_where() -> None:
    assert pytest.approx(np.eye(len(BASIS)), abs=1e-6) == BASIS @ BASIS.T
    tilted = np.array([0.3, 0.1, -0.1], np.float32)
    assert tilted @ BASIS.T @ BASIS == pytest.approx(tilted, abs=1e-6)


def test_training_reads_the_same_numbers() -> None:
    torch = pytest.importorskip("torch")
    from kilocall.train.renderer import interior_of

    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    picture = np.repeat(np.repeat(small, 8, 0), 8, 1)
    for apart in (3, 9, 30):
        face = _face(apart) + rng.normal(0, 0.01, (lm.LANDMARKS, 2)).astype(np.float32)
        one = torch.from_numpy(picture[None]).permute(0, 3, 1, 2).float() / 255
        made = interior_of(one, torch.from_numpy(face[None]))
        # OpenCV reads between pixels in steps of 1/32 and whole grey levels; of noise 0.003 were seen.
        assert made[0].numpy() == pytest.approx(interior(picture, face), abs=0.01)
