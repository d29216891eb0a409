"""Discriminators for the renderer's last stage: what L1 leaves soft must look like a photograph.

Small patch discriminators (Isola et al. 2017) with the hinge loss (Lim and Ye 2017): one sees squares of the picture,
one sees eyes close up, one the mouth (a discriminator for each part as in GFPGAN, Wang et al. 2021). Feature matching
(Wang et al. 2018, eq. 3) ties the made picture to the very frame that it should be, which a discriminator alone does
not.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from kilocall.train.loop import on_device, precision

PATCH: Final = 128  # side of the squares, pixels
FEATURE_MATCHING: Final = 6.0  # against the hinge loss
RATE: Final = 2e-4
#: How much each one counts. What is inside a mouth is seldom in the source picture: teeth are made up or grey.
PARTS: Final = {"patch": 1.0, "eyes": 1.0, "mouth": 2.0}


class PatchDiscriminator(nn.Module):
    """Pictures [B, 3, S, S] in 0..1 to the features of each layer, the last one being the verdict [B, 1, S/8, S/8]."""

    def __init__(self, widths: tuple[int, int, int] = (24, 48, 96)) -> None:
        super().__init__()
        channels = 3
        self.layers = nn.ModuleList()
        for width in widths:
            self.layers.append(spectral_norm(nn.Conv2d(channels, width, 4, 2, 1)))
            channels = width
        self.verdict = spectral_norm(nn.Conv2d(channels, 1, 3, 1, 1))

    def forward(self, picture: Tensor) -> list[Tensor]:
        x, features = picture * 2 - 1, []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return [*features, self.verdict(x)]


class Adversary:
    """Judges made pictures against true ones and learns from each batch that it has judged."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.nets = nn.ModuleDict({name: PatchDiscriminator() for name in PARTS})
        on_device(self.nets, device)
        self.optimizer = torch.optim.Adam(self.nets.parameters(), lr=RATE, betas=(0.5, 0.99))

    def loss(self, pairs: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
        """The renderer's loss for (made, true) pictures of each of PARTS: squares and close-ups.

        First the discriminators take one step on the same pictures. Not to be called under autocast, which would keep
        the weights that it cast before that step.
        """
        self._learn(pairs)
        self.nets.requires_grad_(False)
        total = torch.zeros((), device=self.device)
        with precision(self.device):
            for name, (made, truth) in pairs.items():
                judged = self.nets[name](made)
                with torch.no_grad():
                    wanted = self.nets[name](truth)
                verdict = -judged[-1].float().mean()
                for a, b in zip(judged[:-1], wanted[:-1], strict=True):
                    verdict = verdict + FEATURE_MATCHING * (a - b).float().abs().mean() / len(judged[:-1])
                total = total + PARTS[name] * verdict
        self.nets.requires_grad_(True)
        return total

    def _learn(self, pairs: dict[str, tuple[Tensor, Tensor]]) -> None:
        hinge = torch.zeros((), device=self.device)
        with precision(self.device):
            for name, (made, truth) in pairs.items():
                fake, real = self.nets[name](torch.cat((made, truth)).detach())[-1].float().chunk(2)
                hinge = hinge + F.relu(1 + fake).mean() + F.relu(1 - real).mean()
        self.optimizer.zero_grad(set_to_none=True)
        hinge.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {"nets": self.nets.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.nets.load_state_dict(state["nets"])
        self.optimizer.load_state_dict(state["optimizer"])


def squares(pictures: Tensor, corner: tuple[int, int]) -> Tensor:
    """The PATCH-sided square of every picture with this upper left corner (row, column)."""
    row, column = corner
    return pictures[..., row : row + PATCH, column : column + PATCH]
