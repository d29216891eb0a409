"""How trained weights are stored for torch: convolutions as 8-bit integers with a scale a channel, the rest as halves.

The shipped networks run 8-bit convolutions anyway, and the rounding happens before they are exported: every engine
runs the same numbers, at half the size of half precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

#: Tensors with fewer elements stay half precision: they are small, and some of them steer a softmax.
LEAST_ELEMENTS: Final = 4096
_SCALE: Final = ".scale"


def pack(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as it is stored; integers such as batch norms' counters are left out."""
    stored = {}
    for name, value in state.items():
        value = value.detach().cpu()
        if not value.is_floating_point():
            continue
        if value.ndim < 2 or value.numel() < LEAST_ELEMENTS:
            stored[name] = value.half().contiguous()
            continue
        # The scale is rounded first, so that unpacking gives exactly what was measured.
        scale = (value.flatten(1).abs().amax(1) / 127).clamp(min=1e-6).half()
        steps = value / scale.float().reshape(-1, *[1] * (value.ndim - 1))
        stored[name] = steps.round().clamp(-127, 127).to(torch.int8).contiguous()
        stored[name + _SCALE] = scale.contiguous()
    return stored


def unpack(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The float state dict of `pack`. Raises KeyError for an integer tensor without a scale."""
    state = {}
    for name, value in stored.items():
        if name.endswith(_SCALE):
            continue
        if value.dtype == torch.int8:
            scale = stored[name + _SCALE].float()
            state[name] = value.float() * scale.reshape(-1, *[1] * (value.ndim - 1))
        else:
            state[name] = value.float()
    return state
