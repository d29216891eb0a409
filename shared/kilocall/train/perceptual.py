"""A perceptual loss from the landmark networks: no weights trained elsewhere are needed.

Networks that find lids and lips on any face have features for just what people look at. The whole crop is compared at
128x128, eyes and mouth at full resolution in the same close-ups that the extractor uses.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kilocall.model.compact.blocks import pixel_centres
from kilocall.model.compact.extractor import Extractor, RegionNet
from kilocall.model.compact.regions import REGION_INPUT
from kilocall.train.losses import eye_opening_apart, gaze_apart, lip_opening_apart, relative_l1

# Irises are small and follow last: counted once they moved by 0.40 of what the keypoints asked, lids by 0.68.
GAZE = 2.5


class Seen(NamedTuple):
    """What the landmark networks say of made pictures beside true ones."""

    features: Tensor  # scalar: relative L1 between what they see
    disagreement: Tensor  # scalar: mean distance of the lid and lip points that they find, pixels
    movement: Tensor  # scalar: mean difference of how far lids and lips open and irises turn, pixels
    eyes: tuple[Tensor, Tensor]  # made and true close-ups [B * 2, 3, 64, 64], left eyes mirrored
    mouth: tuple[Tensor, Tensor]  # [B, 3, 64, 64]


class LandmarkPerception(nn.Module):
    """L1 between the features that a frozen extractor sees in two pictures, and between the points that it finds."""

    grid: Tensor

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.extractor = extractor.eval().requires_grad_(False)
        self.register_buffer("grid", pixel_centres(REGION_INPUT).reshape(1, -1, 2), persistent=False)

    def forward(self, made: Tensor, truth: Tensor, matrices: Tensor) -> Seen:
        """Pictures [B, 3, 256, 256] in 0..1; `matrices` [B, 3, 2, 3] are the close-ups' places, see `regions`."""
        where = self._region_grids(matrices)
        both = torch.cat((made, truth))
        features = _apart(self._face(F.avg_pool2d(both, 2)))
        close = F.grid_sample(both.repeat_interleave(3, 0), torch.cat((where, where)), align_corners=False)
        each = close.reshape(len(both), 3, *close.shape[1:])
        eyes = each[:, :2].flatten(0, 1).contiguous(memory_format=torch.channels_last)
        mouth = each[:, 2].contiguous(memory_format=torch.channels_last)
        disagreement = movement = torch.zeros((), device=made.device)
        for net, region, apart in (
            (self.extractor.eye, eyes, _eye_apart),
            (self.extractor.mouth, mouth, lip_opening_apart),
        ):
            stages, found = self._region(net, region)
            features = features + _apart(stages)
            a, b = found.chunk(2)
            disagreement = disagreement + (a - b).norm(dim=-1).mean() * (REGION_INPUT / 2)
            movement = movement + apart(a, b).mean() * (REGION_INPUT / 2)
        return Seen(features, disagreement, movement, _halves(eyes), _halves(mouth))

    def _region_grids(self, matrices: Tensor) -> Tensor:
        """Sampling grids [B * 3, 64, 64, 2] of region matrices [B, 3, 2, 3]."""
        flat = matrices.flatten(0, 1)
        grid = self.grid @ flat[:, :, :2].transpose(1, 2) + flat[:, None, :, 2]
        return grid.reshape(-1, REGION_INPUT, REGION_INPUT, 2)

    def _face(self, crop: Tensor) -> list[Tensor]:
        net = self.extractor.face
        stem = net.stem(crop.contiguous(memory_format=torch.channels_last) * 2 - 1)
        quarter = net.quarter(stem)
        return [stem, quarter, net.eighth(quarter)]

    @staticmethod
    def _region(net: RegionNet, region: Tensor) -> tuple[list[Tensor], Tensor]:
        below = net.below(region)
        return list(below), net.head(net.levels(*below).up_half)[0]


def _halves(batch: Tensor) -> tuple[Tensor, Tensor]:
    made, truth = batch.chunk(2)
    return made, truth


def _eye_apart(found: Tensor, truth: Tensor) -> Tensor:
    return eye_opening_apart(found, truth) + GAZE * gaze_apart(found, truth)


def _apart(features: list[Tensor]) -> Tensor:
    """Mean difference of the two halves of each batch, relative to how strong the features are."""
    total = torch.zeros((), device=features[0].device)
    for f in features:
        total = total + relative_l1(*f.chunk(2))
    return total / len(features)
