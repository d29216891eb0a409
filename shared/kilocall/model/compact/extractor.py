"""Landmark networks: one look at the whole crop, then close-ups of the eyes and the mouth.

The whole crop at 128x128 gives every landmark to about 1 % of the crop. Lids and lips move by less than that, so two
small networks look again, at full resolution, at each eye (the left one mirrored) and at the mouth.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kilocall.model import landmarks as lm
from kilocall.model.compact.blocks import Residual, SeparableResidual, conv, double, pixel_centres, separable
from kilocall.model.compact.regions import FACE_INPUT, REGION_INPUT

# The grid reaches a little past the picture, because chins and ears do.
GRID_REACH = 1.15


def _residuals(channels: int) -> list[nn.Module]:
    return [Residual(channels)]


def _light_residuals(channels: int) -> list[nn.Module]:
    """In place of one full block, whose two convolutions are worth three light blocks: a sixth of the arithmetic."""
    return [SeparableResidual(channels) for _ in range(3)]


class HeatmapHead(nn.Module):
    """Features [B, C, S, S] to points [B, K, 2] by soft-argmax of one heat map a point."""

    grid: Tensor

    def __init__(self, channels: int, points: int, size: int, kernel: int = 3) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, points, kernel, 1, kernel // 2)
        self.register_buffer("grid", pixel_centres(size).reshape(-1, 2) * GRID_REACH, persistent=False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Points in -1..1 and log-probabilities [B, K, S * S]."""
        log_heat = torch.log_softmax(self.score(features).flatten(2).float(), -1)
        return log_heat.exp() @ self.grid, log_heat


class FaceLevels(NamedTuple):
    """What the blocks of the face network give, in their order."""

    quarter: Tensor  # [B, 48, 32, 32]
    eighth: Tensor  # [B, 96, 16, 16]
    sixteenth: Tensor  # [B, 160, 8, 8]
    up_eighth: Tensor  # [B, 96, 16, 16]
    up_quarter: Tensor  # [B, 72, 32, 32]


class RegionLevels(NamedTuple):
    """What the blocks of a close-up's network give beyond a quarter of the size."""

    eighth: Tensor  # [B, 96, 8, 8]
    up_quarter: Tensor  # [B, 48, 16, 16]
    up_half: Tensor  # [B, 40, 32, 32]


class FaceNet(nn.Module):
    """Crop [B, 3, 128, 128] in 0..1 to points [B, K, 2], depths [B, K] and a face logit [B]."""

    def __init__(self, points: int = lm.LANDMARKS, *, light: bool = False) -> None:
        super().__init__()
        block, residuals = (separable, _light_residuals) if light else (conv, _residuals)
        self.stem = conv(3, 24, stride=2)
        self.quarter = nn.Sequential(conv(24, 48, stride=2), *residuals(48))
        self.eighth = nn.Sequential(conv(48, 96, stride=2), *residuals(96))
        self.sixteenth = nn.Sequential(conv(96, 160, stride=2), *residuals(160), *residuals(160))
        self.up_eighth = block(160 + 96, 96)
        if light:
            self.up_eighth.append(SeparableResidual(96))
        self.up_quarter = nn.Sequential(block(96 + 48, 72), *residuals(72))
        self.head = HeatmapHead(72, points, FACE_INPUT // 4, kernel=1 if light else 3)
        self.global_head = nn.Sequential(nn.Linear(160 * 4, 128), nn.ReLU(), nn.Linear(128, points + 1))
        self.pool = nn.AvgPool2d(4)

    def levels(self, crop: Tensor, given: FaceLevels | None = None) -> FaceLevels:
        """Every block of `given` takes the place of what this network's own gives to the next ones."""
        quarter = self.quarter(self.stem(crop * 2 - 1))
        at_4 = quarter if given is None else given.quarter
        eighth = self.eighth(at_4)
        at_8 = eighth if given is None else given.eighth
        sixteenth = self.sixteenth(at_8)
        up = self.up_eighth(torch.cat((double(sixteenth if given is None else given.sixteenth), at_8), 1))
        fine = self.up_quarter(torch.cat((double(up if given is None else given.up_eighth), at_4), 1))
        return FaceLevels(quarter, eighth, sixteenth, up, fine)

    def forward(self, crop: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.read(self.levels(crop))

    def read(self, levels: FaceLevels) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Points, depths, face logit and log heat maps."""
        points, log_heat = self.head(levels.up_quarter)
        glob = self.global_head(self.pool(levels.sixteenth).flatten(1).float())
        return points, glob[:, :-1], glob[:, -1], log_heat


class RegionNet(nn.Module):
    """Close-up [B, 3, 64, 64] in 0..1 to points [B, K, 2] within the close-up."""

    def __init__(self, points: int, *, light: bool = False) -> None:
        super().__init__()
        block, residual = (separable, SeparableResidual) if light else (conv, Residual)
        self.stem = nn.Sequential(conv(3, 24, stride=2), Residual(24))
        self.quarter = nn.Sequential(conv(24, 48, stride=2), Residual(48))
        self.eighth = nn.Sequential(conv(48, 96, stride=2), residual(96))
        self.up_quarter = block(96 + 48, 48)
        self.up_half = block(48 + 24, 40)
        self.head = HeatmapHead(40, points, REGION_INPUT // 2)

    def forward(self, region: Tensor) -> tuple[Tensor, Tensor]:
        points, log_heat = self.head(self.levels(*self.below(region)).up_half)
        return points, log_heat

    def below(self, region: Tensor) -> tuple[Tensor, Tensor]:
        """Features at half and a quarter of the size."""
        half = self.stem(region * 2 - 1)
        return half, self.quarter(half)

    def levels(self, half: Tensor, quarter: Tensor) -> RegionLevels:
        eighth = self.eighth(quarter)
        up = self.up_quarter(torch.cat((double(eighth), quarter), 1))
        return RegionLevels(eighth, up, self.up_half(torch.cat((double(up), half), 1)))


class Extractor(nn.Module):
    """The three landmark networks, trained together and exported one by one.

    Light ones have pointwise and depthwise convolutions in place of most full ones: a quarter of the arithmetic.
    """

    def __init__(self, *, light: bool = False) -> None:
        super().__init__()
        self.face = FaceNet(light=light)
        self.eye = RegionNet(len(lm.RIGHT_EYE_REGION), light=light)
        self.mouth = RegionNet(len(lm.MOUTH_REGION), light=light)


def is_light(state: Collection[str]) -> bool:
    """Whether light networks have a state dict with these names."""
    return "face.up_eighth.3.weight" in state
