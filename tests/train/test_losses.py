"""What counts as detail that can still be read off a picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from kilocall.train.losses import vif_loss

Luma = NDArray[np.float32]


@pytest.fixture(scope="module")
def truth() -> Luma:
    """Something at every scale, levels."""
    rng = np.random.default_rng(3)
    made = np.full((128, 128), 128, np.float32)
    for side in (8, 16, 32, 64, 128):
        some = rng.normal(0, 14, (side, side)).astype(np.float32)
        made += cv2.resize(some, (128, 128), interpolation=cv2.INTER_CUBIC)
    return made


def blurred(luma: Luma, sigma: float) -> Luma:
    return np.asarray(cv2.GaussianBlur(luma, (0, 0), sigma), np.float32)


def tensor(luma: Luma) -> Tensor:
    return torch.from_numpy(luma / np.float32(255))[None, None]


def lost(made: Luma, truth: Luma) -> float:
    return float(vif_loss(tensor(made), tensor(truth)))


def test_nothing_is_lost_of_the_picture_itself(truth: Luma) -> None:
    assert lost(truth, truth) == pytest.approx(0, abs=1e-3)


def test_the_more_is_blurred_or_paled_the_more_is_lost(truth: Luma) -> None:
    soft = [lost(blurred(truth, sigma), truth) for sigma in (0.6, 1.2, 2.4)]
    pale = [lost(128 + np.float32(share) * (truth - 128), truth) for share in (0.8, 0.5, 0.2)]
    for losses in (soft, pale):
        assert 0.02 < losses[0] < losses[1] < losses[2] < 1


def test_light_is_no_detail(truth: Luma) -> None:
    assert lost(truth + 20, truth) == pytest.approx(0, abs=2e-3)


def test_detail_that_only_looks_like_some_is_worse_than_none(truth: Luma) -> None:
    soft = blurred(truth, 2)
    missing = truth - soft
    wrong = np.ascontiguousarray(missing[::-1, ::-1])
    assert lost(soft + wrong, truth) > lost(soft, truth) + 0.05


def test_its_slope_leads_to_the_truth(truth: Luma) -> None:
    made = tensor(blurred(truth, 1.5)).requires_grad_()
    before = vif_loss(made, tensor(truth))
    before.backward()  # type: ignore[no-untyped-call]
    assert made.grad is not None
    assert bool(torch.isfinite(made.grad).all())
    towards = (made.grad * (tensor(truth) - made.detach())).sum()
    assert float(towards) < 0
