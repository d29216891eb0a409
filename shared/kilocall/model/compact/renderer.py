"""Renderer: motion field, occlusion and generator with a copy path.

    x_s, x_d   source, driving keypoints [B, K, 2] in -1..1; face-vid2vid eq. 2 after projection
    interior   [B, BANDS] how bright it is between the driving lips, see `interior.py`
    J          [B, 2, 2] what the head's turn does to a small patch: (s_s / s_d) (R_s R_d^T)[:2, :2]
    m_k        soft assignment of every pixel to a keypoint's motion (or to the still background)

The displacement of a pixel p is `sum_k m_k ((x_s,k - x_d,k) + (J_k - I)(p - x_d,k))`: displacements rather than
positions are summed, so that low-precision arithmetic errs in proportion to the motion and a still frame is exact.
The assignment starts from a Gaussian prior around the driving keypoints; one network sees the source moved by that
prior and corrects it. This needs one warp of a thumbnail where the usual design needs one a keypoint.

The picture is `copied + gate * share * (painted - copied)`; the gate is zero where nothing moves, so at rest the output
is the source picture itself.

What lies on the way to the finest level, and what enters it, is light: pointwise and depthwise convolutions in place of
full ones.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kilocall.model import landmarks as lm
from kilocall.model.compact.blocks import Residual, SeparableResidual, conv, double, pixel_centres, separable
from kilocall.model.compact.landmark_raster import MAPS, LandmarkRaster
from kilocall.model.compact.renderer_constants import HALFWAY, TAPS
from kilocall.model.interior import BANDS

FIELD = 64  # side of the motion field
IMPLICIT = 5  # keypoints that the network finds for itself: hair, shoulders, background
THUMB = 64

# Residual displacements are at most this far (crop units); the keypoints are meant to explain the motion.
RESIDUAL_REACH = 0.12
# Motion (crop units) at which the painted part fades in: 0.6 pixels of 256.
GATE_MOTION = 0.6 / 128
# Where the pixels of a picture of 256 lie in the dense one, less the pixels' centres.
DENSE_START = -1 / 512


class Light(NamedTuple):
    """Which parts have pointwise and depthwise convolutions in place of full ones: a ninth of the arithmetic."""

    field: bool = False  # below 64x64
    coarse: bool = False  # of the generator, at 32x32 and 64x64
    fine: bool = False  # of the generator, the first at 128x128

    @staticmethod
    def of(state: Collection[str]) -> Light:
        """Those of a renderer whose state dict has these names."""
        firsts = ("field.enter", "generator.join_32", "generator.join_128.0")
        return Light(*(f"{name}.3.weight" in state for name in firsts))


class Appearance(NamedTuple):
    """What is computed once for a source picture."""

    dense: Tensor  # [B, 3, 512, 512] the picture in 0..1, see `densely`
    at_128: Tensor
    at_64: Tensor
    at_32: Tensor
    motion_cue: Tensor  # [B, 16, 64, 64]


class ImplicitDetector(nn.Module):
    """Thumbnail [B, 3, 64, 64] to IMPLICIT points [B, N, 2]; learned from the warp alone."""

    grid: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(conv(3, 16, stride=2), conv(16, 32, stride=2), Residual(32), conv(32, 48, stride=2))
        self.up = conv(48, 32)
        self.score = nn.Conv2d(32, IMPLICIT, 3, 1, 1)
        self.register_buffer("grid", pixel_centres(16).reshape(-1, 2), persistent=False)

    def forward(self, thumb: Tensor) -> Tensor:
        score = self.score(double(self.up(self.down(thumb * 2 - 1))))
        return torch.softmax(score.flatten(2).float(), -1) @ self.grid


class AppearanceNet(nn.Module):
    """Source picture to features at three sizes and a thumbnail's worth of cues for the motion field."""

    def __init__(self, widths: tuple[int, int, int] = (24, 48, 96)) -> None:
        super().__init__()
        a, b, c = widths
        self.at_128 = nn.Sequential(conv(3, a, kernel=5, stride=2), Residual(a))
        self.at_64 = nn.Sequential(conv(a, b, stride=2), Residual(b))
        self.at_32 = nn.Sequential(conv(b, c, stride=2), Residual(c))
        self.cue = nn.Sequential(conv(b, 24), nn.Conv2d(24, 13, 1))
        self.thumb = nn.AvgPool2d(4)

    def forward(self, picture: Tensor) -> Appearance:
        return Appearance(densely(picture), *self.features(picture))

    def features(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """At 128, 64 and 32, and the cues."""
        at_128 = self.at_128(picture * 2 - 1)
        at_64 = self.at_64(at_128)
        cue = torch.cat((self.thumb(picture) * 2 - 1, self.cue(at_64)), 1)
        return at_128, at_64, self.at_32(at_64), cue


class Field(NamedTuple):
    displacement: Tensor  # [B, 2, 64, 64], source minus driving position
    visible: Tensor  # [B, 1, 64, 64], 0 where the source does not show what is needed
    gate: Tensor  # [B, 1, 64, 64], 0 where nothing moves
    fine: Tensor  # [B, 32, 64, 64] what the field network knows, for the generator
    coarse: Tensor  # [B, 64, 32, 32]
    follows: Tensor  # [B, N, 64, 64], how far each place goes with each implicit keypoint


class Guess(NamedTuple):
    """What keypoints alone say of the motion, by a Gaussian around each."""

    rough: Tensor  # [B, 2, 64, 64] displacement
    moved: Tensor  # [B, 16, 64, 64] the cues, moved by it
    heat: Tensor  # [B, K, 64, 64] bumps around the driving keypoints less those around the source's
    wide: Tensor  # [B, K, 2, 64] exponents of the Gaussians along x and y
    shift: Tensor  # [B, K, 2]
    turned: Tensor  # [B, 2, 64, 64]


class FieldLevels(NamedTuple):
    """What the blocks of the field network give, in their order."""

    entered: Tensor  # [B, 64, 32, 32]
    down_16: Tensor  # [B, 96, 16, 16]
    down_8: Tensor  # [B, 128, 8, 8]
    up_16: Tensor  # [B, 96, 16, 16]
    coarse: Tensor  # [B, 64, 32, 32]
    fine: Tensor  # [B, 32, 64, 64]


class MotionField(nn.Module):
    """Keypoints and cues to a dense displacement with visibility."""

    grid: Tensor
    line: Tensor
    head: Tensor

    def __init__(
        self, head_points: int = lm.LANDMARKS, implicit_points: int = IMPLICIT, *, light: Light | None = None
    ) -> None:
        super().__init__()
        points = head_points + implicit_points
        self.head_points = head_points
        self.register_buffer("grid", pixel_centres(FIELD).reshape(1, -1, 2), persistent=False)
        self.register_buffer("line", pixel_centres(FIELD)[0, :, 0].clone(), persistent=False)
        self.register_buffer(
            "head", torch.cat((torch.ones(head_points), torch.zeros(implicit_points))), persistent=False
        )
        spread = torch.full((points,), 0.12)
        spread[[*lm.OUTER_LIPS, *lm.INNER_LIPS]] = 0.07
        spread[[*lm.RIGHT_EYE, *lm.LEFT_EYE, lm.RIGHT_IRIS, lm.LEFT_IRIS]] = 0.045
        spread[list(lm.OVAL)] = 0.16
        spread[head_points:] = 0.35
        self.log_spread = nn.Parameter(spread.log())
        self.log_heat_spread = nn.Parameter((spread * 0.6).clamp(max=0.12).log())
        start = torch.zeros(points)
        start[head_points:] = -2.5
        self.affinity = nn.Parameter(start)
        self.background = nn.Parameter(torch.tensor(-3.0))
        block, residual = (separable, SeparableResidual) if light and light.field else (conv, Residual)
        self.enter = block(points + 34, 64, stride=2)
        self.down_16 = nn.Sequential(block(64, 96, stride=2), residual(96))
        self.down_8 = nn.Sequential(block(96, 128, stride=2), residual(128))
        self.up_16 = block(128 + 96, 96)
        self.up_32 = block(96 + 64, 64)
        self.up_64 = conv(64 + 32, 32)
        self.assign = nn.Conv2d(32, points + 1, 3, 1, 1)
        self.adjust = nn.Conv2d(32, 3, 3, 1, 1)
        nn.init.zeros_(self.assign.weight)
        nn.init.zeros_(self.adjust.weight)
        nn.init.zeros_(self.assign.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.adjust.bias.copy_(torch.tensor([0.0, 0.0, 2.0]))  # type: ignore[union-attr]

    def forward(self, cue: Tensor, x_s: Tensor, x_d: Tensor, jacobian: Tensor) -> Field:
        guess = self.guess(cue, x_s, x_d, jacobian)
        levels = self.levels(guess, cue)
        return self.settle(guess, levels.fine, levels.coarse)

    def guess(self, cue: Tensor, x_s: Tensor, x_d: Tensor, jacobian: Tensor) -> Guess:
        batch = x_s.shape[0]
        # Gaussians are products of a row and a column, [B, K, 64] each; the maps [B, K, 64, 64] are large.
        off_d, off_s = (self.line - x[..., None] for x in (x_d, x_s))  # [B, K, 2, 64]
        narrow = torch.exp(-2 * self.log_heat_spread)[None, :, None, None] / 2
        bump_d, bump_s = (torch.exp(-off.square() * narrow) for off in (off_d, off_s))
        heat = _outer(bump_d) - _outer(bump_s)
        wide = off_d.square() * (torch.exp(-2 * self.log_spread)[None, :, None, None] / 2)
        turn = jacobian - torch.eye(2, device=x_s.device)
        # d_k - (J_k - I) x_d,k; the background's is zero
        shift = x_s - x_d - (x_d @ turn.transpose(1, 2)) * self.head[None, :, None]
        turned = (self.grid @ turn.transpose(1, 2)).transpose(1, 2).reshape(batch, 2, FIELD, FIELD)
        rough = self._rough(wide, shift, turned)
        return Guess(rough, sample(cue, rough), heat, wide, shift, turned)

    def levels(self, guess: Guess, cue: Tensor, given: FieldLevels | None = None) -> FieldLevels:
        """Every block of `given` takes the place of what this network's own gives to the next ones."""
        entered = self.enter(torch.cat((guess.heat, cue, guess.moved, guess.rough * 8), 1))
        at_32 = entered if given is None else given.entered
        down_16 = self.down_16(at_32)
        at_16 = down_16 if given is None else given.down_16
        down_8 = self.down_8(at_16)
        up_16 = self.up_16(torch.cat((double(down_8 if given is None else given.down_8), at_16), 1))
        coarse = self.up_32(torch.cat((double(up_16 if given is None else given.up_16), at_32), 1))
        above = double(coarse if given is None else given.coarse)
        fine = self.up_64(torch.cat((above, guess.moved, cue), 1))
        return FieldLevels(entered, down_16, down_8, up_16, coarse, fine)

    def settle(self, guess: Guess, fine: Tensor, coarse: Tensor) -> Field:
        """The motion, from what the keypoints alone say and what the network knows at 64x64."""
        rough, wide, turned = guess.rough, guess.wide, guess.turned
        batch = len(rough)
        prior = self.affinity[None, :, None, None] - wide[:, :, 1, :, None] - wide[:, :, 0, None, :]
        prior = torch.cat((prior, self.background.expand(batch, 1, FIELD, FIELD)), 1)
        masks = torch.softmax(prior + self.assign(fine).float(), 1).flatten(2)
        displacement = (F.pad(guess.shift, (0, 0, 0, 1)).transpose(1, 2) @ masks).reshape(rough.shape)
        by_head = masks[:, : self.head_points].sum(1).reshape(batch, 1, FIELD, FIELD)
        follows = masks[:, self.head_points : -1].reshape(batch, -1, FIELD, FIELD)
        displacement = displacement + by_head * turned
        adjust = self.adjust(fine).float()
        gate = self._gate(rough, displacement)
        displacement = displacement + gate * torch.tanh(adjust[:, :2]) * RESIDUAL_REACH
        return Field(displacement, torch.sigmoid(adjust[:, 2:]), gate, fine, coarse, follows)

    def _rough(self, wide: Tensor, shift: Tensor, turned: Tensor) -> Tensor:
        """Displacement [B, 2, 64, 64] of the prior alone: a softmax written as one matrix product over keypoints."""
        weight = torch.exp(-wide)
        strength = torch.exp(self.affinity)[None, None, :, None]
        what = torch.cat(
            (shift, self.head[None, :, None].expand(len(shift), -1, 1), torch.ones_like(shift[..., :1])), 2
        )
        rows = weight[:, None, :, 1] * what.transpose(1, 2)[..., None] * strength  # [B, 4, K, 64]
        total = rows.transpose(2, 3) @ weight[:, None, :, 0]  # [B, 4, 64, 64]
        return (total[:, :2] + total[:, 2:3] * turned) / (total[:, 3:] + torch.exp(self.background))

    @staticmethod
    def _gate(rough: Tensor, displacement: Tensor) -> Tensor:
        energy = (rough.square() + displacement.square()).sum(1, keepdim=True)
        near = F.avg_pool2d(energy, 9, 1, 4, count_include_pad=False)
        everywhere = energy.mean((2, 3), keepdim=True)
        return 1 - torch.exp(-(near + 0.3 * everywhere) / (GATE_MOTION**2))


def smooth(picture: Tensor) -> Tensor:
    """Takes the finest detail out of pictures [B, C, H, W] that a pixel shuffle has put together.

    The four phases of a pixel shuffle come from filters of their own, and where a generator is unsure they settle on a
    chequered pattern (Odena et al. 2016), which every loss of detail takes for detail. TAPS leave none of it, and three
    quarters of what is twice as coarse.
    """
    channels = picture.shape[1]
    taps = picture.new_tensor(TAPS).expand(channels, 1, 1, -1)
    padded = F.pad(picture, (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(padded, taps, groups=channels), taps.transpose(2, 3), groups=channels).clamp(0, 1)


class Generator(nn.Module):
    """Moved features to the painted picture and how much of it counts [B, 4, 256, 256], 0..1."""

    def __init__(self, widths: tuple[int, int, int] = (24, 48, 96), *, light: Light | None = None) -> None:
        super().__init__()
        a, b, c = widths
        light = light or Light()
        if light.coarse:
            self.join_32 = separable(c + 64, c)
            self.body = nn.Sequential(*(SeparableResidual(c) for _ in range(4)))
            self.join_64 = nn.Sequential(separable(b + b + 32, b), SeparableResidual(b), SeparableResidual(b))
        else:
            self.join_32 = conv(c + 64, c)
            self.body = nn.Sequential(*(Residual(c) for _ in range(3)))
            self.join_64 = nn.Sequential(conv(b + b + 32, b), Residual(b))
        self.narrow_32 = conv(c, b, kernel=1)
        self.narrow_64 = conv(b, a, kernel=1)
        self.join_128 = nn.Sequential((separable if light.fine else conv)(a + a, 32), Residual(32))
        self.sketch = LandmarkRaster()
        self.drawn = nn.Conv2d(MAPS, 32, 3, 1, 1, bias=False)
        nn.init.zeros_(self.drawn.weight)
        self.paint = nn.Conv2d(32, 16, 3, 1, 1)
        with torch.no_grad():
            self.paint.bias[12:] = 2.0  # type: ignore[index]

    def forward(self, appearance: Appearance, field: Field, x_d: Tensor, interior: Tensor) -> Tensor:
        _, at_64 = self.coarse(appearance, field)
        return smooth(self.planes(appearance, field, at_64, x_d, interior))

    def coarse(self, appearance: Appearance, field: Field, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What leaves the levels of 32x32 and 64x64, [B, 48, 32, 32] and [B, 24, 64, 64]; `given` takes the place of
        the first for the second."""
        flow, visible = field.displacement, field.visible
        seen = sample(appearance.at_32, F.avg_pool2d(flow, 2)) * F.avg_pool2d(visible, 2)
        at_32 = self.narrow_32(self.body(self.join_32(torch.cat((seen, field.coarse), 1))))
        above = double(at_32 if given is None else given)
        seen = sample(appearance.at_64, flow) * visible
        return at_32, self.narrow_64(self.join_64(torch.cat((above, seen, field.fine), 1)))

    def planes(self, appearance: Appearance, field: Field, at_64: Tensor, x_d: Tensor, interior: Tensor) -> Tensor:
        """What is painted and how much of it counts [B, 4, 256, 256], before `smooth`."""
        return self.painted(self.finest(appearance, field, at_64, x_d, interior))

    def finest(self, appearance: Appearance, field: Field, at_64: Tensor, x_d: Tensor, interior: Tensor) -> Tensor:
        """What leaves the level of 128x128 [B, 32, 128, 128]."""
        join, *refine = self.join_128
        flow, visible = (upsample(t, 2) for t in (field.displacement, field.visible))
        seen = sample(appearance.at_128, flow) * visible
        x = join(torch.cat((double(at_64), seen), 1)) + self.drawn(self.sketch(x_d, interior))
        for block in refine:
            x = block(x)
        finest: Tensor = x
        return finest

    def painted(self, finest: Tensor) -> Tensor:
        """`planes` of what `finest` gave."""
        x = F.pixel_shuffle(self.paint(finest).float(), 2)
        # The network tells how much is a copy.
        return torch.sigmoid(torch.cat((x[:, :3], -x[:, 3:]), 1))


class Renderer(nn.Module):
    """Everything the receiver runs, and the implicit keypoints that the sender runs."""

    def __init__(self, light: Light | None = None) -> None:
        super().__init__()
        self.implicit = ImplicitDetector()
        self.appearance = AppearanceNet()
        self.field = MotionField(light=light)
        self.generator = Generator(light=light)

    def forward(
        self, appearance: Appearance, x_s: Tensor, x_d: Tensor, jacobian: Tensor, interior: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Field]:
        """Picture and the copied part alone, both [B, 3, 256, 256] in 0..1, and the motion field.

        `interior` [B, BANDS]: what is seen between the driving lips; None says nothing of it.
        """
        if interior is None:
            interior = x_d.new_zeros(len(x_d), BANDS)
        field = self.field(appearance.motion_cue, x_s, x_d, jacobian)
        copied = sample(appearance.dense, upsample(field.displacement, 4), start=DENSE_START)
        painted = self.generator(appearance, field, x_d, interior)
        paint = upsample(field.gate, 4) * painted[:, 3:]
        return copied + paint * (painted[:, :3] - copied), copied, field


def _outer(bump: Tensor) -> Tensor:
    """Maps [B, K, 64, 64] of profiles [B, K, (x, y), 64]."""
    return bump[:, :, 1, :, None] * bump[:, :, 0, None, :]


def upsample(x: Tensor, factor: int) -> Tensor:
    bigger: Tensor = F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)
    return bigger


def densely(picture: Tensor) -> Tensor:
    """Pictures [B, C, S, S] with the cubic between every two pixels: [B, C, 2 S, 2 S], pixel i is at 2 i.

    Taken linearly from these, a moved picture stays nearly as sharp as it was; taken linearly from the pixels
    themselves, it loses a third of its finest detail.
    """
    for axis in (2, 3):
        size = picture.shape[axis]
        before, after = picture.narrow(axis, 0, 1), picture.narrow(axis, size - 1, 1)
        padded = torch.cat((before, picture, after, after), axis)
        between = sum(tap * padded.narrow(axis, k, size) for k, tap in enumerate(HALFWAY))
        picture = torch.stack((picture, torch.as_tensor(between)), axis + 1).flatten(axis, axis + 1)
    return picture


def sample(x: Tensor, displacement: Tensor, start: float = 0.0) -> Tensor:
    """Samples x [B, C, H, H] at pixel centre + start + displacement [B, 2, S, S]; the border repeats outside."""
    grid = pixel_centres(displacement.shape[-1]).to(displacement.device) + start
    where = grid + displacement.permute(0, 2, 3, 1).float()
    return F.grid_sample(x.float(), where, padding_mode="border", align_corners=False)
