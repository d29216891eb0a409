"""Distils a renderer block by block (Hinton et al. 2015): each light block learns to give what the full one gave.

Features are compared where a full block ends, so that every number of them teaches, and first each block is given what
the teacher's blocks before it give; only what is painted is compared as a picture, because its convolutions differ. A
renderer that was light throughout and taught by whole pictures alone for 3000 steps had nearly the teacher's PSNR, but
lids and lips moved by .43 and .52 of what was asked, the teacher's by .69 and .85.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kilocall.model.compact.renderer import (
    DENSE_START,
    Appearance,
    Field,
    FieldLevels,
    Guess,
    Light,
    Renderer,
    sample,
    smooth,
    upsample,
)
from kilocall.model.shape import ShapeModel
from kilocall.proto.errors import BadInput
from kilocall.train.align import aligned, seen_slopes
from kilocall.train.dataset import Dataset
from kilocall.train.loop import on_device, precision, take_over
from kilocall.train.losses import gradient_l1, relative_l1, weighted_l1
from kilocall.train.perceptual import LandmarkPerception
from kilocall.train.renderer import DRIVEN, Pairs, RendererTask, interior_of, openness_of, told_interior, watched

__all__ = ["LIGHT", "BlockTask"]

#: What becomes light. A finest level that is light throughout paints closed lids red, and a light field leaves irises
#: on them (docs/training.md).
LIGHT: Final = Light(coarse=True, fine=True)
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
        had = Light.of(teacher.state_dict())
        field, painter = student.field, student.generator
        self._learning: list[nn.Module] = []
        if LIGHT.coarse and not had.coarse:
            self._learning += [painter.join_32, painter.body, painter.narrow_32, painter.join_64, painter.narrow_64]
        if LIGHT.fine and not had.fine:
            self._learning += [painter.join_128, painter.drawn, painter.paint]
        #: Whether the generator does; else it need not run until the true pictures are looked at.
        self._paints = bool(self._learning)
        if LIGHT.field and not had.field:
            blocks = (field.enter, field.down_16, field.down_8, field.up_16, field.up_32, field.up_64)
            self._learning += [*blocks, field.assign, field.adjust]
        if not self._learning:
            raise BadInput("the teacher is as light as the networks that would learn from it: nothing is left to learn")
        for block in self._learning:
            block.requires_grad_(True)
        self.network = student

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        apart = step < APART_STEPS
        shown = self._shown(self._ahead.take(step), align=not apart)
        network = self.network
        assert isinstance(network, Renderer)
        network.eval()
        for block in self._learning:
            block.train()
        with precision(self.device):
            with torch.no_grad():
                wanted = _known(self.teacher, shown)
            made = _known(network, shown, wanted if apart else None)
        total, figures = _motion_apart(made, wanted, shown.watch)
        if self._paints or not apart:
            with precision(self.device):
                with torch.no_grad():
                    right = _painted(self.teacher, shown, wanted.field)
                own = _painted(network, shown, *((wanted.field, right) if apart else (made.field,)))
            worse, more = _pictures_apart(own, right, wanted.field, shown.watch)
            total, figures = total + worse, figures | more
        if not apart:
            total = total + TRUE * self._unlike(own.picture, own.copied, shown.truth, shown.watch)
            if self.perception is not None:
                seen = (own.picture, shown.truth, shown.close, shown.corner)
                total = total + self._looks(self.perception, *seen, figures)
        return total, {"loss": float(total.detach()), **figures}

    def _shown(self, pairs: Pairs, *, align: bool) -> _Shown:
        """With `align` the implicit keypoints lie where the copy does, as a sender's do."""
        x_s, x_d, points, dim, jacobian, jitter, close, light = (
            t.to(self.device, non_blocking=True) for t in pairs.tensors
        )
        pictures = self._seen(pairs, light)
        first = pictures[: self.sources].contiguous(memory_format=torch.channels_last)
        truth = pictures[self.sources :]
        watch = watched(x_d)
        teacher = self.teacher
        with torch.no_grad(), precision(self.device):
            between = told_interior(interior_of(first, x_s), interior_of(truth, points) + dim * openness_of(points))
            appearance = Appearance(*(t.repeat_interleave(DRIVEN, 0) for t in teacher.appearance(first)))
            implicit = teacher.implicit(F.avg_pool2d(pictures, 4))
            implicit_s, implicit_d = implicit[: self.sources].repeat_interleave(DRIVEN, 0), implicit[self.sources :]
            x_s = torch.cat((x_s.repeat_interleave(DRIVEN, 0), implicit_s), 1)
            if align:
                seen = seen_slopes(first).repeat_interleave(DRIVEN, 0)
                whole = torch.cat((x_d, implicit_d), 1)
                implicit_d = aligned(teacher.field, appearance.motion_cue, seen, x_s, whole, jacobian, truth)
            x_d = torch.cat((x_d, implicit_d + jitter), 1)
            guess = teacher.field.guess(appearance.motion_cue, x_s, x_d, jacobian)
        return _Shown(appearance, guess, x_d, between, truth, watch, close, pairs.corner)


