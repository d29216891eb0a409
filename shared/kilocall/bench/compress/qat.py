"""Training that knows of the 8 bits to come (Jacob et al. 2018), and the same training to recover from pruning.

While it trains, a convolution sees its weights (per output channel, symmetric) and its input (per tensor) rounded to 8
bits; gradients pass as if they were not. Scales of batch norms that follow make no difference to rounding by channel,
so nothing is folded before. The teacher is the float network itself: it needs no labels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn

from kilocall.bench.compress.prune import hold_zeros

__all__ = ["EightBitConv", "distil", "with_eight_bits", "without_eight_bits"]

M = TypeVar("M", bound=nn.Module)
Forward = Callable[[Any, dict[str, Tensor]], Tensor]

RATE: Final = 1e-4
#: How fast the observed range of an input follows; only the first steps count for short trainings.
FOLLOW: Final = 0.05


class EightBitConv(nn.Module):
    """A convolution that rounds as the exported one will."""

    low: Tensor
    high: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
            rate = FOLLOW if float(self.high - self.low) > 0 else 1.0
            self.low.lerp_(low, rate)
            self.high.lerp_(high, rate)
            scale = ((self.high - self.low) / 255).clamp(min=1e-8)
            zero = (-self.low / scale).round().clamp(0, 255).to(torch.int32)
            weight = self.conv.weight
            steps = (weight.detach().abs().flatten(1).amax(1) / 127).clamp(min=1e-8)
        x = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)
        zeros = torch.zeros(len(steps), dtype=torch.int32, device=weight.device)
        rounded = torch.fake_quantize_per_channel_affine(weight, steps, zeros, 0, -127, 127)
        conv = self.conv
        made: Tensor = conv._conv_forward(x, rounded, conv.bias)
        return made


def with_eight_bits(module: M, kept_float: Sequence[str] = ()) -> M:
    """A copy whose convolutions round, but for those with a part of `kept_float` in their name."""
    made = copy.deepcopy(module)
    for name, parent, attribute, conv in _placed(made, nn.Conv2d):
        if not any(part in name for part in kept_float):
            setattr(parent, attribute, EightBitConv(conv))
    return made


def without_eight_bits(module: M) -> M:
    """A copy with the plain convolutions again, as they were trained."""
    made = copy.deepcopy(module)
    for _, parent, attribute, rounding in _placed(made, EightBitConv):
        setattr(parent, attribute, rounding.conv)
    return made


def _placed(module: nn.Module, kind: type[M]) -> list[tuple[str, nn.Module, str, M]]:
    found = []
    for name, child in module.named_modules():
        if isinstance(child, kind):
            parent, _, attribute = name.rpartition(".")
            found.append((name, module.get_submodule(parent), attribute, child))
    return found


def distil(
    student: M,
    teacher: nn.Module,
    inputs: Sequence[dict[str, Tensor]],
    forward: Forward,
    *,
    steps: int,
    seed: int = 0,
) -> M:
    """Trains `student` in place, `steps` times one input, to give what `teacher` gives; zero weights stay zero.

    `forward` runs a network on named inputs. Batch norms keep their statistics.
    """
    student.eval().requires_grad_(True)
    hold_zeros(student)
    learning = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=RATE)
    order = torch.randint(len(inputs), (steps,), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        wanted = {n: forward(teacher, inputs[n]) for n in sorted(set(order.tolist()))}
    for n in order.tolist():
        made = forward(student, inputs[n])
        # Relative, so that one rate suits networks whatever the size of their outputs.
        loss = (made - wanted[n]).square().mean() / wanted[n].square().mean().clamp(min=1e-8)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
    return student.requires_grad_(False)
