"""The compact networks as they ship: 8-bit pictures at the border, one picture at a time, constants folded.

The sums are those of `extractor.py` and `renderer.py`, arranged for CPU engines. What a Gaussian does along x and
along y is computed apart ([K, 64] exponentials instead of [K, 4096]), so the rough motion becomes one small matrix
product; fixed grids are constants. Features and the picture are moved, and the picture mixed, between and after the
networks (`compose.py`): OpenCV does it in a fifth of the time. Exporting these modules gives the shipped ONNX files,
and the torch engine runs them as they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from kilocall.model import landmarks as lm
from kilocall.model.compact.blocks import double, pixel_centres
from kilocall.model.compact.extractor import FaceNet, HeatmapHead, RegionNet, is_light
from kilocall.model.compact.regions import FACE_INPUT, REGION_INPUT
from kilocall.model.compact.renderer import (
    FIELD,
    GATE_MOTION,
    IMPLICIT,
    RESIDUAL_REACH,
    THUMB,
    AppearanceNet,
    Generator,
    ImplicitDetector,
    Light,
    MotionField,
)
from kilocall.model.interior import BANDS

SIZE = 256
POINTS = lm.LANDMARKS + IMPLICIT

#: Range of the features that the motion field hands on in bytes; trained ones reach 4.5 and 6.4.
MOST_FINE = 6.0
MOST_COARSE = 8.0

M = TypeVar("M", bound=nn.Module)


class ExportModule(nn.Module, ABC):
    """A network with named inputs and outputs of fixed shape."""

    #: which weights file holds it: "extractor" or "renderer"
    part: ClassVar[str]
    outputs: ClassVar[tuple[str, ...]]

    @classmethod
    @abstractmethod
    def from_state(cls, state: dict[str, Tensor]) -> ExportModule:
        """From the state dict of the whole part. Raises RuntimeError for keys or shapes that do not fit."""

    @abstractmethod
    def examples(self) -> dict[str, Tensor]:
        """Inputs by name in the order of `forward`: zeros of the right shape and type, on the CPU."""


def loaded(module: M, state: dict[str, Tensor], prefix: str) -> M:
    """`module` with the entries of `state` below `prefix`."""
    start = prefix + "."
    module.load_state_dict({k.removeprefix(start): v for k, v in state.items() if k.startswith(start)})
    return module


def as_float(picture: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to [B, 3, H, W] in 0..1."""
    return picture.permute(0, 3, 1, 2).float() * (1 / 255)


def as_bytes(picture: Tensor) -> Tensor:
    """0..1 to uint8, rounded."""
    # Adding a half and cutting off: rounding to even is not the same in every engine.
    return (picture * 255 + 0.5).clamp(0, 255).to(torch.uint8)


def _points(head: HeatmapHead, features: Tensor) -> tuple[Tensor, Tensor]:
    """Points [B, K, 2] and the probability of each heat map's peak [B, K]."""
    heat = torch.softmax(head.score(features).flatten(2), -1)
    return heat @ head.grid, heat.amax(-1)


class Face(ExportModule):
    part = "extractor"
    outputs = ("points", "depth", "face_logit", "certainty")

    def __init__(self, net: FaceNet) -> None:
        super().__init__()
        self.net = net

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Face:
        return cls(loaded(FaceNet(light=is_light(state)), state, "face"))

    def examples(self) -> dict[str, Tensor]:
        return {"crop": torch.zeros(1, FACE_INPUT, FACE_INPUT, 3, dtype=torch.uint8)}

    def forward(self, crop: Tensor) -> tuple[Tensor, ...]:
        levels = self.net.levels(as_float(crop))
        points, peak = _points(self.net.head, levels.up_quarter)
        glob = self.net.global_head(self.net.pool(levels.sixteenth).flatten(1))
        return points, glob[:, :-1], glob[:, -1], peak.mean(1)


class _Region(ExportModule):
    part = "extractor"
    outputs = ("points",)
    name: ClassVar[str]
    count: ClassVar[int]
    batch: ClassVar[int]

    def __init__(self, net: RegionNet) -> None:
        super().__init__()
        self.net = net

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> _Region:
        return cls(loaded(RegionNet(cls.count, light=is_light(state)), state, cls.name))

    def examples(self) -> dict[str, Tensor]:
        return {"region": torch.zeros(self.batch, REGION_INPUT, REGION_INPUT, 3, dtype=torch.uint8)}

    def forward(self, region: Tensor) -> tuple[Tensor, ...]:
        levels = self.net.levels(*self.net.below(as_float(region)))
        return (_points(self.net.head, levels.up_half)[0],)


