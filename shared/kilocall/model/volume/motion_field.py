"""Keypoints to motion field: where each cell of the driving volume comes from in the source (face-vid2vid, figure 4).

A keypoint suggests one motion, the shift of the whole volume by its own displacement; the network sees the volume
moved by each suggestion and mixes them with a softmax mask. A shift is separable: along each axis a row of the result
is a mix of two rows of the source, so a suggestion costs three small matrix products instead of a 5-D grid sample.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kilocall.model.volume.appearance import CHANNELS, DEPTH
from kilocall.model.volume.blocks import DownBlock3d, UpBlock3d, coordinate_grid, widths

#: Variance of the Gaussians that stand for keypoints, in coordinate units.
KEYPOINT_VARIANCE: Final = 0.01
COMPRESSED: Final = 4


class Field(NamedTuple):
    """Where to sample the source volume [B, D, H, W, 3], and how much of it is visible [B, 1, H, W] in 0..1."""

    deformation: Tensor
    occlusion: Tensor


class _Encoder(nn.Module):
    def __init__(self, inputs: int, outputs: list[int]) -> None:
        super().__init__()
        before = [inputs, *outputs[:-1]]
        self.down_blocks = nn.ModuleList(DownBlock3d(a, b) for a, b in zip(before, outputs, strict=True))


class _Decoder(nn.Module):
    def __init__(self, inputs: int, outputs: list[int], last: int) -> None:
        super().__init__()
        after = [last, *outputs[:-1]]
        self.up_blocks = nn.ModuleList(
            # All but the innermost also get what the encoder had at their size.
            UpBlock3d(width if i == len(outputs) - 1 else 2 * width, after[i])
            for i, width in reversed(list(enumerate(outputs)))
        )
        channels = last + inputs
        self.conv = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm3d(channels)


class Hourglass3d(nn.Module):
    """U-Net on a volume [B, I, D, H, W] -> [B, 32 + I, D, H, W]."""

    def __init__(self, inputs: int, first: int = 32, most: int = 1024, blocks: int = 5) -> None:
        super().__init__()
        outputs = widths(first, most, blocks)
        self.encoder = _Encoder(inputs, outputs)
        self.decoder = _Decoder(inputs, outputs, first)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for block in self.encoder.down_blocks:
            seen.append(block(seen[-1]))
        x = seen.pop()
        for block in self.decoder.up_blocks:
            x = torch.cat((block(x), seen.pop()), 1)
        return F.relu(self.decoder.norm(self.decoder.conv(x)))


class MotionFieldEstimator(nn.Module):
    """Source volume and the keypoints of both pictures to a Field."""

    def __init__(self, keypoints: int) -> None:
        super().__init__()
        candidates = keypoints + 1  # the first is the background, which stays
        inputs = candidates * (COMPRESSED + 1)
        self.hourglass = Hourglass3d(inputs)
        self.mask = nn.Conv3d(32 + inputs, candidates, 7, padding=3)
        self.compress = nn.Conv3d(CHANNELS, COMPRESSED, 1)
        self.norm = nn.BatchNorm3d(COMPRESSED)
        self.occlusion = nn.Conv2d((32 + inputs) * DEPTH, 1, 7, padding=3)

    def compressed(self, volume: Tensor) -> Tensor:
        """[B, 32, D, H, W] to [B, 4, D, H, W]; once per source picture."""
        return F.relu(self.norm(self.compress(volume)))

    def logits(self, suggestions: Tensor) -> tuple[Tensor, Tensor]:
        """Mask [B, K + 1, D, H, W] before its softmax and occlusion [B, 1, H, W] of `suggestions`."""
        x = self.hourglass(suggestions)
        occlusion = torch.sigmoid(self.occlusion(x.reshape(len(x), -1, *x.shape[3:])))
        return self.mask(x), occlusion

    def forward(self, volume: Tensor, x_s: Tensor, x_d: Tensor) -> Field:
        """`volume` [B, 32, D, H, W]; `x_s`, `x_d` source and driving keypoints [B, K, 3] in -1..1."""
        mask, occlusion = self.logits(suggestions(self.compressed(volume), x_s, x_d))
        return Field(deformation(mask, x_s, x_d), occlusion)


def suggestions(compressed: Tensor, x_s: Tensor, x_d: Tensor) -> Tensor:
    """What the hourglass sees [B, (K + 1) * 5, D, H, W].

    For the background and each keypoint a difference of Gaussians (driving minus source; zero for the background) and
    the compressed volume [B, 4, D, H, W] moved by that keypoint's displacement.
    """
    batch, channels, *size = compressed.shape
    depth, height, width = size
    shift = F.pad(x_s - x_d, (0, 0, 1, 0))  # [B, K + 1, 3], none for the background
    count = shift.shape[1]
    # Along z, then x, then y; a row of each matrix says which two cells are mixed. Laid out so that each is one
    # product of tall matrices per suggestion, 1.7 times as fast as many small ones.
    along_x, along_y, along_z = (
        shift_matrix(cells, shift[..., axis].flatten()).reshape(batch, count, cells, cells)
        for axis, cells in enumerate((width, height, depth))
    )
    flat = compressed.transpose(1, 2).reshape(batch, 1, depth, -1)
    moved = (along_z @ flat).reshape(batch, count, -1, width) @ along_x.transpose(2, 3)
    moved = moved.reshape(batch, count, -1, height, width).transpose(3, 4).reshape(batch, count, -1, height)
    moved = (moved @ along_y.transpose(2, 3)).reshape(batch, count, depth, channels, width, height)
    moved = moved.permute(0, 1, 3, 2, 5, 4)
    heat = F.pad(gaussians(x_d, size) - gaussians(x_s, size), (0, 0, 0, 0, 0, 0, 1, 0))
    return torch.cat((heat[:, :, None], moved), 2).flatten(1, 2)


def along_axes(x_s: Tensor, x_d: Tensor, size: tuple[int, int, int]) -> dict[str, Tensor]:
    """What `suggestions` is made of, axis by axis, for engines that put it together themselves (batch 1).

    shift_x, shift_y, shift_z [K + 1, 1, cells, cells]: matrices that move a row of cells. driving_x ... source_z
    [K + 1, ...]: the keypoints' Gaussians along an axis; zero for the background. `size` is D, H, W.
    """
    shift = F.pad(x_s - x_d, (0, 0, 1, 0))[0]
    made = {}
    for axis, (name, count) in enumerate(zip("xyz", reversed(size), strict=True)):
        made[f"shift_{name}"] = shift_matrix(count, shift[:, axis])[:, None]
        for whose, points in (("driving", x_d), ("source", x_s)):
            bells = F.pad(_bells(points[0, :, axis], count), (0, 0, 1, 0))
            made[f"{whose}_{name}"] = bells.reshape(len(bells), *(count if n == name else 1 for n in "zyx"))
    return made


def shift_matrix(count: int, shift: Tensor) -> Tensor:
    """[N, count, count]: linear interpolation along one axis at the cells' coordinates plus `shift` [N].

    Coordinates have -1 and 1 at the centres of the outermost cells, but are read as if these were the outer edges:
    the public networks were trained so. What lies outside is zero.
    """
    cells = torch.linspace(-1, 1, count, device=shift.device)
    at = ((cells + shift[:, None] + 1) * count - 1) / 2
    distance = (at[:, :, None] - torch.arange(count, device=shift.device)).abs()
    return (1 - distance).clamp(min=0)


def gaussians(points: Tensor, size: list[int]) -> Tensor:
    """[B, K, D, H, W] with 1 at each keypoint [B, K, 3]: a product of what happens along x, y and z."""
    along = [_bells(points[..., axis], count) for axis, count in zip((2, 1, 0), size, strict=True)]
    z, y, x = along
    return z[..., :, None, None] * (y[..., :, None] * x[..., None, :])[:, :, None]


def _bells(at: Tensor, count: int) -> Tensor:
    """[..., count]: a Gaussian around each coordinate [...]."""
    cells = torch.linspace(-1, 1, count, device=at.device)
    return torch.exp((cells - at[..., None]).square() * (-0.5 / KEYPOINT_VARIANCE))


def deformation(mask: Tensor, x_s: Tensor, x_d: Tensor) -> Tensor:
    """[B, D, H, W, 3]: every cell's own coordinate plus the mix of the keypoints' displacements.

    In float32 whatever the mask came in: coordinates need more than bfloat16's eight bits.
    """
    shares = torch.softmax(mask.float(), 1)[:, 1:]
    batch, count, depth, height, width = shares.shape
    moved = shares.reshape(batch, count, -1).transpose(1, 2) @ (x_s - x_d).float()
    return coordinate_grid(depth, height, width, shares) + moved.reshape(batch, depth, height, width, 3)


def warp(volume: Tensor, field: Tensor) -> Tensor:
    """Samples `volume` [B, C, D, H, W] at `field` [B, D, H, W, 3] in -1..1; outside is zero."""
    return F.grid_sample(volume, field, mode="bilinear", padding_mode="zeros", align_corners=False)
