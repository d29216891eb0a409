"""What head networks say in bins, as angles; and rotations as the families of public weights compose them."""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 66
BIN_DEGREES = 3.0


def expected_degrees(scores: Tensor, offset: float) -> Tensor:
    """Mean angle [B] in degrees of scores [B, 66] over bins of 3 degrees from `offset` on (Ruiz et al. 2018)."""
    bins = torch.arange(BINS, dtype=scores.dtype, device=scores.device)
    return (torch.softmax(scores, 1) * bins).sum(1) * BIN_DEGREES + offset


def about_axes(yaw: Tensor, pitch: Tensor, roll: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotations [B, 3, 3] about y, x and z by angles [B] in radians, signs as in face-vid2vid's public code.

    Its positive yaw turns the face to the left of the picture, against `kilocall.model.geometry`; pitch and roll agree.
    """

    def turn(angle: Tensor, first: int, second: int) -> Tensor:
        matrix = torch.eye(3, dtype=angle.dtype, device=angle.device).repeat(len(angle), 1, 1)
        matrix[:, first, first] = matrix[:, second, second] = torch.cos(angle)
        matrix[:, first, second] = -torch.sin(angle)
        matrix[:, second, first] = torch.sin(angle)
        return matrix

    return turn(yaw, 2, 0), turn(pitch, 1, 2), turn(roll, 0, 1)
