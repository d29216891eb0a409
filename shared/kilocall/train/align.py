"""`model/compact/align.py` for batches of training pairs: implicit keypoints are trained where the sender places them.

A sender takes one step a frame and starts where the frame before ended; a pair of frames has no frame before, so it
takes a few steps at once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kilocall.model.compact.align import BLUR, DAMPING, LOOK, MOST_APART, MOST_GAIN, MOST_STEP, ROBUST
from kilocall.model.compact.renderer import FIELD, MotionField, sample
from kilocall.model.interior import LUMA

__all__ = ["aligned", "gauss_newton", "look_of", "seen_slopes"]

STEPS = 2


@torch.no_grad()
def aligned(
    field: MotionField,
    cue: Tensor,
    seen: Tensor,
    x_s: Tensor,
    x_d: Tensor,
    jacobian: Tensor,
    truth: Tensor,
    steps: int = STEPS,
) -> Tensor:
    """Implicit keypoints [B, N, 2] for frames `truth` [B, 3, 256, 256], from where they are in x_d [B, K + N, 2].

    `seen` [B, 3, LOOK, LOOK] is `seen_slopes` of the source pictures.
    """
    implicit_points = x_d.shape[1] - field.head_points
    points, start = x_d.clone(), x_d[:, -implicit_points:]
    wanted = F.avg_pool2d(look_of(truth), 2)
    for _ in range(steps):
        made = field(cue, x_s, points, jacobian)
        step = gauss_newton(seen, wanted, made.displacement.float(), made.follows.float())
        points[:, -implicit_points:] = start + (points[:, -implicit_points:] + step - start).clamp(
            -MOST_APART, MOST_APART
        )
    return points[:, -implicit_points:]


def gauss_newton(seen: Tensor, wanted: Tensor, displacement: Tensor, follows: Tensor) -> Tensor:
    """`Alignment.step` [B, N, 2], for displacement [B, 2, F, F] and follows [B, N, F, F]."""
    copy, right, down = sample(seen, displacement, start=1 / LOOK).unsqueeze(2).unbind(1)
    (spread, mean), (seen_spread, seen_mean) = (
        torch.std_mean(light, (1, 2, 3), correction=0, keepdim=True) for light in (copy, wanted)
    )
    gain = (spread / seen_spread.clamp(min=1 / 255)).clamp(1 / MOST_GAIN, MOST_GAIN)
    apart = (wanted - seen_mean) * gain + mean - copy
    weight = 1 / (1 + (apart * (255 / ROBUST)) ** 2)
    slopes = torch.cat((follows * right, follows * down), 1).flatten(2) * 255  # [B, 2 N, F * F]
    weighted = slopes * weight.flatten(2)
    normal = weighted @ slopes.transpose(1, 2) + DAMPING * torch.eye(slopes.shape[1], device=slopes.device)
    step = torch.linalg.solve(normal, weighted @ apart.flatten(2).transpose(1, 2) * 255)[..., 0]
    by_point: Tensor = step.unflatten(1, (2, -1)).transpose(1, 2) * (-2 / LOOK)
    return by_point.clamp(-MOST_STEP, MOST_STEP)


def seen_slopes(picture: Tensor) -> Tensor:
    """Grey, its slope to the right and downwards [B, 3, LOOK, LOOK] of source pictures; between the pixels of LOOK."""
    grey = F.pad(look_of(picture), (1, 0, 1, 0), mode="replicate")
    grey = F.avg_pool2d(grey, 2, 1)
    sobel = grey.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    kernel = torch.stack((sobel, sobel.T))[:, None]
    return torch.cat((grey, F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="reflect"), kernel)), 1)


def look_of(picture: Tensor) -> Tensor:
    """`look_at`, smoothed [B, 1, LOOK, LOOK] in 0..1."""
    grey = (picture.float() * picture.new_tensor(LUMA, dtype=torch.float32)[:, None, None]).sum(1, keepdim=True)
    grey = F.avg_pool2d(grey, picture.shape[-1] // LOOK)
    reach = round(4 * BLUR)
    line = torch.arange(-reach, reach + 1, device=grey.device, dtype=torch.float32)
    bell = torch.exp(-line.square() / (2 * BLUR**2))
    bell = bell / bell.sum()
    padded = F.pad(grey, (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, bell[None, None, None]), bell[None, None, :, None])


assert FIELD * 2 == LOOK
