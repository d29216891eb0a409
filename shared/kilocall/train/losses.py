"""Losses of pictures and of openings that need no network trained elsewhere."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from kilocall.model import landmarks as lm

#: Of visual information fidelity: windows from the finest scale to the coarsest, pixels; the variance of the eye's own
#: noise, grey levels squared; and how much stronger than the truth's detail still counts.
_VIF_WINDOWS: Final = (17, 9, 5, 3)
_EYE_NOISE: Final = 2.0
_MOST_GAIN: Final = 1.5


def weighted_l1(made: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute difference of pictures [B, 3, H, W], counted by weight [B, 1, H, W]."""
    return ((made - truth).abs() * weight).mean()


def relative_l1(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of features, relative to how strong the wanted ones are."""
    wanted = wanted.float()
    apart: Tensor = (made.float() - wanted).abs().mean() / wanted.abs().mean().clamp(min=1e-3)
    return apart


def gradient_l1(made: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 between the horizontal and vertical differences: where edges are and how strong."""
    difference = made - truth
    across = (difference[..., :, 1:] - difference[..., :, :-1]).abs() * weight[..., :, 1:]
    down = (difference[..., 1:, :] - difference[..., :-1, :]).abs() * weight[..., 1:, :]
    return across.mean() + down.mean()


def texture_energy(made: Tensor, truth: Tensor) -> Tensor:
    """L1 between local energies of the Laplacian: as much fine detail as the truth has, wherever exactly it lies.

    L1 alone prefers blur wherever detail cannot be placed to the pixel.
    """
    return (_energy(made) - _energy(truth)).abs().mean()


def _energy(picture: Tensor) -> Tensor:
    grey = picture.mean(1, keepdim=True)
    detail = grey - F.avg_pool2d(grey, 3, 1, 1, count_include_pad=False)
    # The root makes it an amplitude; the offset keeps its slope finite on flat ground.
    return (F.avg_pool2d(detail.square(), 8, 4) + 1e-5).sqrt()


def ssim_loss(made: Tensor, truth: Tensor) -> Tensor:
    """1 - mean structural similarity over 8x8 windows of grey pictures in 0..1 (Wang et al. 2004)."""
    a, b = made.mean(1, keepdim=True), truth.mean(1, keepdim=True)
    stack = torch.cat((a, b, a * a, b * b, a * b), 1)
    mean_a, mean_b, aa, bb, ab = F.avg_pool2d(stack, 8, 2).unbind(1)
    var_a, var_b, cov = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return 1 - similarity.mean()


def vif_loss(made: Tensor, truth: Tensor) -> Tensor:
    """1 - visual information fidelity of luma [B, 1, H, W] in 0..1, the mean of four scales (Sheikh and Bovik 2006, in
    the pixels' domain): of the detail in the truth, how much can still be read off the made picture."""
    a, b, lost = 255 * truth, 255 * made, made.new_zeros(())
    for width in _VIF_WINDOWS:
        line = _gaussian(width, like=made)
        if width != _VIF_WINDOWS[0]:
            a, b = _smoothed(a, line)[..., ::2, ::2], _smoothed(b, line)[..., ::2, ::2]
        mean_a, mean_b = _smoothed(a, line), _smoothed(b, line)
        var_a = (_smoothed(a * a, line) - mean_a**2).clamp(min=0)
        var_b = (_smoothed(b * b, line) - mean_b**2).clamp(min=0)
        common = _smoothed(a * b, line) - mean_a * mean_b
        gain = (common / (var_a + 1e-4)).clamp(0, _MOST_GAIN)
        noise = (var_b - gain * common).clamp(min=1e-4)
        read = torch.log2(1 + gain**2 * var_a / (noise + _EYE_NOISE)).sum((1, 2, 3))
        there = torch.log2(1 + var_a / _EYE_NOISE).sum((1, 2, 3)).clamp(min=1e-3)
        lost = lost + (1 - (read / there).mean()) / len(_VIF_WINDOWS)
    return lost


def _gaussian(width: int, *, like: Tensor) -> Tensor:
    """A window [W] with a sum of one; its deviation is a fifth of its width."""
    places = torch.arange(width, device=like.device, dtype=like.dtype) - width // 2
    line = torch.exp(-(places**2) / (2 * (width / 5) ** 2))
    return line / line.sum()


def _smoothed(picture: Tensor, line: Tensor) -> Tensor:
    around = len(line) // 2
    padded = F.pad(picture, (around,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, line.view(1, 1, 1, -1)), line.view(1, 1, -1, 1))


def openings_apart(found: Tensor, truth: Tensor) -> Tensor:
    """How far lids and lips of points [B, LANDMARKS, 2] open otherwise than the true ones [B], in their unit."""
    return _pairs_apart(found, truth, lm.LID_PAIRS) + _pairs_apart(found, truth, lm.LIP_PAIRS)


def eye_opening_apart(found: Tensor, truth: Tensor) -> Tensor:
    """The same for the points of a right eye's close-up."""
    return _pairs_apart(found, truth, _within_region(lm.LID_PAIRS, lm.RIGHT_EYE_REGION))


def lip_opening_apart(found: Tensor, truth: Tensor) -> Tensor:
    """The same for the points of the mouth's close-up."""
    return _pairs_apart(found, truth, _within_region(lm.LIP_PAIRS, lm.MOUTH_REGION))


def gaze_apart(found: Tensor, truth: Tensor) -> Tensor:
    """How far the iris lies elsewhere within its eye [B], for points of a right eye's close-up."""
    iris = lm.RIGHT_EYE_REGION.index(lm.RIGHT_IRIS)
    eye = [lm.RIGHT_EYE_REGION.index(p) for p in lm.RIGHT_EYE]
    difference = found[:, iris] - found[:, eye].mean(1) - (truth[:, iris] - truth[:, eye].mean(1))
    return difference.abs().sum(-1)


def _pairs_apart(found: Tensor, truth: Tensor, pairs: tuple[tuple[int, int], ...]) -> Tensor:
    a, b = [p for p, _ in pairs], [q for _, q in pairs]
    difference = (found[:, a] - found[:, b]).norm(dim=-1) - (truth[:, a] - truth[:, b]).norm(dim=-1)
    mean: Tensor = difference.abs().mean(1)
    return mean


def _within_region(pairs: tuple[tuple[int, int], ...], region: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((region.index(a), region.index(b)) for a, b in pairs if a in region and b in region)
