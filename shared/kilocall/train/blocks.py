"""Distils a renderer block by block (Hinton et al. 2015): each light block learns to give what the full one gave.

Only the blocks learn, everything around them is the teacher's. Features are compared where a full block ends, so that
every number of them teaches: after 25 minutes on one core pictures were the teacher's to 0.03 dB, and lids and lips
moved by .67 and .78 of what was asked, the teacher's by .71 and .80. A renderer that was light throughout and taught by
whole pictures for 3000 steps moved them by .43 and .52.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from kilocall.model.compact.blocks import double
from kilocall.model.compact.renderer import Appearance, Field, Generator, Light, Renderer, sample
from kilocall.model.shape import ShapeModel
from kilocall.train.dataset import Dataset
from kilocall.train.loop import on_device, precision
from kilocall.train.renderer import DRIVEN, RendererTask

__all__ = ["LIGHT", "BlockTask"]

#: What learns: the generator at 32x32 and 64x64, a third of the renderer's arithmetic.
LIGHT: Final = Light(coarse=True)
#: So long the second block gets what the teacher's first one gives; then it learns to live with its own.
APART_STEPS: Final = 350
#: The second block's weight: what it gives is painted.
LAST: Final = 2.0


class BlockTask(RendererTask):
    def __init__(
        self,
        teacher: Renderer,
        data: Dataset,
        held_out: Dataset,
        model: ShapeModel,
        *,
        sources: int,
        device: torch.device,
        seed: int = 0,
    ) -> None:
        super().__init__(data, held_out, model, sources=sources, device=device, seed=seed)
        self.teacher = on_device(teacher.eval().requires_grad_(False), device)
        student = on_device(Renderer(LIGHT), device).requires_grad_(False)
        own, given = student.state_dict(), teacher.state_dict()
        shared = {name for name in own if name in given and own[name].shape == given[name].shape}
        student.load_state_dict({**own, **{name: given[name] for name in shared}})
        painter = student.generator
        self._learning = [painter.join_32, painter.body, painter.narrow_32, painter.join_64, painter.narrow_64]
        for block in self._learning:
            block.requires_grad_(True)
        self.network = student

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        pairs = self._ahead.take(step)
        x_s, x_d, _, _, jacobian, jitter, _, light = (t.to(self.device, non_blocking=True) for t in pairs.tensors)
        pictures = self._seen(pairs, light)
        first = pictures[: self.sources].contiguous(memory_format=torch.channels_last)
        network, teacher = self.network, self.teacher
        assert isinstance(network, Renderer)
        network.eval()
        with precision(self.device):
            with torch.no_grad():
                at_128, at_64, at_32, cue = (
                    t.repeat_interleave(DRIVEN, 0) for t in teacher.appearance.features(first)
                )
                appearance = Appearance(first, at_128, at_64, at_32, cue)
                free = teacher.implicit(F.avg_pool2d(pictures, 4))
                free_s, free_d = free[: self.sources].repeat_interleave(DRIVEN, 0), free[self.sources :] + jitter
                x_s = torch.cat((x_s.repeat_interleave(DRIVEN, 0), free_s), 1)
                field = teacher.field(cue, x_s, torch.cat((x_d, free_d), 1), jacobian)
                wanted_32, wanted_64 = _blocks(teacher.generator, appearance, field)
            for block in self._learning:
                block.train()
            given = wanted_32 if step < APART_STEPS else None
            made_32, made_64 = _blocks(network.generator, appearance, field, given)
        apart_32, apart_64 = _apart(made_32, wanted_32), _apart(made_64, wanted_64)
        total = apart_32 + LAST * apart_64
        figures = {"loss": total, "at_32": apart_32, "at_64": apart_64}
        return total, {name: float(value.detach()) for name, value in figures.items()}


def _blocks(net: Generator, appearance: Appearance, field: Field, at_32: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What leaves the generator's coarse levels; `at_32` takes the place of the first for the second."""
    flow, visible = field.displacement, field.visible
    seen = sample(appearance.at_32, F.avg_pool2d(flow, 2)) * F.avg_pool2d(visible, 2)
    made = net.narrow_32(net.body(net.join_32(torch.cat((seen, field.coarse), 1))))
    given = double(made if at_32 is None else at_32)
    seen = sample(appearance.at_64, flow) * visible
    return made, net.narrow_64(net.join_64(torch.cat((given, seen, field.fine), 1)))


def _apart(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean difference, relative to how strong the features are."""
    apart: Tensor = (made.float() - wanted.float()).abs().mean() / wanted.float().abs().mean().clamp(min=1e-3)
    return apart
