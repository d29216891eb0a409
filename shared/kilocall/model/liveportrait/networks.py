"""LivePortrait's networks, with the names and shapes of the public weights (Guo et al. 2024; weights MIT)."""

from __future__ import annotations

from itertools import pairwise
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kilocall.model.volume.appearance import CHANNELS, DEPTH
from kilocall.model.volume.blocks import SameBlock2d
from kilocall.model.volume.motion_field import MotionFieldEstimator, warp
from kilocall.model.volume.pose import BINS, about_axes, expected_degrees

KEYPOINTS: Final = 21
#: Degrees of the first bin.
FIRST_BIN: Final = -97.5
LEAK: Final = 0.01
_DEPTHS: Final = (3, 3, 9, 3)
_WIDTHS: Final = (96, 192, 384, 768)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of a picture [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(channels)), nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        last = x.permute(0, 2, 3, 1)
        return F.layer_norm(last, self.weight.shape, self.weight, self.bias, 1e-6).permute(0, 3, 1, 2)


class ResponseNorm(nn.Module):
    """Global response normalisation of ConvNeXt V2 (Woo et al. 2023), channels last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.empty(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        energy = x.square().sum((1, 2), keepdim=True).sqrt()
        share = energy / (energy.mean(-1, keepdim=True) + 1e-6)
        return self.gamma * (x * share) + self.beta + x


class NextBlock(nn.Module):
    """ConvNeXt V2 block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.grn = ResponseNorm(4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.pwconv2(self.grn(F.gelu(self.pwconv1(y))))
        changed: Tensor = y.permute(0, 3, 1, 2)
        return x + changed


class Head(NamedTuple):
    """What the motion extractor says of a picture.

    Scores of the angles [B, 66], translation [B, 3] (its third number is not used), deltas [B, K, 3], scale [B, 1],
    canonical keypoints [B, K, 3].
    """

    yaw: Tensor
    pitch: Tensor
    roll: Tensor
    translation: Tensor
    expression: Tensor
    scale: Tensor
    canonical: Tensor


class _Detector(nn.Module):
    """ConvNeXt V2 tiny with heads."""

    def __init__(self) -> None:
        super().__init__()
        self.downsample_layers = nn.ModuleList()
        self.downsample_layers.append(nn.Sequential(nn.Conv2d(3, _WIDTHS[0], 4, 4), ChannelNorm(_WIDTHS[0])))
        for a, b in pairwise(_WIDTHS):
            self.downsample_layers.append(nn.Sequential(ChannelNorm(a), nn.Conv2d(a, b, 2, 2)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(NextBlock(width) for _ in range(depth)))
            for depth, width in zip(_DEPTHS, _WIDTHS, strict=True)
        )
        self.norm = nn.LayerNorm(_WIDTHS[-1], eps=1e-6)
        self.fc_kp = nn.Linear(_WIDTHS[-1], 3 * KEYPOINTS)
        self.fc_scale = nn.Linear(_WIDTHS[-1], 1)
        self.fc_pitch, self.fc_yaw, self.fc_roll = (nn.Linear(_WIDTHS[-1], BINS) for _ in range(3))
        self.fc_t = nn.Linear(_WIDTHS[-1], 3)
        self.fc_exp = nn.Linear(_WIDTHS[-1], 3 * KEYPOINTS)

    def forward(self, picture: Tensor) -> Head:
        x = picture
        for shrink, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(shrink(x))
        x = self.norm(x.mean((2, 3)))
        return Head(
            self.fc_yaw(x),
            self.fc_pitch(x),
            self.fc_roll(x),
            self.fc_t(x),
            self.fc_exp(x).reshape(-1, KEYPOINTS, 3),
            self.fc_scale(x),
            self.fc_kp(x).reshape(-1, KEYPOINTS, 3),
        )


class MotionExtractor(nn.Module):
    """Canonical keypoints, pose, scale and expression of a picture [B, 3, 256, 256] in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = _Detector()

    def forward(self, picture: Tensor) -> Head:
        made: Head = self.detector(picture)
        return made


def rotation(head: Head) -> Tensor:
    """R [B, 3, 3] that canonical keypoints as columns are multiplied by, from the left."""
    about_y, about_x, about_z = about_axes(*(torch.deg2rad(expected_degrees(s, FIRST_BIN)) for s in head[:3]))
    return about_z @ about_y @ about_x


def keypoints(canonical: Tensor, head: Head) -> Tensor:
    """x = s (R x_c + delta) + t [B, K, 3]; t moves x and y alone."""
    turned = canonical @ rotation(head).transpose(1, 2) + head.expression
    flat = head.translation * torch.tensor([1.0, 1.0, 0.0], device=turned.device)
    return turned * head.scale[..., None] + flat[:, None]


class WarpingModule(nn.Module):
    """Source volume and keypoints to the features that the decoder wants."""

    def __init__(self) -> None:
        super().__init__()
        self.dense_motion_network = MotionFieldEstimator(KEYPOINTS)
        self.third = SameBlock2d(CHANNELS * DEPTH, 256, slope=LEAK)
        self.fourth = nn.Conv2d(256, 256, 1)

    def features(self, warped: Tensor, occlusion: Tensor) -> Tensor:
        """[B, 256, 64, 64] of a warped volume [B, 32, 16, 64, 64]."""
        made: Tensor = self.fourth(self.third(warped.flatten(1, 2))) * occlusion
        return made

    def forward(self, volume: Tensor, x_s: Tensor, x_d: Tensor) -> tuple[Tensor, Tensor]:
        """Features and occlusion [B, 1, 64, 64]."""
        field = self.dense_motion_network(volume, x_s, x_d)
        return self.features(warp(volume, field.deformation), field.occlusion), field.occlusion
