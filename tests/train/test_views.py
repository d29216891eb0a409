"""Views of a pair of pictures: whatever is done to them, the points lie where they lay and say the same motion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kilocall.model import landmarks as lm
from kilocall.model.compact.renderer import IMPLICIT, THUMB
from kilocall.model.interior import BANDS
from kilocall.train import views
from kilocall.train.views import Pair, vary

SIZE, FRAMES, DOT = 256, 2, lm.RIGHT_IRIS
TURN = np.array([[0.9, -0.3], [0.3, 0.9]], np.float32)


def nowhere(thumbs: Tensor) -> Tensor:
    assert thumbs.shape[1:] == (3, THUMB, THUMB)
    return torch.zeros(len(thumbs), IMPLICIT, 2)


def pair(rng: np.random.Generator) -> Pair:
    """Faces in the upper half of grey pictures, with a bright dot at one landmark of each."""
    x_d = rng.uniform(-0.5, 0.2, (FRAMES, lm.LANDMARKS + IMPLICIT, 2)).astype(np.float32)
    x_d[:, DOT] = (0.1, -0.2), (-0.2, 0.0)
    truth = torch.full((FRAMES, 3, SIZE, SIZE), 0.3)
    for frame, (x, y) in enumerate(x_d[:, DOT]):
        column, row = (round(float(c + 1) * SIZE / 2 - 0.5) for c in (x, y))
        truth[frame, :, row - 1 : row + 2, column - 1 : column + 2] = 0.7
    x_s = x_d[0] @ TURN.T + 0.1
    interior = np.full((FRAMES, BANDS), -0.2, np.float32)
    return Pair(torch.full((1, 3, SIZE, SIZE), 0.3), truth, x_s, x_d, np.repeat(TURN[None], FRAMES, 0), interior)


@pytest.mark.parametrize("seed", range(8))
def test_points_stay_on_what_they_mark_and_tell_the_same_motion(seed: int) -> None:
    made = vary(pair(np.random.default_rng(1)), nowhere, np.random.default_rng(seed))
    face = slice(lm.LANDMARKS)
    for frame in range(FRAMES):
        bright = made.truth[frame].mean(0)
        where = (bright > bright.max() - 0.05).nonzero().float().mean(0).flip(0).numpy()
        at = (made.x_d[frame, [DOT, lm.MIRROR[DOT]]] + 1) * (SIZE / 2) - 0.5
        assert np.abs(at - where).max(1).min() < 1.5
    # The source is the first frame turned by the jacobian, in every view of the two.
    s, d = (p[face] - p[face].mean(0) for p in (made.x_s, made.x_d[0]))
    np.testing.assert_allclose(s, d @ made.jacobian[0].T, atol=1e-5)
    assert not made.x_s[lm.LANDMARKS :].any()


def test_views_differ_and_the_same_seed_makes_the_same_one() -> None:
    first = pair(np.random.default_rng(1))
    a, again, b = (vary(first, nowhere, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(a.truth, again.truth)
    assert not torch.equal(a.truth, b.truth)
    assert not np.array_equal(a.x_d, b.x_d)


def test_shoulders_move_without_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MIRRORED": 0.0, "MOVED": 1.0, "TURN": 0.0, "ZOOM": 0.0, "SHIFT": 0.0}.items():
        monkeypatch.setattr(views, name, value)
    columns = torch.linspace(0, 1, SIZE).expand(FRAMES, 3, SIZE, SIZE)
    first = replace(pair(np.random.default_rng(1)), truth=columns)
    made = []
    for body in (0.0, 20 / 128):
        monkeypatch.setattr(views, "BODY", body)
        made.append(vary(first, nowhere, np.random.default_rng(0)))  # lit alike
    still, moved = made
    assert torch.allclose(moved.truth[:, :, : SIZE // 2], still.truth[:, :, : SIZE // 2], atol=1e-5)
    # Brightness is the column: four of them, in the light that seed 0 gives.
    shift = (moved.truth - still.truth)[:, 0, -8:, 64:192].mean((1, 2)).abs()
    assert (shift > 4 / SIZE).any()
    assert np.array_equal(moved.x_d, still.x_d)
