"""Distils a renderer block by block (Hinton et al. 2015): each light block learns to give what the full one gave.

Features are compared where a full block ends, so that every number of them teaches, and first each block is given what
the teacher's blocks before it give; only what is painted is compared as a picture, because its convolutions differ. A
renderer that was light throughout and taught by whole pictures alone for 3000 steps had nearly the teacher's PSNR, but
lids and lips moved by .43 and .52 of what was asked, the teacher's by .69 and .85.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kilocall.model.compact.renderer import DENSE_START, Appearance, Light, Renderer, sample, smooth, upsample
from kilocall.model.shape import ShapeModel
from kilocall.train.align import aligned, seen_slopes
from kilocall.train.dataset import Dataset
from kilocall.train.loop import on_device, precision, take_over
from kilocall.train.losses import gradient_l1, relative_l1, weighted_l1
from kilocall.train.perceptual import LandmarkPerception
from kilocall.train.renderer import DRIVEN, RendererTask, interior_of, openness_of, told_interior, watched

__all__ = ["LIGHT", "BlockTask"]

#: What learns: the generator at 32x32 and 64x64. A light finest level paints closed lids red (docs/training.md).
LIGHT: Final = Light(coarse=True)
#: So long every block gets what the teacher's give; then they learn to live with each other.
APART_STEPS: Final = 350
#: Weights beside the blocks' features: displacement (crop units), what it hides, pictures. Features differ by a
#: third, pictures by hundredths.
DISPLACED: Final = 40.0
HIDDEN: Final = 2.0
PAINTED: Final = 10.0
#: Of the truth, once the blocks live with each other: what the teacher has learnt to leave unsure need not be imitated.
TRUE: Final = 10.0


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
        perception: LandmarkPerception | None = None,
        seed: int = 0,
    ) -> None:
        """`perception` adds what the landmark networks see in eyes and mouth, beside the true picture, at the end."""
        super().__init__(data, held_out, model, sources=sources, device=device, perception=perception, seed=seed)
        self.teacher = on_device(teacher.eval().requires_grad_(False), device)
        student = on_device(Renderer(LIGHT), device).requires_grad_(False)
        take_over(student, teacher)
        field, painter = student.field, student.generator
        self._learning: list[nn.Module] = [
            painter.join_32, painter.body, painter.narrow_32, painter.join_64, painter.narrow_64,
        ]  # fmt: skip
        if LIGHT.fine:
            self._learning += [painter.join_128, painter.drawn, painter.paint]
        if LIGHT.field:
            blocks = (field.enter, field.down_16, field.down_8, field.up_16, field.up_32, field.up_64)
            self._learning += [*blocks, field.assign, field.adjust]
        for block in self._learning:
            block.requires_grad_(True)
        self.network = student

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        pairs = self._ahead.take(step)
        x_s, x_d, points, dim, jacobian, jitter, close, light = (
            t.to(self.device, non_blocking=True) for t in pairs.tensors
        )
        pictures = self._seen(pairs, light)
        first = pictures[: self.sources].contiguous(memory_format=torch.channels_last)
        truth = pictures[self.sources :]
        network, teacher = self.network, self.teacher
        assert isinstance(network, Renderer)
        network.eval()
        apart = step < APART_STEPS
        watch = watched(x_d)
        with precision(self.device):
            with torch.no_grad():
                between = told_interior(interior_of(first, x_s), interior_of(truth, points) + dim * openness_of(points))
                appearance = Appearance(*(t.repeat_interleave(DRIVEN, 0) for t in teacher.appearance(first)))
                implicit = teacher.implicit(F.avg_pool2d(pictures, 4))
                implicit_s, implicit_d = implicit[: self.sources].repeat_interleave(DRIVEN, 0), implicit[self.sources :]
                x_s = torch.cat((x_s.repeat_interleave(DRIVEN, 0), implicit_s), 1)
                if not apart:
                    seen = seen_slopes(first).repeat_interleave(DRIVEN, 0)
                    whole = torch.cat((x_d, implicit_d), 1)
                    implicit_d = aligned(teacher.field, appearance.motion_cue, seen, x_s, whole, jacobian, truth)
                x_d = torch.cat((x_d, implicit_d + jitter), 1)
                guess = teacher.field.guess(appearance.motion_cue, x_s, x_d, jacobian)
                wanted = teacher.field.levels(guess, appearance.motion_cue)
                wanted_field = teacher.field.settle(guess, wanted.fine, wanted.coarse)
                wanted_32, wanted_64 = teacher.generator.coarse(appearance, wanted_field)
                wanted_copy = sample(appearance.dense, upsample(wanted_field.displacement, 4), start=DENSE_START)
                wanted_128 = teacher.generator.finest(appearance, wanted_field, wanted_64, wanted_copy, x_d, between)
                wanted_planes = teacher.generator.painted(wanted_128)
                wanted_picture = _mixed(wanted_field.gate, wanted_planes, wanted_copy)
            for block in self._learning:
                block.train()
            levels = network.field.levels(guess, appearance.motion_cue, wanted if apart else None)
            field = network.field.settle(guess, *((wanted if apart else levels)[i] for i in (-1, -2)))
            shown = wanted_field if apart else field
            made_32, made_64 = network.generator.coarse(appearance, shown, wanted_32 if apart else None)
            copied = sample(appearance.dense, upsample(shown.displacement, 4), start=DENSE_START)
            made_128 = network.generator.finest(
                appearance, shown, wanted_64 if apart else made_64, copied, x_d, between
            )
            planes = network.generator.painted(made_128)
            made = _mixed(shown.gate, planes, copied)
        blocks = [relative_l1(a, b) for a, b in zip(levels, wanted, strict=True)]
        moved = (field.displacement - wanted_field.displacement).abs() * F.avg_pool2d(watch, 4)
        near = F.avg_pool2d(watch, 2) * (0.1 + upsample(wanted_field.gate, 2))
        hidden = (field.visible - wanted_field.visible).abs()
        coarse = relative_l1(made_32, wanted_32) + 2 * relative_l1(made_64, wanted_64)
        # Where a copy is all that is seen, what the finest level says counts little.
        fine = relative_l1(made_128 * near, wanted_128 * near)
        painted = weighted_l1(planes, wanted_planes, watch) + weighted_l1(made, wanted_picture, watch)
        painted = painted + gradient_l1(made, wanted_picture, watch)
        knows = torch.stack(blocks).sum()
        total = knows + DISPLACED * moved.mean() + HIDDEN * hidden.mean() + coarse + 2 * fine + PAINTED * painted
        told = {
            "field": knows / len(blocks), "moved_px": moved.mean() * 128, "coarse": coarse / 3, "fine": fine,
            "painted": painted,
            "l1": (made - wanted_picture).abs().mean(),
        }  # fmt: skip
        figures = {name: float(value.detach()) for name, value in told.items()}
        if apart:
            return total, {"loss": float(total.detach()), **figures}
        total = total + TRUE * self._unlike(made, copied, truth, watch)
        if self.perception is not None:
            total = total + self._looks(self.perception, made, truth, close, pairs.corner, figures)
        return total, {"loss": float(total.detach()), **figures}


def _mixed(gate: Tensor, planes: Tensor, copied: Tensor) -> Tensor:
    painted = smooth(planes)
    return copied + upsample(gate, 4) * painted[:, 3:] * (painted[:, :3] - copied)
