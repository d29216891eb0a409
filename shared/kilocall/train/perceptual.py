"""A perceptual loss from the landmark networks: no weights trained elsewhere are needed.

Networks that find lids and lips on any face have features for just what people look at. The whole crop is compared at
128x128, eyes and mouth at full resolution in the same close-ups that the extractor uses.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kilocall.model.compact import regions as rg
from kilocall.model.compact.blocks import pixel_centres
from kilocall.model.compact.extractor import Extractor, RegionNet
from kilocall.model.compact.regions import REGION_INPUT


class LandmarkPerception(nn.Module):
    """L1 between the features that a frozen extractor sees in two pictures."""

    grid: Tensor

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.extractor = extractor.eval().requires_grad_(False)
        self.register_buffer("grid", pixel_centres(REGION_INPUT).reshape(1, -1, 2), persistent=False)

    def forward(self, made: Tensor, truth: Tensor, points: Tensor) -> Tensor:
        """Pictures [B, 3, 256, 256] in 0..1; `points` [B, K, 2] are where the landmarks of `truth` are."""
        matrices = torch.from_numpy(np.stack([rg.regions(p) for p in points.detach().float().cpu().numpy()]))
        where = self._region_grids(matrices.to(made.device))
        both = torch.cat((made, truth))
        total = _apart(self._face(F.avg_pool2d(both, 2)))
        close = F.grid_sample(both.repeat_interleave(3, 0), torch.cat((where, where)), align_corners=False)
        close = close.reshape(len(both), 3, *close.shape[1:])
        eyes = close[:, :2].flatten(0, 1).contiguous(memory_format=torch.channels_last)
        mouth = close[:, 2].contiguous(memory_format=torch.channels_last)
        for net, region in ((self.extractor.eye, eyes), (self.extractor.mouth, mouth)):
            total = total + _apart(self._region(net, region))
        return total

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
    def _region(net: RegionNet, region: Tensor) -> list[Tensor]:
        stem = net.stem(region * 2 - 1)
        return [stem, net.quarter(stem)]


def _apart(features: list[Tensor]) -> Tensor:
    """Mean difference of the two halves of each batch, relative to how strong the features are."""
    total = torch.zeros((), device=features[0].device)
    for f in features:
        made, truth = f.float().chunk(2)
        total = total + (made - truth).abs().mean() / truth.abs().mean().clamp(min=1e-3)
    return total / len(features)
