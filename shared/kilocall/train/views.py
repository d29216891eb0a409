"""Other views of a source picture and the frames that it should turn into: more than a few seconds of somebody show.

Ten seconds of one person are a few poses in one place of the picture. A network that learns them as they are learns by
heart which frame looks how, and the next ten seconds gain nothing. So source and frames are mirrored together, turned,
zoomed and shifted together, lit otherwise together; and in the frames alone the shoulders move without the head, which
keeps the head from telling where they are. The implicit keypoints are looked for again, as a sender would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kilocall.model import landmarks as lm
from kilocall.model.compact.renderer import IMPLICIT, THUMB

__all__ = ["Pair", "vary"]

Array = NDArray[np.float32]

MIRRORED: Final = 0.5
#: How many of the pairs are moved, and of those how far: turn in radians, zoom, shift in crop units.
MOVED: Final = 0.75
TURN: Final = 0.1
ZOOM: Final = 0.08
SHIFT: Final = 0.06
#: Shoulders go this far (crop units) from where the head has them. The implicit keypoints follow about half of that.
BODY: Final = 5 / 128
#: Below the lowest landmark the body's move fades in over this much.
NECK: Final = 0.2


@dataclass(frozen=True)
class Pair:
    """A source picture and B frames with what drives them, in crop units."""

    picture: Tensor  # [1, 3, S, S] in 0..1
    truth: Tensor  # [B, 3, S, S]
    x_s: Array  # [K + N, 2], the implicit keypoints last
    x_d: Array  # [B, K + N, 2]
    jacobian: Array  # [B, 2, 2]
    interior: Array  # [B, BANDS] brightness between the lips
    inside: Tensor | None = None  # [1, 1, S, S]: 1 where the pictures show something; None: everywhere


def vary(pair: Pair, implicit: Callable[[Tensor], Tensor], rng: np.random.Generator) -> Pair:
    """Another view of the same; `implicit` finds keypoints [B, N, 2] in thumbnails [B, 3, THUMB, THUMB]."""
    if rng.random() < MIRRORED:
        pair = _mirrored(pair)
    pair = _lit(pair, rng)
    if rng.random() < MOVED:
        pair = _moved(pair, rng)
    if rng.random() < MOVED:
        pair = _another_body(pair, rng)
    factor = pair.truth.shape[-1] // THUMB
    with torch.no_grad():
        implicit_points = implicit(F.avg_pool2d(torch.cat((pair.picture, pair.truth)), factor)).float().cpu().numpy()
    x_s, x_d = pair.x_s.copy(), pair.x_d.copy()
    x_s[lm.LANDMARKS :], x_d[:, lm.LANDMARKS :] = implicit_points[0], implicit_points[1:]
    return replace(pair, x_s=x_s, x_d=x_d)


def _mirrored(pair: Pair) -> Pair:
    order = [*lm.MIRROR, *range(lm.LANDMARKS, lm.LANDMARKS + IMPLICIT)]
    flip = np.array([-1, 1], np.float32)
    return replace(
        pair,
        picture=pair.picture.flip(3),
        truth=pair.truth.flip(3),
        x_s=pair.x_s[order] * flip,
        x_d=pair.x_d[:, order] * flip,
        jacobian=pair.jacobian * np.array([[1, -1], [-1, 1]], np.float32),
    )


def _lit(pair: Pair, rng: np.random.Generator) -> Pair:
    """As in the training of everybody's renderer: gain a channel and gamma, the same for all pictures."""
    gain = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.05, (1, 3, 1, 1))).astype(np.float32)
    gamma = float(np.exp(rng.normal(0, 0.15)))
    colour = torch.from_numpy(gain).to(pair.truth.device)
    picture, truth = ((t.clamp(min=1e-4).pow(gamma) * colour).clamp(0, 1) for t in (pair.picture, pair.truth))
    # Differences of brightness grow with it; what gamma does to them is less than their coding.
    return replace(pair, picture=picture, truth=truth, interior=pair.interior * gain.mean())


def _moved(pair: Pair, rng: np.random.Generator) -> Pair:
    """All pictures turned, zoomed and shifted by the same; what comes in from outside does not count."""
    angle, zoom = rng.normal(0, TURN), np.exp(rng.normal(0, ZOOM))
    linear = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = rng.normal(0, SHIFT, 2)
    back = np.linalg.inv(linear)
    where = torch.from_numpy(np.column_stack((back, -back @ shift)).astype(np.float32))
    size = pair.truth.shape[-1]
    grid = F.affine_grid(where[None], [1, 3, size, size], align_corners=False).to(pair.truth.device)
    return replace(
        pair,
        picture=_sampled(pair.picture, grid),
        truth=_sampled(pair.truth, grid),
        x_s=(pair.x_s @ linear.T + shift).astype(np.float32),
        x_d=(pair.x_d @ linear.T + shift).astype(np.float32),
        jacobian=(linear @ pair.jacobian @ back).astype(np.float32),
        inside=(grid.abs().amax(-1) < 1).float()[:, None],
    )


def _another_body(pair: Pair, rng: np.random.Generator) -> Pair:
    """The frames with everything below the face shifted, each by another amount."""
    size = pair.truth.shape[-1]
    line = (torch.arange(size, dtype=torch.float32) * 2 + 1) / size - 1
    chin = torch.from_numpy(pair.x_d[:, : lm.LANDMARKS, 1].max(1))
    fade = ((line[None] - chin[:, None] + 0.1 * NECK) / NECK).clamp(0, 1)
    fade = fade * fade * (3 - 2 * fade)
    y, x = torch.meshgrid(line, line, indexing="ij")
    shift = torch.from_numpy(rng.normal(0, BODY, (len(chin), 2)).astype(np.float32))
    grid = torch.stack((x, y), -1)[None] - fade[:, :, None, None] * shift[:, None, None]
    return replace(pair, truth=_sampled(pair.truth, grid.to(pair.truth.device)))


def _sampled(pictures: Tensor, grid: Tensor) -> Tensor:
    where = grid.expand(len(pictures), -1, -1, -1)
    return F.grid_sample(pictures, where, padding_mode="border", align_corners=False)
