"""Frames of several speakers made in one run of the renderer: what a GPU that serves many receivers wants.

The network that ships makes one picture; torch's vmap gives it a batch. On a CPU this is no faster than one after the
other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kilocall.model.compact.family import CompactFamily
from kilocall.model.family import Picture, Source
from kilocall.model.motion import Motion
from kilocall.proto.errors import BadInput
from kilocall.runtime.engines.torch import TorchEngine

if TYPE_CHECKING:
    from kilocall.model.compact.deployed import Deployed

__all__ = ["Together"]


class Together:
    """Holds the appearance of one source picture [256, 256, 3] of each speaker."""

    def __init__(self, family: CompactFamily, sources: Sequence[Source]) -> None:
        """Raises BadInput for another engine than torch, no speaker, or a picture of twice the size."""
        if not isinstance(family.engine, TorchEngine):
            raise BadInput(f"engine {family.engine.name} makes one picture at a time; allowed is torch")
        if not sources:
            raise BadInput("sources are none, at least one is needed")
        if any(source.detail is not None for source in sources):
            raise BadInput("a source picture has twice the networks' size; together only pictures of 256 are made")
        self._family, self._sources = family, list(sources)
        self._device = family.engine.device
        module: Deployed = family.engine.module(family.network_file("renderer"))
        self._inputs, self._outputs = list(module.examples()), module.outputs
        held = [{**family.appearance(source.picture), "x_s": source.keypoints[None]} for source in sources]
        self._held = {name: self._stacked([one[name] for one in held]) for name in held[0]}
        self._run: Callable[..., tuple[Tensor, ...]] = torch.vmap(module)

    def render(self, motions: Sequence[Motion]) -> list[Picture]:
        """The next picture of each speaker, uint8 RGB [256, 256, 3]; `motions` in the order of the sources."""
        if len(motions) != len(self._sources):
            raise BadInput(f"motions are {len(motions)}, wanted is one for each of {len(self._sources)} speakers")
        driving = [self._family.driving(source, motion) for source, motion in zip(self._sources, motions, strict=True)]
        given = {name: self._stacked([one[name] for one in driving]) for name in driving[0]}
        every = {**self._held, **given}
        with torch.inference_mode():
            made = self._run(*(every[name] for name in self._inputs))
            pictures = made[self._outputs.index("picture")].cpu().numpy()
        return [np.array(one[0], np.uint8) for one in pictures]

    def _stacked(self, arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).to(self._device)
