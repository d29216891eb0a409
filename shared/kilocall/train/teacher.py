"""The landmark networks with full convolutions from which those that ship were distilled (Hinton et al. 2015).

They have four times the arithmetic; all else is the students'.
"""

from __future__ import annotations

from torch import nn

from kilocall.model import landmarks as lm
from kilocall.model.compact.blocks import Residual, conv
from kilocall.model.compact.extractor import FaceNet, HeatmapHead, RegionNet
from kilocall.model.compact.regions import FACE_INPUT

__all__ = ["ExtractorTeacher"]


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
