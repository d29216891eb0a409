"""Convolution blocks shared by the networks of the compact family. Batch norm folds into the convolutions on export."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(channels_in: int, channels_out: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU. ReLU because it quantises to 8 bits without a table."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class Residual(nn.Module):
    """Two 3x3 convolutions around an identity; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


def separable(channels_in: int, channels_out: int, *, stride: int = 1) -> nn.Sequential:
    """A pointwise and a depthwise 3x3 convolution in place of a full one (MobileNets, Howard et al. 2017), pointwise
    first because it narrows. A ninth of the arithmetic and less."""
    return nn.Sequential(
        *conv(channels_in, channels_out, kernel=1),
        nn.Conv2d(channels_out, channels_out, 3, stride, 1, groups=channels_out, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class SeparableResidual(nn.Module):
    """A depthwise 3x3 and a pointwise convolution around an identity; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dw = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.pw = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.pw(self.dw(x))))


def double(x: Tensor) -> Tensor:
    """Nearest-neighbour upsampling by two: exact in every engine, and the next convolution smooths it."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def pixel_centres(size: int) -> Tensor:
    """Coordinates [size, size, 2] (x, y) of the pixel centres of a picture that spans -1..1."""
    line = (torch.arange(size, dtype=torch.float32) * 2 + 1) / size - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack((x, y), -1)