class Eye(_Region):
    name, count, batch = "eye", len(lm.RIGHT_EYE_REGION), 2


class Mouth(_Region):
    name, count, batch = "mouth", len(lm.MOUTH_REGION), 1


class Implicit(ExportModule):
    part = "renderer"
    outputs = ("points",)

    def __init__(self, net: ImplicitDetector) -> None:
        super().__init__()
        self.net = net

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Implicit:
        return cls(loaded(ImplicitDetector(), state, "implicit"))

    def examples(self) -> dict[str, Tensor]:
        return {"crop": torch.zeros(1, THUMB, THUMB, 3, dtype=torch.uint8)}

    def forward(self, crop: Tensor) -> tuple[Tensor, ...]:
        return (self.net(as_float(crop)),)


class SourceAppearance(ExportModule):
    part = "renderer"
    #: features as they are moved, channels last [1, 128, 128, 24], [1, 64, 64, 48], [1, 32, 32, 96]; [1, 16, 64, 64]
    outputs = ("at_128", "at_64", "at_32", "motion_cue")

    def __init__(self, net: AppearanceNet) -> None:
        super().__init__()
        self.net = net

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> SourceAppearance:
        return cls(loaded(AppearanceNet(), state, "appearance"))

    def examples(self) -> dict[str, Tensor]:
        return {"picture": torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8)}

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        *features, cue = self.net.features(as_float(picture))
        return (*(t.permute(0, 2, 3, 1) for t in features), cue)


