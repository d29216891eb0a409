"""The networks with full convolutions from which those that ship were distilled (Hinton et al. 2015).

The renderer has ten times the arithmetic, moves features at 128x128 as well, and takes chequers out before the sigmoid;
the landmark networks have four times as much. All else is the students'.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kilocall.model import landmarks as lm
from kilocall.model.compact.blocks import Residual, conv, double
from kilocall.model.compact.extractor import FaceNet, HeatmapHead, RegionNet
from kilocall.model.compact.regions import FACE_INPUT
from kilocall.model.compact.renderer import (
    DENSE_START,
    IMPLICIT,
    AppearanceNet,
    Field,
    ImplicitDetector,
    MotionField,
    densely,
    sample,
    upsample,
)
from kilocall.model.compact.renderer_constants import TAPS
from kilocall.model.compact.sketch import MAPS, FaceSketch

__all__ = ["ExtractorTeacher", "Teacher"]


class FullField(MotionField):
    def __init__(self) -> None:
        super().__init__()
        points = lm.LANDMARKS + IMPLICIT
        self.enter = conv(points + 34, 64, stride=2)
        self.down_16 = nn.Sequential(conv(64, 96, stride=2), Residual(96))
        self.down_8 = nn.Sequential(conv(96, 128, stride=2), Residual(128))
        self.up_16 = conv(128 + 96, 96)
        self.up_32 = conv(96 + 64, 64)
        self.up_64 = conv(64 + 32, 32)
        self.assign = nn.Conv2d(32, points + 1, 3, 1, 1)
        self.adjust = nn.Conv2d(32, 3, 3, 1, 1)


class Smooth(nn.Module):
    """`renderer.smooth` on phases that are not put together yet [B, 16, S, S]."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        kernel = torch.zeros(2, 2, 2, 2, 3, 3)  # to dy, dx from dy, dx of the neighbour at row, column
        for dy, dx in itertools.product(range(2), repeat=2):
            for (i, down), (j, across) in itertools.product(enumerate(TAPS, -2), repeat=2):
                row, column = dy + i, dx + j
                kernel[dy, dx, row % 2, column % 2, row // 2 + 1, column // 2 + 1] += down * across
        self.register_buffer("kernel", kernel.reshape(4, 4, 3, 3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        groups = x.shape[1] // 4
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
        return F.conv2d(padded, self.kernel.to(x.dtype).repeat(groups, 1, 1, 1), groups=groups)


class FullGenerator(nn.Module):
    def __init__(self, a: int = 24, b: int = 48, c: int = 96) -> None:
        super().__init__()
        self.join_32 = conv(c + 64, c)
        self.body = nn.Sequential(Residual(c), Residual(c), Residual(c))
        self.narrow_32 = conv(c, b, kernel=1)
        self.join_64 = nn.Sequential(conv(b + b + 32, b), Residual(b))
        self.narrow_64 = conv(b, a, kernel=1)
        self.join_128 = nn.Sequential(conv(a + a, 32), Residual(32))
        self.sketch = FaceSketch()
        self.drawn = nn.Conv2d(MAPS, 32, 3, 1, 1, bias=False)
        self.paint = nn.Conv2d(32, 16, 3, 1, 1)
        self.smooth = Smooth()
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, features: Features, field: Field, x_d: Tensor, interior: Tensor) -> Tensor:
        at_128, at_64, at_32 = features
        flow, visible = field.displacement, field.visible
        half = F.avg_pool2d(flow, 2)
        x = self.join_32(torch.cat((sample(at_32, half) * F.avg_pool2d(visible, 2), field.coarse), 1))
        x = double(self.narrow_32(self.body(x)))
        x = self.join_64(torch.cat((x, sample(at_64, flow) * visible, field.fine), 1))
        x = double(self.narrow_64(x))
        join, refine = self.join_128
        x = join(torch.cat((x, sample(at_128, upsample(flow, 2)) * upsample(visible, 2)), 1))
        x = refine(x + self.drawn(self.sketch(x_d, interior)))
        painted: Tensor = self.shuffle(self.smooth(self.paint(x)))
        return painted


Features = tuple[Tensor, Tensor, Tensor]  # at 128, 64 and 32


class Teacher(nn.Module):
    """Its state dict is a renderer's of before the distillation."""

    def __init__(self) -> None:
        super().__init__()
        self.implicit = ImplicitDetector()
        self.appearance = AppearanceNet()
        self.field = FullField()
        self.generator = FullGenerator()

    def features(self, picture: Tensor) -> tuple[Features, Tensor]:
        """Features of source pictures and their cues for the motion field."""
        net = self.appearance
        at_128 = net.at_128(picture * 2 - 1)
        at_64 = net.at_64(at_128)
        cue = torch.cat((net.thumb(picture) * 2 - 1, net.cue(at_64)), 1)
        return (at_128, at_64, net.at_32(at_64)), cue

    def forward(
        self,
        picture: Tensor,
        features: Features,
        cue: Tensor,
        x_s: Tensor,
        x_d: Tensor,
        jacobian: Tensor,
        interior: Tensor,
    ) -> tuple[Tensor, Field]:
        """Made pictures [B, 3, 256, 256] in 0..1 of source pictures of the same shape, and the motion field."""
        field = self.field(cue, x_s, x_d, jacobian)
        copied = sample(densely(picture), upsample(field.displacement, 4), start=DENSE_START)
        painted = self.generator(features, field, x_d, interior).float()
        paint = upsample(field.gate, 4) * torch.sigmoid(-painted[:, 3:])
        return copied + paint * (torch.sigmoid(painted[:, :3]) - copied), field


class FullFace(FaceNet):
    def __init__(self, points: int = lm.LANDMARKS) -> None:
        super().__init__(points)
        self.quarter = nn.Sequential(conv(24, 48, stride=2), Residual(48))
        self.eighth = nn.Sequential(conv(48, 96, stride=2), Residual(96))
        self.sixteenth = nn.Sequential(conv(96, 160, stride=2), Residual(160), Residual(160))
        self.up_eighth = conv(160 + 96, 96)
        self.up_quarter = nn.Sequential(conv(96 + 48, 72), Residual(72))
        self.head = HeatmapHead(72, points, FACE_INPUT // 4)


class FullRegion(RegionNet):
    def __init__(self, points: int) -> None:
        super().__init__(points)
        self.eighth = nn.Sequential(conv(48, 96, stride=2), Residual(96))
        self.up_quarter = conv(96 + 48, 48)
        self.up_half = conv(48 + 24, 40)


class ExtractorTeacher(nn.Module):
    """Its state dict is an extractor's of before the distillation."""

    def __init__(self) -> None:
        super().__init__()
        self.face = FullFace()
        self.eye = FullRegion(len(lm.RIGHT_EYE_REGION))
        self.mouth = FullRegion(len(lm.MOUTH_REGION))
