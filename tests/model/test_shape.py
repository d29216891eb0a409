"""The expression basis: openings of lids and lips have numbers of their own."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kilocall.model import landmarks as lm
from kilocall.model.shape import LOCAL_MOTIONS, ShapeModel, fit_shape_model

EXPRESSIONS = 10
Array = NDArray[np.float32]


def _faces() -> list[Array]:
    """Three people [T, K, 3] who blink, talk and pull faces at random."""
    rng = np.random.default_rng(3)
    rest = rng.uniform(-0.5, 0.5, (lm.LANDMARKS, 3))
    for pairs, apart in ((lm.LID_PAIRS, 0.05), (lm.LIP_PAIRS, 0.03)):
        for upper, lower in pairs:
            rest[lower] = rest[upper] + (0, apart, 0)
    grimaces = rng.normal(0, 0.02, (8, lm.LANDMARKS, 3))
    clips = []
    for _ in range(3):
        frames = rest + np.tensordot(rng.normal(0, 1, (60, 8)), grimaces, 1)
        for pairs, size in ((lm.LID_PAIRS, 0.02), (lm.LIP_PAIRS, 0.05)):
            opened = rng.uniform(0, size, 60)
            for _, lower in pairs:
                frames[:, lower, 1] += opened
        clips.append(frames.astype(np.float32))
    return clips


@pytest.fixture(scope="module")
def model() -> ShapeModel:
    return fit_shape_model(_faces(), EXPRESSIONS)[0]


def _opened(model: ShapeModel, index: int, pairs: tuple[tuple[int, int], ...]) -> float:
    """How far one deviation of a coefficient opens the pairs, to first order."""
    total = 0.0
    for upper, lower in pairs:
        apart = (model.mean[upper] - model.mean[lower]) * (1, 1, 0)
        total += float((model.basis[index, upper] - model.basis[index, lower]) @ apart / np.linalg.norm(apart))
    return abs(total) / len(pairs) * float(model.deviation[index])


def test_only_the_first_coefficients_open_lids_and_lips(model: ShapeModel) -> None:
    half = len(lm.LID_PAIRS) // 2
    for pairs in (lm.LID_PAIRS[:half], lm.LID_PAIRS[half:], lm.LIP_PAIRS):
        opened = [_opened(model, index, pairs) for index in range(EXPRESSIONS)]
        assert max(opened[:LOCAL_MOTIONS]) > 1e-3
        assert max(opened[LOCAL_MOTIONS:]) < 1e-6
    assert _opened(model, 2, lm.LIP_PAIRS) > 5 * _opened(model, 2, lm.LID_PAIRS)


def test_one_coefficient_alone_moves_the_irises_sideways(model: ShapeModel) -> None:
    sideways = model.basis[..., 0] * model.deviation[:, None]
    eyes = ((lm.RIGHT_IRIS, lm.RIGHT_EYE), (lm.LEFT_IRIS, lm.LEFT_EYE))
    moved = np.abs(sum(sideways[:, iris] - sideways[:, list(eye)].mean(1) for iris, eye in eyes))
    assert moved[3] > 1e-3
    assert moved[LOCAL_MOTIONS:].max() < 1e-6


def test_the_principal_components_hold_no_more(model: ShapeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kilocall.model.shape.LOCAL_MOTIONS", EXPRESSIONS)
    principal = fit_shape_model(_faces(), EXPRESSIONS)[0]
    # One space, other axes: each basis is made of the other's vectors.
    for mine, other in ((model, principal), (principal, model)):
        assert mine.delta(mine.project(other.basis)) == pytest.approx(other.basis, abs=1e-4)
    assert np.square(model.deviation).sum() == pytest.approx(np.square(principal.deviation).sum(), rel=1e-5)


def test_what_the_basis_holds_comes_back(model: ShapeModel) -> None:
    wanted = np.random.default_rng(1).normal(0, model.deviation, (5, EXPRESSIONS)).astype(np.float32)
    assert model.project(model.delta(wanted)) == pytest.approx(wanted, abs=1e-4)