class Joined(nn.Module):
    """A convolution of several parts that training lays side by side: one for each, summed.

    Nothing is put together in memory, and where it is pointwise a part of half the size is enlarged after its
    convolution, not before: the same sums with a quarter of the arithmetic.
    """

    def __init__(self, layers: nn.Sequential, channels: tuple[int, ...]) -> None:
        super().__init__()
        first, norm, self.relu, *after = layers
        assert isinstance(first, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            first.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        self.parts = nn.ModuleList()
        for number, columns in enumerate(torch.split(weight, list(channels), 1)):
            size, stride = int(columns.shape[2]), int(first.stride[0])
            part = nn.Conv2d(columns.shape[1], len(columns), size, stride, size // 2, bias=number == 0)
            part.weight = nn.Parameter(columns.detach().clone())
            self.parts.append(part)
        opening: nn.Conv2d = self.parts[0]  # type: ignore[assignment]
        opening.bias = nn.Parameter(bias.detach().clone())
        self.pointwise = first.kernel_size == (1, 1)
        self.depthwise = nn.Sequential(*after)

    def forward(self, *given: Tensor) -> Tensor:
        size = max(x.shape[-1] for x in given)
        made = []
        for part, x in zip(self.parts, given, strict=True):
            if x.shape[-1] == size:
                made.append(part(x))
            else:
                made.append(double(part(x)) if self.pointwise else part(double(x)))
        total = sum(made[1:], made[0])
        done: Tensor = self.depthwise(self.relu(total))
        return done


class Motion(ExportModule):
    """Where every place comes from. A sender runs it too, to align the implicit keypoints."""

    part = "renderer"
    #: source minus driving position [1, 64, 64, 2]; how much of it the source shows and how much moves, [1, 64, 64, 1]
    #: each; what the field network knows [1, 64, 64, 32], [1, 32, 32, 64]; how far each place goes with each keypoint
    #: and the background [1, 64 * 64, K + 1]
    outputs = ("displacement", "visible", "gate", "fine", "coarse", "masks")

    line: Tensor
    flat_grid: Tensor
    head: Tensor
    box: Tensor
    grid_64: Tensor

    def __init__(self, field: MotionField) -> None:
        super().__init__()
        self.field = field
        joined: dict[str, tuple[int, ...]] = {
            "enter": (POINTS, 34), "up_16": (128, 96), "up_32": (96, 64), "up_64": (64, 32)
        }  # fmt: skip
        for name, channels in joined.items():
            setattr(field, name, Joined(getattr(field, name), channels))
        centres = pixel_centres(FIELD)
        constants = {
            "line": centres[0, :, :1],  # [64, 1]
            "flat_grid": centres.reshape(-1, 2),
            "head": torch.cat((field.head, torch.zeros(1))),
            "box": box_matrix(FIELD, 9),
            "grid_64": centres.permute(2, 0, 1)[None],
        }
        for name, value in constants.items():
            self.register_buffer(name, value.contiguous(), persistent=False)

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Motion:
        return cls(loaded(MotionField(light=Light.of(state)), state, "field"))

    def examples(self) -> dict[str, Tensor]:
        return {
            "motion_cue": torch.zeros(1, 16, FIELD, FIELD),
            "x_s": torch.zeros(1, POINTS, 2),
            "x_d": torch.zeros(1, POINTS, 2),
            "jacobian": torch.eye(2)[None],
        }

    def forward(self, motion_cue: Tensor, x_s: Tensor, x_d: Tensor, jacobian: Tensor) -> tuple[Tensor, ...]:
        """MotionField.forward for one picture."""
        net, cue, x_s, x_d = self.field, motion_cue, x_s[0], x_d[0]
        # Squared distance along x and along y of every grid line to every point [2, 64, K]
        off_d = (self.line - x_d.T[:, None]).square()
        off_s = (self.line - x_s.T[:, None]).square()
        narrow = torch.exp(-2 * net.log_heat_spread) * -0.5
        bell_d, bell_s = torch.exp(off_d * narrow), torch.exp(off_s * narrow)
        # Channels last, as the convolutions want it [64, 64, K]
        heat = bell_d[1, :, None] * bell_d[0, None] - bell_s[1, :, None] * bell_s[0, None]

        # The background is one more point, infinitely wide, that stays where it is.
        wide = F.pad(off_d * (torch.exp(-2 * net.log_spread) * -0.5), (0, 1))  # [2, 64, K + 1]
        affinity = torch.cat((net.affinity, net.background[None]))
        bell = torch.exp(wide)
        turn = jacobian[0] - torch.eye(2, device=x_s.device)
        shift = x_s - x_d - (x_d @ turn.T) * net.head[:, None]
        # Columns: displacement x, y, share of the head, share of all [K + 1, 4]
        sums = torch.cat((F.pad(shift, (0, 0, 0, 1)), self.head[:, None], torch.ones_like(self.head)[:, None]), 1)
        turned = self.flat_grid @ turn.T  # [64 * 64, 2]

        # softmax(prior) @ ... without the softmax: the background's weight keeps the total from vanishing.
        weights = sums.T * torch.exp(affinity)  # [4, K + 1]
        total = (weights[:, None] * bell[1][None]) @ bell[0].T  # [4, 64, 64]
        rough = (total[:2] + turned.T.reshape(2, FIELD, FIELD) * total[2:3]) / total[3:]
        moved = F.grid_sample(
            cue, (self.grid_64 + rough[None]).permute(0, 2, 3, 1), padding_mode="border", align_corners=False
        )
        coarse = net.enter(heat[None].permute(0, 3, 1, 2), torch.cat((cue, moved, rough[None] * 8), 1))
        at_16 = net.down_16(coarse)
        at_16 = net.up_16(net.down_8(at_16), at_16)
        coarse = net.up_32(at_16, coarse)
        fine = net.up_64(coarse, torch.cat((moved, cue), 1))

        # The softmax over points again as sums that are divided by their total; none is large enough to overflow.
        prior = (wide[1] + affinity)[:, None] + wide[0][None]
        share = torch.exp(net.assign(fine).permute(0, 2, 3, 1)[0] + prior).reshape(FIELD * FIELD, -1)
        summed = share @ sums  # [64 * 64, 4]
        whole = summed[:, 3:]
        masks = (share / whole)[None]
        displacement = (summed[:, :2] + turned * summed[:, 2:3]) / whole
        adjust = net.adjust(fine).permute(0, 2, 3, 1).reshape(FIELD * FIELD, 3)
        energy = rough.square().sum(0) + displacement.square().sum(1).reshape(FIELD, FIELD)
        near = self.box @ energy @ self.box.T
        gate = 1 - torch.exp((near + 0.3 * energy.mean()) * (-1 / GATE_MOTION**2)).reshape(-1, 1)
        displacement = displacement + gate * torch.tanh(adjust[:, :2]) * RESIDUAL_REACH
        visible = torch.sigmoid(adjust[:, 2:])
        places = (t.reshape(1, FIELD, FIELD, -1) for t in (displacement, visible, gate))
        return (*places, _told(fine, MOST_FINE), _told(coarse, MOST_COARSE), masks)


class Painter(ExportModule):
    """What the source picture does not show, from what of it was moved into place."""

    part = "renderer"
    #: [1, 128, 128, 16] bytes: red, green, blue and share of the painting for each of 2x2 pixels, row by row
    outputs = ("painted",)

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator
        generator.join_32 = Joined(generator.join_32, (96, 64))  # type: ignore[assignment]
        generator.join_64[0] = Joined(generator.join_64[0], (48, 48, 32))  # type: ignore[arg-type]
        generator.join_128[0] = Joined(generator.join_128[0], (24, 24))  # type: ignore[arg-type]
        # Pictures are put together in order: pixel first, colour last.
        paint = generator.paint
        assert paint.bias is not None
        # How much is painted, not how much is a copy.
        sign = torch.tensor([1.0] * 12 + [-1.0] * 4)
        paint.weight, paint.bias = (
            nn.Parameter(_pixels_first(p * sign.reshape(-1, *[1] * (p.ndim - 1)))) for p in (paint.weight, paint.bias)
        )

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Painter:
        return cls(loaded(Generator(light=Light.of(state)), state, "generator"))

    def examples(self) -> dict[str, Tensor]:
        return {
            "seen_128": torch.zeros(1, 128, 128, 24),
            "seen_64": torch.zeros(1, 64, 64, 48),
            "seen_32": torch.zeros(1, 32, 32, 96),
            "fine": torch.zeros(1, FIELD, FIELD, 32, dtype=torch.uint8),
            "coarse": torch.zeros(1, 32, 32, 64, dtype=torch.uint8),
            "x_d": torch.zeros(1, POINTS, 2),
            "interior": torch.zeros(1, BANDS),
        }

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """`planes` as bytes."""
        return (as_bytes(self.planes(*inputs)).permute(0, 2, 3, 1),)

    def planes(
        self,
        seen_128: Tensor,
        seen_64: Tensor,
        seen_32: Tensor,
        fine: Tensor,
        coarse: Tensor,
        x_d: Tensor,
        interior: Tensor,
    ) -> Tensor:
        """Generator.forward for one picture, up to `smooth`: [1, 16, 128, 128] in 0..1."""
        net = self.generator
        seen_128, seen_64, seen_32 = (t.permute(0, 3, 1, 2) for t in (seen_128, seen_64, seen_32))
        fine, coarse = _heard(fine, MOST_FINE), _heard(coarse, MOST_COARSE)
        (join_64, *refine_64), (join_128, *refine_128) = net.join_64, net.join_128
        x = net.narrow_32(net.body(net.join_32(seen_32, coarse)))
        x = join_64(x, seen_64, fine)
        for refine in refine_64:
            x = refine(x)
        x = net.narrow_64(x)
        x = join_128(x, seen_128) + net.drawn(net.sketch(x_d, interior))
        for refine in refine_128:
            x = refine(x)
        return torch.sigmoid(net.paint(x))


def _told(x: Tensor, most: float) -> Tensor:
    """Features [1, C, H, W] in 0..most as bytes [1, H, W, C]: floats take a millisecond to get out and in again."""
    return (x * (255 / most) + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _heard(x: Tensor, most: float) -> Tensor:
    return x.permute(0, 3, 1, 2).float() * (most / 255)


def _pixels_first(x: Tensor) -> Tensor:
    """[colour, pixel, ...] of a pixel shuffle to [pixel, colour, ...]."""
    return x.detach().reshape(4, 4, *x.shape[1:]).transpose(0, 1).flatten(0, 1).contiguous()


def box_matrix(size: int, window: int) -> Tensor:
    """[size, size]: mean over the neighbours within `window` that exist, along one side."""
    place = torch.arange(size)
    near = ((place[:, None] - place[None]).abs() <= window // 2).float()
    return near / near.sum(1, keepdim=True)


NETWORKS: dict[str, type[ExportModule]] = {
    "face": Face,
    "eye": Eye,
    "mouth": Mouth,
    "implicit": Implicit,
    "appearance": SourceAppearance,
    "field": Motion,
    "generator": Painter,
}
