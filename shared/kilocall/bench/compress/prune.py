"""Pruning: weights set to zero, or channels taken out.

Unstructured (Han et al. 2015): the smallest weights of each convolution become zero; the shapes stay. Structured (Li et
al. 2017): the channels inside a residual block whose filters have the smallest L1 norm are taken out, with their batch
norms and with what the next convolution reads from them. Channels between blocks stay, because sums and
concatenations need them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from kilocall.model.compact.blocks import Residual
from kilocall.model.facevid2vid.networks import Bottleneck

__all__ = ["convolutions", "hold_zeros", "prune_channels", "prune_weights", "zero_share"]

M = TypeVar("M", bound=nn.Module)


def convolutions(module: nn.Module) -> Iterator[nn.Conv2d]:
    """All 2-D convolutions, in the order of definition."""
    return (m for m in module.modules() if isinstance(m, nn.Conv2d))


def prune_weights(module: M, share: float) -> M:
    """A copy in which the smallest `share` (0..1) of each convolution's weights are zero."""
    pruned = copy.deepcopy(module)
    with torch.no_grad():
        for conv in convolutions(pruned):
            count = int(conv.weight.numel() * share)
            if count:
                smallest = conv.weight.abs().flatten().topk(count, largest=False).indices
                conv.weight.view(-1)[smallest] = 0
    return pruned


def hold_zeros(module: nn.Module) -> None:
    """Weights of convolutions that are zero now get no gradient, so that training leaves them zero."""

    def masked(mask: Tensor) -> object:
        return lambda gradient: gradient * mask

    for conv in convolutions(module):
        if conv.weight.requires_grad:
            conv.weight.register_hook(masked(conv.weight.detach() != 0))  # type: ignore[no-untyped-call]


def zero_share(module: nn.Module) -> float:
    """The share of convolution weights that are zero."""
    counts = [(int((c.weight == 0).sum()), c.weight.numel()) for c in convolutions(module)]
    return sum(zero for zero, _ in counts) / max(1, sum(all_ for _, all_ in counts))


def prune_channels(module: M, share: float) -> M:
    """A copy in which each residual block has lost `share` (0..1) of its inner channels; at least one is left."""
    pruned = copy.deepcopy(module)
    with torch.no_grad():
        for block in list(pruned.modules()):
            if isinstance(block, Residual):
                first = cast(nn.Conv2d, block.first[0])
                kept = _strongest(first, share)
                block.first[0], block.first[1] = (
                    _outputs(first, kept),
                    _norm(cast(nn.BatchNorm2d, block.first[1]), kept),
                )
                block.second = _inputs(block.second, kept)
            elif isinstance(block, Bottleneck):
                kept = _strongest(block.conv1, share)
                block.conv1, block.norm1 = _outputs(block.conv1, kept), _norm(block.norm1, kept)
                block.conv2 = _inputs(block.conv2, kept)
                kept = _strongest(block.conv2, share)
                block.conv2, block.norm2 = _outputs(block.conv2, kept), _norm(block.norm2, kept)
                block.conv3 = _inputs(block.conv3, kept)
    return pruned


def _strongest(conv: nn.Conv2d, share: float) -> Tensor:
    """Numbers of the output channels to keep, in order."""
    keep = max(1, round(conv.out_channels * (1 - share)))
    return conv.weight.abs().sum((1, 2, 3)).topk(keep).indices.sort().values


def _outputs(conv: nn.Conv2d, kept: Tensor) -> nn.Conv2d:
    return _like(conv, conv.weight[kept], None if conv.bias is None else conv.bias[kept])


def _inputs(conv: nn.Conv2d, kept: Tensor) -> nn.Conv2d:
    return _like(conv, conv.weight[:, kept], conv.bias)


def _like(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    stride, padding, kernel = (cast("tuple[int, int]", v) for v in (conv.stride, conv.padding, conv.kernel_size))
    made = nn.Conv2d(weight.shape[1], weight.shape[0], kernel, stride, padding, bias=bias is not None)
    made.weight.copy_(weight)
    if made.bias is not None and bias is not None:
        made.bias.copy_(bias)
    return made.requires_grad_(conv.weight.requires_grad).train(conv.training)


def _norm(norm: nn.BatchNorm2d, kept: Tensor) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(len(kept), norm.eps)
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(made, name).copy_(getattr(norm, name)[kept])
    return made.requires_grad_(norm.weight.requires_grad).train(norm.training)
