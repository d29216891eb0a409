"""The five networks of face-vid2vid, with the names and shapes of the public Vox-256 checkpoints.

Written from the paper (Wang, Mallya, Liu, CVPR 2021) and the checkpoints' tables of contents. The public weights, not
this code, are CC BY-NC 4.0.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kilocall.model.volume.appearance import CHANNELS, DEPTH, AppearanceExtractor
from kilocall.model.volume.blocks import DownBlock2d, ResBlock2d, SameBlock2d, UpBlock2d, UpBlock3d, widths
from kilocall.model.volume.motion_field import MotionFieldEstimator, warp
from kilocall.model.volume.pose import BINS, about_axes, expected_degrees
from kilocall.model.volume.spade import SpadeDecoder

KEYPOINTS: Final = 15
#: Degrees of the first bin.
FIRST_BIN: Final = -99.0
#: The weights were trained with this for pi.
PI: Final = 3.14
LEAK: Final = 0.01

Order = Literal["new", "beta"]


class KeypointDetector(nn.Module):
    """Canonical keypoints of a picture: soft positions of the maxima of K heat volumes (figure 3).

    `shrink` says whether the picture is first reduced to a quarter, as in the "new" checkpoints; "beta" looks at all.
    """

    def __init__(self, *, shrink: bool = True) -> None:
        super().__init__()
        self.predictor = _KeypointHourglass()
        self.kp = nn.Conv3d(32, KEYPOINTS, 3, padding=1)
        if shrink:
            self.down = SmoothShrink()
        self.shrink = shrink

    def forward(self, picture: Tensor) -> Tensor:
        """Picture [B, 3, 256, 256] in 0..1 to x_c [B, K, 3] in -1..1."""
        heat = self.kp(self.predictor(self.down(picture) if self.shrink else picture))
        flat = torch.softmax(heat.flatten(2) / 0.1, 2).reshape(heat.shape)
        # The mean of each coordinate needs only the sums across the other two axes.
        along = [flat.sum(axes) for axes in ((2, 3), (2, 4), (3, 4))]
        cells = [torch.linspace(-1, 1, a.shape[2], device=a.device) for a in along]
        return torch.stack([(a * c).sum(2) for a, c in zip(along, cells, strict=True)], 2)


class _KeypointHourglass(nn.Module):
    """2-D encoder, 3-D decoder: [B, 3, H, W] to [B, 32, 16, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        outputs = widths(32, 1024, 5)
        before, after = [3, *outputs[:-1]], [32, *outputs[:-1]]
        self.down_blocks, self.up_blocks = nn.Sequential(), nn.Sequential()
        for number, (a, b) in enumerate(zip(before, outputs, strict=True)):
            self.down_blocks.add_module(f"down{number}", DownBlock2d(a, b))
        self.conv = nn.Conv2d(outputs[-1], outputs[-1] * DEPTH, 1)
        for number, (a, b) in enumerate(zip(reversed(outputs), reversed(after), strict=True)):
            self.up_blocks.add_module(f"up{number}", UpBlock3d(a, b))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.down_blocks(x))
        made: Tensor = self.up_blocks(x.reshape(len(x), -1, DEPTH, *x.shape[2:]))
        return made


class SmoothShrink(nn.Module):
    """A quarter of the size: a Gaussian of deviation 1.5 pixels, then every fourth pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", shrink_kernel())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.get_buffer("weight"), padding=6, stride=4, groups=3)


def shrink_kernel() -> Tensor:
    """[3, 1, 13, 13], each channel's sum is one."""
    bell = torch.exp(-((torch.arange(13, dtype=torch.float32) - 6) ** 2) / (2 * 1.5**2))
    flat = bell[:, None] * bell
    return (flat / flat.sum()).expand(3, 1, 13, 13).clone()


