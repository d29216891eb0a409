"""Blocks of face-vid2vid's networks (Wang et al. 2021, figure 3 and appendix A), with the names of the public weights.

2-D pictures are [B, C, H, W], volumes [B, C, D, H, W]. Pooling and enlarging leave the depth of a volume alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SameBlock2d(nn.Module):
    """Convolution, batch norm, activation; the size stays. `slope` is what negative values are multiplied by."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, slope: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(outputs)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return F.leaky_relu(x, self.slope) if self.slope else F.relu(x)


class DownBlock2d(nn.Module):
    """Convolution, batch norm, ReLU, then half the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(F.relu(self.norm(self.conv(x))), 2)


class UpBlock2d(nn.Module):
    """Twice the size by repeating pixels, then convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))))


class DownBlock3d(nn.Module):
    """As DownBlock2d on a volume; the depth stays."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm3d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool3d(F.relu(self.norm(self.conv(x))), (1, 2, 2))


class UpBlock3d(nn.Module):
    """As UpBlock2d on a volume; the depth stays."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm3d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(F.interpolate(x, scale_factor=(1.0, 2.0, 2.0), mode="nearest"))))


class ResBlock2d(nn.Module):
    """Pre-activation residual block (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(channels)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(F.relu(self.norm1(x)))
        changed: Tensor = self.conv2(F.relu(self.norm2(inner)))
        return x + changed


class ResBlock3d(nn.Module):
    """Pre-activation residual block on a volume."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm1 = nn.BatchNorm3d(channels)
        self.norm2 = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(F.relu(self.norm1(x)))
        changed: Tensor = self.conv2(F.relu(self.norm2(inner)))
        return x + changed


def widths(first: int, most: int, blocks: int) -> list[int]:
    """Channels of `blocks` halvings, doubling from `first` on, never above `most`."""
    return [min(most, first * 2 ** (i + 1)) for i in range(blocks)]


def coordinate_grid(depth: int, height: int, width: int, like: Tensor) -> Tensor:
    """[D, H, W, 3] coordinates x, y, z from -1 to 1, the ends at the centres of the outermost cells."""

    def axis(count: int) -> Tensor:
        return torch.linspace(-1, 1, count, dtype=torch.float32, device=like.device)

    z, y, x = torch.meshgrid(axis(depth), axis(height), axis(width), indexing="ij")
    return torch.stack((x, y, z), 3)
