"""The network of `fusion.py`: what a layer frame says about the picture that was made for its moment.

A small U-Net of depthwise separable convolutions (Ronneberger et al. 2015, Howard et al. 2017) from 64x64 places to
16x16 and back; 40 MMAC.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kilocall.model.compact.export_modules import ExportModule
from kilocall.model.compact.fusion import FEATURES, WORK_SIDE

__all__ = ["FusionNetwork"]

_WIDTH = 16
#: What the offset beyond both pictures' difference may be, of 1.
_MOST_MORE = 0.1
#: The largest share of the layer's own detail.
_MOST_DETAIL = 1.5


class _Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels)
        self.pointwise = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.pointwise(self.depthwise(x)))


class FusionNetwork(ExportModule):
    """Features [1, 128, 128, FEATURES] to changes [1, 64, 64, 7]: shares of the coarse and the fine difference that
    are taken, 0..1; an offset beyond it, three colours; the gain of the made picture's detail, 0..2; the share of the
    layer's detail, 0..1.5."""

    part: ClassVar[str] = "fusion"
    outputs: ClassVar[tuple[str, ...]] = ("changes",)

    def __init__(self, width: int = _WIDTH) -> None:
        super().__init__()
        w = width
        self.enter = nn.Conv2d(FEATURES, 2 * w, 3, 2, 1)
        self.mix_64 = _Block(2 * w, 2 * w)
        self.down_32 = nn.Sequential(_Block(2 * w, 3 * w, 2), _Block(3 * w, 3 * w))
        self.down_16 = nn.Sequential(_Block(3 * w, 4 * w, 2), _Block(4 * w, 4 * w), _Block(4 * w, 4 * w))
        self.up_32 = _Block(7 * w, 3 * w)
        self.up_64 = nn.Sequential(_Block(5 * w, 2 * w), _Block(2 * w, 2 * w))
        self.leave = nn.Conv2d(2 * w, 7, 1)
        # It starts with half of the coarse difference, little of the fine one, and the made picture's detail.
        nn.init.zeros_(self.leave.weight)
        with torch.no_grad():
            assert self.leave.bias is not None
            self.leave.bias.copy_(torch.tensor([0.0, -1.0, 0.0, 0.0, 0.0, 0.0, -3.0]))

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> FusionNetwork:
        network = cls()
        network.load_state_dict(state)
        return network

    def examples(self) -> dict[str, Tensor]:
        return {"features": torch.zeros(1, WORK_SIDE, WORK_SIDE, FEATURES)}

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        at_64 = self.mix_64(F.relu(self.enter(features.permute(0, 3, 1, 2))))
        at_32 = self.down_32(at_64)
        at_16 = self.down_16(at_32)
        at_32 = self.up_32(torch.cat((_double(at_16), at_32), 1))
        at_64 = self.up_64(torch.cat((_double(at_32), at_64), 1))
        said = self.leave(at_64)
        shares = torch.sigmoid(said[:, :2])
        more = _MOST_MORE * torch.tanh(said[:, 2:5])
        gain = 2 * torch.sigmoid(said[:, 5:6])
        detail = _MOST_DETAIL * torch.sigmoid(said[:, 6:])
        return (torch.cat((shares, more, gain, detail), 1).permute(0, 2, 3, 1),)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
