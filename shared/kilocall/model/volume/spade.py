"""Features to picture by spatially adaptive normalisation (Park et al. 2019), as the public networks use it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAK = 0.2


class SpectralConv2d(nn.Module):
    """Convolution whose weights are divided by their largest singular value, as a training left its estimate.

    Miyato et al. 2018: sigma = u^T W v, with u and v from the weights file.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight_orig = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.register_buffer("weight_u", torch.empty(outputs))
        self.register_buffer("weight_v", torch.empty(inputs * kernel * kernel))
        self.padding = kernel // 2

    @property
    def weight(self) -> Tensor:
        """[O, I, k, k]"""
        flat = self.weight_orig.flatten(1).float()
        sigma = torch.dot(self.get_buffer("weight_u").float(), flat @ self.get_buffer("weight_v").float())
        return self.weight_orig / sigma.to(self.weight_orig.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=self.padding)


class Modulation(nn.Module):
    """Normalises each channel of a picture, then scales and shifts every pixel as the features there say."""

    def __init__(self, channels: int, features: int = 256, hidden: int = 128) -> None:
        super().__init__()
        self.mlp_shared = nn.Sequential(nn.Conv2d(features, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """`x` [B, C, H, W]; `features` [B, 256, h, w], repeated to the size of `x`."""
        if features.shape[2:] != x.shape[2:]:
            features = F.interpolate(features, size=x.shape[2:], mode="nearest")
        hidden = self.mlp_shared(features)
        plain = F.instance_norm(x)
        made: Tensor = plain * (1 + self.mlp_gamma(hidden)) + self.mlp_beta(hidden)
        return made


class SpadeBlock(nn.Module):
    """Residual block with modulation in place of normalisation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        between = min(inputs, outputs)
        self.conv_0 = SpectralConv2d(inputs, between, 3)
        self.conv_1 = SpectralConv2d(between, outputs, 3)
        self.norm_0 = Modulation(inputs)
        self.norm_1 = Modulation(between)
        self.conv_s: SpectralConv2d | None = None
        if inputs != outputs:
            self.conv_s = SpectralConv2d(inputs, outputs, 1, bias=False)
            self.norm_s = Modulation(inputs)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        straight = x if self.conv_s is None else self.conv_s(self.norm_s(x, features))
        x = self.conv_0(F.leaky_relu(self.norm_0(x, features), LEAK))
        x = self.conv_1(F.leaky_relu(self.norm_1(x, features), LEAK))
        made: Tensor = straight + x
        return made


class SpadeDecoder(nn.Module):
    """Features [B, 256, 64, 64] to a picture [B, 3, S, S] in 0..1; S is 256, or 512 with `double`."""

    def __init__(self, *, double: bool = False) -> None:
        super().__init__()
        self.fc = nn.Conv2d(256, 512, 3, padding=1)
        for number in range(6):
            self.add_module(f"G_middle_{number}", SpadeBlock(512, 512))
        self.up_0 = SpadeBlock(512, 256)
        self.up_1 = SpadeBlock(256, 64)
        self.conv_img: nn.Module
        if double:
            self.conv_img = nn.Sequential(nn.Conv2d(64, 12, 3, padding=1), nn.PixelShuffle(2))
        else:
            self.conv_img = nn.Conv2d(64, 3, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        x = self.fc(features)
        for number in range(6):
            x = self.get_submodule(f"G_middle_{number}")(x, features)
        x = self.up_0(F.interpolate(x, scale_factor=2.0, mode="nearest"), features)
        x = self.up_1(F.interpolate(x, scale_factor=2.0, mode="nearest"), features)
        return torch.sigmoid(self.conv_img(F.leaky_relu(x, LEAK)))
