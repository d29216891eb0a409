"""Convolutions that learn a low-rank change of their weights: few numbers, so little can be learnt by heart.

    W = W_0 + A B   W as a matrix [out, in * k * k], A [out, r], B [r, in * k * k]; LoRA, Hu et al. 2021

`A` starts at zero, so nothing has changed before the first step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["learn_low_rank", "plain_state"]


class LowRank(nn.Module):
    """What is added to one weight."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        fan_in = weight[0].numel()
        start = torch.randn(rank, fan_in, generator=generator) / fan_in**0.5
        self.a = nn.Parameter(torch.zeros(len(weight), rank, device=weight.device))
        self.b = nn.Parameter(start.to(weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.a @ self.b).reshape(weight.shape)


def learn_low_rank(module: nn.Module, name: str, rank: int, generator: torch.Generator) -> list[nn.Parameter]:
    """Replaces the weight `name` of `module` by its sum with a change of at most `rank`; returns what learns."""
    change = LowRank(getattr(module, name), rank, generator)
    parametrize.register_parametrization(module, name, change)
    return [change.a, change.b]


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """A copy of `network`'s state with the changes added in: names and shapes are as they were without them."""
    state = {name: value.clone() for name, value in network.state_dict().items() if ".parametrizations." not in name}
    for path, module in network.named_modules():
        if parametrize.is_parametrized(module):
            for name in module.parametrizations:
                state[f"{path}.{name}"] = getattr(module, name).detach().clone()
    return state
