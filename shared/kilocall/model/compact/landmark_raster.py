"""The small things of a face, drawn where the driving keypoints have them: what the generator paints them from.

The motion field works at 64x64, where an iris is three pixels wide and moves by one. Drawn at 128 the generator sees
where it belongs, how far lids are open, and what `interior` says of the mouth.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kilocall.model import landmarks as lm
from kilocall.model.compact.blocks import pixel_centres
from kilocall.model.interior import BAND_CENTRES, BANDS, SEEN_FROM_PX, SEEN_WHOLLY_PX

SIDE = 128
#: Maps: a bell for each band between the lips, as high as it is bright or deep as it is dark; one for all of them as
#: high as the mouth is open; both irises; both eyes as wide as they are open.
MAPS = BANDS + 3
#: Brightness and openings are told in numbers about as large as other features.
GAIN = 8.0
EYE_GAIN = 2.0
#: Spread of a band along the mouth, in its widths, and across it, in openings; of an open eye in its own.
MOUTH_ALONG, MOUTH_ACROSS = 0.28, 0.18
EYE_ALONG, EYE_ACROSS = 0.25, 0.4
#: Spread of an iris in widths of the eye: its radius is a fifth.
IRIS = 0.12
#: Lids so many widths of the eye apart show all of the iris.
WIDE_OPEN = 0.2
#: Half a pixel of SIDE: narrower bells fall between pixels.
NARROWEST = 1 / SIDE


class LandmarkRaster(nn.Module):
    """Driving points [B, >= LANDMARKS, 2] and brightness between the lips [B, BANDS] to maps [B, MAPS, 128, 128]."""

    line: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("line", pixel_centres(SIDE)[0, :, 0].clone(), persistent=False)

    def forward(self, points: Tensor, interior: Tensor) -> Tensor:
        mouth = self._mouth(points, interior)
        half = len(lm.LID_PAIRS) // 2
        right, left = (
            self._eye(points, iris, rim, pairs)
            for (iris, rim), pairs in zip(lm.EYES, (lm.LID_PAIRS[:half], lm.LID_PAIRS[half:]), strict=True)
        )
        return torch.cat((mouth, right + left), 1)

    def _mouth(self, points: Tensor, interior: Tensor) -> Tensor:
        upper, opened = _gap(points, lm.LIP_PAIRS)
        along, width, down = _axes(points[:, lm.INNER_LIPS[4]] - points[:, lm.INNER_LIPS[0]])
        gap = (opened * down).sum(1, keepdim=True)  # [B, 1], negative where landmarks have crossed
        seen = ((gap * 128 - SEEN_FROM_PX) / (SEEN_WHOLLY_PX - SEEN_FROM_PX)).clamp(0, 1)
        middles = upper[:, None] + points.new_tensor(BAND_CENTRES)[None, :, None] * opened[:, None]  # [B, BANDS, 2]
        bells = self._bells(middles, along / (MOUTH_ALONG * width), down / (MOUTH_ACROSS * gap).clamp(min=NARROWEST))
        every = sum(torch.split(bells, 1, 1)) * seen[..., None, None]
        return torch.cat((bells * (GAIN * interior)[..., None, None], every), 1)

    def _eye(self, points: Tensor, iris: int, rim: tuple[int, ...], pairs: tuple[tuple[int, int], ...]) -> Tensor:
        upper, opened = _gap(points, pairs)
        along, width, down = _axes(points[:, rim[4]] - points[:, rim[0]])
        gap = opened.square().sum(1, keepdim=True).add(1e-6).sqrt()
        how_open = (gap / (WIDE_OPEN * width)).clamp(0, 1.5)[..., None, None] * EYE_GAIN
        round_ = (IRIS * width).clamp(min=NARROWEST)
        pupil = self._bells(points[:, iris, None], along / round_, down / round_)
        middle = (upper + opened / 2)[:, None]
        white = self._bells(middle, along / (EYE_ALONG * width), down / (EYE_ACROSS * gap).clamp(min=NARROWEST))
        return torch.cat((pupil, white), 1) * how_open

    def _bells(self, middles: Tensor, along: Tensor, down: Tensor) -> Tensor:
        """Maps [B, N, 128, 128] of bells at middles [B, N, 2]; the axes [B, 2] are as long as one over a spread."""
        axes = torch.stack((along, down), 1)  # [B, 2, 2]
        # Products one by one: a matrix product would be rounded to bfloat16 in training.
        on_axes = (axes[:, :, None] * middles[:, None]).sum(3)[..., None, None]  # [B, 2, N, 1, 1]
        places = axes[:, :, 0, None, None] * self.line + axes[:, :, 1, None, None] * self.line[:, None]
        # places [B, 2, 128, 128]
        x, y = (places[:, :, None] - on_axes).square().unbind(1)
        return torch.exp(-0.5 * (x + y))


def _gap(points: Tensor, pairs: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
    """The middle of the upper edge and the way to the lower one, [B, 2] each."""
    upper = points[:, [a for a, _ in pairs]].mean(1)
    return upper, points[:, [b for _, b in pairs]].mean(1) - upper


def _axes(along: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A vector [B, 2] as its direction, its length [B, 1], and the direction that is down where it points right."""
    length = along.square().sum(1, keepdim=True).add(1e-6).sqrt()
    along = along / length
    return along, length, torch.stack((-along[:, 1], along[:, 0]), 1)