class Bottleneck(nn.Module):
    """Residual block of 1x1, 3x3, 1x1 convolutions (He et al. 2016); with stride 2 the shortcut is a convolution."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        inner = channels // 4
        self.conv1 = nn.Conv2d(channels, inner, 1)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1)
        self.conv3 = nn.Conv2d(inner, channels, 1)
        self.norm1, self.norm2 = nn.BatchNorm2d(inner), nn.BatchNorm2d(inner)
        self.norm3 = nn.BatchNorm2d(channels)
        self.stride = stride
        if stride != 1:
            self.skip = nn.Conv2d(channels, channels, 1, stride)
            self.norm4 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        straight = x if self.stride == 1 else self.norm4(self.skip(x))
        return F.relu(self.norm3(self.conv3(y)) + straight)


class Head(NamedTuple):
    """What a head network says of a picture: scores of the angles [B, 66], translation [B, 3], deltas [B, K, 3]."""

    yaw: Tensor
    pitch: Tensor
    roll: Tensor
    translation: Tensor
    expression: Tensor


class HeadEstimator(nn.Module):
    """Head pose and expression deltas of a picture: ResNet-50 with its own heads (figure 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 64, 7, 2, padding=3), nn.BatchNorm2d(64)
        self.conv2, self.norm2 = nn.Conv2d(64, 256, 1), nn.BatchNorm2d(256)
        self.block1 = _stage("b1", 256, 3)
        self.conv3, self.norm3 = nn.Conv2d(256, 512, 1), nn.BatchNorm2d(512)
        self.block2 = Bottleneck(512, 2)
        self.block3 = _stage("b3", 512, 3)
        self.conv4, self.norm4 = nn.Conv2d(512, 1024, 1), nn.BatchNorm2d(1024)
        self.block4 = Bottleneck(1024, 2)
        self.block5 = _stage("b5", 1024, 5)
        self.conv5, self.norm5 = nn.Conv2d(1024, 2048, 1), nn.BatchNorm2d(2048)
        self.block6 = Bottleneck(2048, 2)
        self.block7 = _stage("b7", 2048, 2)
        self.fc_roll, self.fc_pitch, self.fc_yaw = (nn.Linear(2048, BINS) for _ in range(3))
        self.fc_t = nn.Linear(2048, 3)
        self.fc_exp = nn.Linear(2048, 3 * KEYPOINTS)

    def forward(self, picture: Tensor) -> Head:
        """Picture [B, 3, 256, 256] in 0..1."""
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(picture))), 3, 2, padding=1)
        x = self.block1(F.relu(self.norm2(self.conv2(x))))
        x = self.block3(self.block2(F.relu(self.norm3(self.conv3(x)))))
        x = self.block5(self.block4(F.relu(self.norm4(self.conv4(x)))))
        x = self.block7(self.block6(F.relu(self.norm5(self.conv5(x)))))
        x = x.mean((2, 3))
        # The public code returned the layers in this order and its callers named them yaw, pitch, roll.
        yaw, pitch, roll = self.fc_roll(x), self.fc_pitch(x), self.fc_yaw(x)
        return Head(yaw, pitch, roll, self.fc_t(x), self.fc_exp(x).reshape(-1, KEYPOINTS, 3))


def _stage(name: str, channels: int, blocks: int) -> nn.Sequential:
    stage = nn.Sequential()
    for number in range(blocks):
        stage.add_module(f"{name}_{number}", Bottleneck(channels))
    return stage


def rotation(head: Head, order: Order) -> Tensor:
    """R [B, 3, 3] of a head's angles; the two generations of checkpoints turn about the axes in different order."""
    yaw, pitch, roll = (expected_degrees(s, FIRST_BIN) / 180 * PI for s in head[:3])
    about_y, about_x, about_z = about_axes(yaw, pitch, roll)
    return about_x @ about_y @ about_z if order == "new" else about_z @ about_x @ about_y


def keypoints(canonical: Tensor, head: Head, order: Order) -> Tensor:
    """x = R x_c + t + delta [B, K, 3] (equations 1 and 2)."""
    return canonical @ rotation(head, order).transpose(1, 2) + head.translation[:, None] + head.expression


class Generated(NamedTuple):
    """Picture [B, 3, 256, 256] in 0..1, and which of the source was visible [B, 1, 64, 64]."""

    picture: Tensor
    occlusion: Tensor


class Generator(AppearanceExtractor):
    """Appearance extractor, motion field and decoder: what the checkpoints call the generator."""

    def __init__(self, decoder: Literal["spade", "original"]) -> None:
        super().__init__(3 if decoder == "spade" else 7)
        self.dense_motion_network = MotionFieldEstimator(KEYPOINTS)
        self.third = SameBlock2d(CHANNELS * DEPTH, 256, slope=LEAK)
        self.fourth = nn.Conv2d(256, 256, 1)
        self.spade = decoder == "spade"
        if self.spade:
            self.decoder = SpadeDecoder()
        else:
            self.resblocks_2d = nn.Sequential()
            for number in range(6):
                self.resblocks_2d.add_module(f"2dr{number}", ResBlock2d(256))
            self.up_blocks = nn.ModuleList((UpBlock2d(256, 128), UpBlock2d(128, 64)))
            self.final = nn.Conv2d(64, 3, 7, padding=3)

    def decode(self, warped: Tensor, occlusion: Tensor) -> Tensor:
        """Picture [B, 3, 256, 256] of a warped volume [B, 32, 16, 64, 64]."""
        x = self.fourth(self.third(warped.flatten(1, 2))) * occlusion
        if self.spade:
            made: Tensor = self.decoder(x)
            return made
        x = self.resblocks_2d(x)
        for block in self.up_blocks:
            x = block(x)
        return torch.sigmoid(self.final(x))

    def forward(self, picture: Tensor, x_s: Tensor, x_d: Tensor) -> Generated:  # type: ignore[override]
        """Source picture [B, 3, 256, 256] in 0..1 and keypoints [B, K, 3] of source and driving picture."""
        volume = self.volume(picture)
        field = self.dense_motion_network(volume, x_s, x_d)
        return Generated(self.decode(warp(volume, field.deformation), field.occlusion), field.occlusion)
