"""The training's alignment takes the steps of the sender's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from kilocall.model.compact.align import MOST_STEP, Alignment, look_at
from kilocall.model.compact.renderer import FIELD, IMPLICIT
from kilocall.train.align import gauss_newton, look_of, seen_slopes


def test_both_take_the_same_step() -> None:
    rng = np.random.default_rng(0)
    large = np.clip(128 + 600 * cv2.GaussianBlur(rng.normal(0, 1, (300, 300, 3)), (0, 0), 4), 0, 255).astype(np.uint8)
    pictures = [np.ascontiguousarray(large[top : top + 256, 20:276]) for top in (20, 23)]
    noise = rng.normal(0, 0.1, (FIELD, FIELD, 2)).astype(np.float32)
    displacement = np.asarray(cv2.GaussianBlur(noise, (0, 0), 6), np.float32)
    shares = rng.random((IMPLICIT, FIELD, FIELD)).astype(np.float32)
    sender = Alignment(pictures[0])
    sender.step(look_at(pictures[1]), displacement, shares)
    source, truth = (torch.from_numpy(p.copy()).permute(2, 0, 1)[None].float() / 255 for p in pictures)
    wanted = torch.nn.functional.avg_pool2d(look_of(truth), 2)
    planes = torch.from_numpy(displacement).permute(2, 0, 1)[None]
    step = gauss_newton(seen_slopes(source), wanted, planes, torch.from_numpy(shares)[None])
    assert sender.moved is not None
    assert np.abs(sender.moved).max() > 0.2 * MOST_STEP
    # The sender's grey is rounded to 8 bits twice.
    assert step[0].numpy() == pytest.approx(sender.moved, abs=0.03 * MOST_STEP)
