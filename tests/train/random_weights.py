"""Networks with random weights that do something in every layer, and a made-up data set of noise and moving points."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import nn

from kilocall.model import landmarks as lm
from kilocall.model.compact.extractor import Extractor
from kilocall.model.compact.renderer import IMPLICIT, Light, Renderer
from kilocall.train.dataset import SIZE, Dataset


def stirred(network: nn.Module, seed: int = 0) -> nn.Module:
    """Layers that start at zero (residual branches, masks, displacement) get small random weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(0, 0.1, generator=generator)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
    return network.eval().requires_grad_(False)


def random_extractor(*, light: bool = False) -> Extractor:
    torch.manual_seed(0)
    network = stirred(Extractor(light=light))
    assert isinstance(network, Extractor)
    return network


def random_renderer(light: Light | None = None) -> Renderer:
    torch.manual_seed(1)
    network = stirred(Renderer(light))
    assert isinstance(network, Renderer)
    with torch.no_grad():
        network.generator.paint.bias.zero_()  # type: ignore[union-attr]  # it starts where little is painted
    return network


def noise_data(clips: int = 3, frames: int = 12) -> Dataset:
    """Blurred noise with a mesh that wobbles at random: enough to run every network, nothing to learn."""
    rng = np.random.default_rng(5)
    count = clips * frames
    small = rng.integers(0, 256, (count, 16, 16, 3)).astype(np.uint8)
    pictures = np.stack([cv2.resize(p, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) for p in small])
    face = rng.uniform(-0.5, 0.5, (lm.MESH_POINTS, 3))
    mesh = face + rng.normal(0, 0.03, (count, 1, 3)) + rng.normal(0, 0.01, (count, lm.MESH_POINTS, 3))
    start = np.arange(0, count + 1, frames)
    return Dataset(pictures, mesh.astype(np.float32), start, tuple(f"clip{i}" for i in range(clips)))


def random_motion() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_s, x_d [1, K, 2], a Jacobian [1, 2, 2] of a small turn, and brightness [1, BANDS] between open lips."""
    generator = torch.Generator().manual_seed(2)
    x_s = torch.rand(1, lm.LANDMARKS + IMPLICIT, 2, generator=generator) * 1.4 - 0.7
    x_d = x_s + torch.randn(x_s.shape, generator=generator) * 0.04 + 0.05
    for points in (x_s, x_d):
        points[0, list(lm.INNER_LIPS)] = torch.tensor([[-0.2, 0.3]])
        points[0, lm.INNER_LIPS[4]] = torch.tensor([0.2, 0.32])
    for upper, lower in lm.LIP_PAIRS:
        x_d[0, [upper, lower]] = torch.tensor([[0.0, 0.22], [0.01, 0.38]])
    return x_s, x_d, torch.tensor([[[0.97, 0.12], [-0.1, 1.03]]]), torch.tensor([[2.0, 1.0, -3.0]])


def random_picture() -> torch.Tensor:
    """uint8 [1, 256, 256, 3]."""
    return torch.from_numpy(noise_data(1, 1).pictures)