class _Shown(NamedTuple):
    """What a step has of its frames, for teacher and student alike."""

    appearance: Appearance
    guess: Guess
    x_d: Tensor  # [B, K + N, 2]
    interior: Tensor  # [B, BANDS]
    truth: Tensor  # [B, 3, 256, 256]
    watch: Tensor  # [B, 1, 256, 256] weight of each place
    close: Tensor  # [B, 3, 2, 3] places of the close-ups
    corner: tuple[int, int]  # of the square that a discriminator sees


class _Known(NamedTuple):
    """What a motion field gives, block by block and at its end."""

    levels: FieldLevels
    field: Field


class _Painted(NamedTuple):
    """What a generator gives, block by block and as a picture."""

    at_32: Tensor
    at_64: Tensor
    at_128: Tensor
    copied: Tensor  # [B, 3, 256, 256]
    planes: Tensor  # [B, 4, 256, 256]
    picture: Tensor  # [B, 3, 256, 256]


def _known(network: Renderer, shown: _Shown, given: _Known | None = None) -> _Known:
    """Every stage of `given` takes the place of what this network's own gives to the next ones."""
    cue = shown.appearance.motion_cue
    levels = network.field.levels(shown.guess, cue, None if given is None else given.levels)
    settled = levels if given is None else given.levels
    return _Known(levels, network.field.settle(shown.guess, settled.fine, settled.coarse))


def _painted(network: Renderer, shown: _Shown, field: Field, given: _Painted | None = None) -> _Painted:
    """With what moves; every stage of `given` takes the place of what this network's own gives to the next ones."""
    at_32, at_64 = network.generator.coarse(shown.appearance, field, None if given is None else given.at_32)
    copied = sample(shown.appearance.dense, upsample(field.displacement, 4), start=DENSE_START)
    above = at_64 if given is None else given.at_64
    at_128 = network.generator.finest(shown.appearance, field, above, shown.x_d, shown.interior)
    planes = network.generator.painted(at_128)
    painted = smooth(planes)
    picture = copied + upsample(field.gate, 4) * painted[:, 3:] * (painted[:, :3] - copied)
    return _Painted(at_32, at_64, at_128, copied, planes, picture)


def _motion_apart(made: _Known, wanted: _Known, watch: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The loss of the motion field's stages, and figures of each."""
    blocks = [relative_l1(a, b) for a, b in zip(made.levels, wanted.levels, strict=True)]
    moved = (made.field.displacement - wanted.field.displacement).abs() * F.avg_pool2d(watch, 4)
    hidden = (made.field.visible - wanted.field.visible).abs()
    knows = torch.stack(blocks).sum()
    total = knows + DISPLACED * moved.mean() + HIDDEN * hidden.mean()
    return total, {"field": float(knows.detach()) / len(blocks), "moved_px": float(moved.detach().mean()) * 128}


def _pictures_apart(made: _Painted, wanted: _Painted, field: Field, watch: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The loss of the generator's stages, and figures of each; `field` is the teacher's."""
    near = F.avg_pool2d(watch, 2) * (0.1 + upsample(field.gate, 2))
    coarse = relative_l1(made.at_32, wanted.at_32) + 2 * relative_l1(made.at_64, wanted.at_64)
    # Where a copy is all that is seen, what the finest level says counts little.
    fine = relative_l1(made.at_128 * near, wanted.at_128 * near)
    painted = weighted_l1(made.planes, wanted.planes, watch) + weighted_l1(made.picture, wanted.picture, watch)
    painted = painted + gradient_l1(made.picture, wanted.picture, watch)
    total = coarse + 2 * fine + PAINTED * painted
    told = {
        "coarse": coarse / 3, "fine": fine, "painted": painted, "l1": (made.picture - wanted.picture).abs().mean(),
    }  # fmt: skip
    return total, {name: float(value.detach()) for name, value in told.items()}
