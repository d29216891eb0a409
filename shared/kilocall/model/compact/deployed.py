"""The compact networks as they ship: 8-bit pictures at the border, one picture at a time, constants folded.

The sums are those of `extractor.py` and `renderer.py`, arranged for CPU engines. What a Gaussian does along x and
along y is computed apart ([K, 64] exponentials instead of [K, 4096]), so the rough motion becomes one small matrix
product; fixed grids are constants. Exporting these modules gives the shipped ONNX files, and the torch engine runs
them as they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kilocall.model import landmarks as lm
from kilocall.model.compact.blocks import double, pixel_centres
from kilocall.model.compact.extractor import FaceNet, HeatmapHead, RegionNet
from kilocall.model.compact.regions import FACE_INPUT, REGION_INPUT
from kilocall.model.compact.renderer import (
    DENSE_START,
    FIELD,
    GATE_MOTION,
    IMPLICIT,
    RESIDUAL_REACH,
    THUMB,
    AppearanceNet,
    Field,
    Generator,
    ImplicitDetector,
    MotionField,
)
from kilocall.model.interior import BANDS

SIZE = 256
POINTS = lm.LANDMARKS + IMPLICIT

M = TypeVar("M", bound=nn.Module)


class Deployed(nn.Module, ABC):
    """A network with named inputs and outputs of fixed shape."""

    #: which weights file holds it: "extractor" or "renderer"
    part: ClassVar[str]
    outputs: ClassVar[tuple[str, ...]]

    @classmethod
    @abstractmethod
    def from_state(cls, state: dict[str, Tensor]) -> Deployed:
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


class Face(Deployed):
    part = "extractor"
    outputs = ("points", "depth", "face_logit", "certainty")

    def __init__(self, net: FaceNet) -> None:
        super().__init__()
        self.net = net

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Face:
        return cls(loaded(FaceNet(), state, "face"))

    def examples(self) -> dict[str, Tensor]:
        return {"crop": torch.zeros(1, FACE_INPUT, FACE_INPUT, 3, dtype=torch.uint8)}

    def forward(self, crop: Tensor) -> tuple[Tensor, ...]:
        fine, coarse = self.net.features(as_float(crop))
        points, peak = _points(self.net.head, fine)
        glob = self.net.global_head(self.net.pool(coarse).flatten(1))
        return points, glob[:, :-1], glob[:, -1], peak.mean(1)


class _Region(Deployed):
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
        return cls(loaded(RegionNet(cls.count), state, cls.name))

    def examples(self) -> dict[str, Tensor]:
        return {"region": torch.zeros(self.batch, REGION_INPUT, REGION_INPUT, 3, dtype=torch.uint8)}

    def forward(self, region: Tensor) -> tuple[Tensor, ...]:
        net = self.net
        half = net.stem(as_float(region) * 2 - 1)
        quarter = net.quarter(half)
        up = net.up_quarter(torch.cat((double(net.eighth(quarter)), quarter), 1))
        return (_points(net.head, net.up_half(torch.cat((double(up), half), 1)))[0],)


class Eye(_Region):
    name, count, batch = "eye", len(lm.RIGHT_EYE_REGION), 2


class Mouth(_Region):
    name, count, batch = "mouth", len(lm.MOUTH_REGION), 1


class Implicit(Deployed):
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


class SourceAppearance(Deployed):
    part = "renderer"
    outputs = ("dense", "at_128", "at_64", "at_32", "motion_cue")

    def __init__(self, net: AppearanceNet) -> None:
        super().__init__()
        self.net = net

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> SourceAppearance:
        return cls(loaded(AppearanceNet(), state, "appearance"))

    def examples(self) -> dict[str, Tensor]:
        return {"picture": torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8)}

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        made = self.net(as_float(picture))
        # Channels last: the renderer moves features by fetching whole pixels.
        features = (t.permute(0, 2, 3, 1) for t in (made.at_128, made.at_64, made.at_32))
        return (made.dense, *features, made.motion_cue)


class PictureRenderer(Deployed):
    """Motion field, generator and the final mix, for one picture."""

    part = "renderer"
    #: the picture [1, 256, 256, 3]; where its pixels come from [1, 2, 64, 64]; how far they are copies [1, 256, 256];
    #: how far each place goes with each implicit keypoint [1, N, 64, 64]
    outputs = ("picture", "displacement", "copied", "follows")

    line: Tensor
    flat_grid: Tensor
    head: Tensor
    box: Tensor
    to_128: Tensor
    to_256: Tensor
    grid_64: Tensor
    grid_256: Tensor
    sixteen: Tensor
    thirty_two: Tensor

    def __init__(self, field: MotionField, generator: Generator) -> None:
        super().__init__()
        self.field, self.generator = field, generator
        # Both users of the cues then want them in the same order: moved, still.
        first = field.enter[0].weight
        assert isinstance(first, nn.Parameter)
        with torch.no_grad():
            first[:, POINTS : POINTS + 32] = first[:, POINTS : POINTS + 32].roll(16, 1)
        centres = pixel_centres(FIELD)
        constants = {
            "line": centres[0, :, :1],  # [64, 1]
            "flat_grid": centres.reshape(-1, 2).T,
            "head": torch.cat((field.head, torch.zeros(1))),
            "box": box_matrix(FIELD, 9),
            "grid_64": centres.permute(2, 0, 1)[None],
            "to_128": bilinear_matrix(FIELD, 128),
            "to_256": bilinear_matrix(FIELD, SIZE).reshape(SIZE // 2, 2, FIELD).transpose(0, 1),
            "grid_256": (pixel_centres(SIZE) + DENSE_START)
            .reshape(SIZE // 2, 2, SIZE // 2, 2, 2)
            .permute(4, 1, 3, 0, 2)
            .reshape(2, 4, -1),
            "sixteen": torch.eye(16),
            "thirty_two": torch.eye(32),
        }
        for name, value in constants.items():
            self.register_buffer(name, value.contiguous(), persistent=False)

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> PictureRenderer:
        return cls(loaded(MotionField(), state, "field"), loaded(Generator(), state, "generator"))

    def examples(self) -> dict[str, Tensor]:
        return {
            "dense": torch.zeros(1, 3, 2 * SIZE, 2 * SIZE),
            "at_128": torch.zeros(1, 128, 128, 24),
            "at_64": torch.zeros(1, 64, 64, 48),
            "at_32": torch.zeros(1, 32, 32, 96),
            "motion_cue": torch.zeros(1, 16, FIELD, FIELD),
            "x_s": torch.zeros(1, POINTS, 2),
            "x_d": torch.zeros(1, POINTS, 2),
            "jacobian": torch.eye(2)[None],
            "interior": torch.zeros(1, BANDS),
        }

    def forward(
        self,
        dense: Tensor,
        at_128: Tensor,
        at_64: Tensor,
        at_32: Tensor,
        motion_cue: Tensor,
        x_s: Tensor,
        x_d: Tensor,
        jacobian: Tensor,
        interior: Tensor,
    ) -> tuple[Tensor, ...]:
        mixed, paint, field = self.planes(dense, at_128, at_64, at_32, motion_cue, x_s, x_d, jacobian, interior)
        half = SIZE // 2
        picture = as_bytes(mixed).reshape(3, 2, 2, half, half).permute(3, 1, 4, 2, 0).reshape(1, SIZE, SIZE, 3)
        copies = as_bytes(1 - paint).reshape(2, 2, half, half).permute(2, 0, 3, 1).reshape(1, SIZE, SIZE)
        return picture, field.displacement, copies, field.follows

    def planes(
        self,
        dense: Tensor,
        at_128: Tensor,
        at_64: Tensor,
        at_32: Tensor,
        motion_cue: Tensor,
        x_s: Tensor,
        x_d: Tensor,
        jacobian: Tensor,
        interior: Tensor,
    ) -> tuple[Tensor, Tensor, Field]:
        """The picture in 0..1 [3, 4, P] and what of it is painted [1, 4, P], before they are put in order as bytes."""
        field = self._motion(motion_cue, x_s[0], x_d[0], jacobian[0])
        # Everything at 256 is in the order of a pixel shuffle, [channel, dy, dx, y, x] for pixel (2 y + dy, 2 x + dx),
        # so that the painted part need not be shuffled: floats stay in planes and only bytes are put in order.
        flow = self._at_256(torch.cat((field.displacement, field.gate), 1))  # [3, 4, P]
        where = (self.grid_256 + flow[:2]).reshape(2, -1).T.reshape(1, SIZE * 2, SIZE // 2, 2)
        copied = F.grid_sample(dense, where, padding_mode="border", align_corners=False).reshape(3, 4, -1)
        painted = self._painted(at_128, at_64, at_32, field, self.generator.sketch(x_d, interior))  # [4, 4, P]
        paint = flow[2:] * torch.sigmoid(-painted[3:])
        return copied + paint * (torch.sigmoid(painted[:3]) - copied), paint, field

    def _motion(self, cue: Tensor, x_s: Tensor, x_d: Tensor, jacobian: Tensor) -> Field:
        """MotionField.forward for x_s, x_d [K, 2] and jacobian [2, 2]."""
        net = self.field
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
        turn = jacobian - torch.eye(2, device=x_s.device)
        shift = x_s - x_d - (x_d @ turn.T) * net.head[:, None]
        # Rows: displacement x, y, share of the head [3, K + 1]
        sums = torch.cat((F.pad(shift, (0, 0, 0, 1)).T, self.head[None]))
        turned = (turn @ self.flat_grid).reshape(1, 2, FIELD, FIELD)

        # softmax(prior) @ ... without the softmax: the background's weight keeps the total from vanishing.
        weights = torch.cat((sums, torch.ones_like(sums[:1]))) * torch.exp(affinity)  # [4, K + 1]
        total = (weights[:, None] * bell[1][None]) @ bell[0].T  # [4, 64, 64]
        rough = ((total[:2] + turned[0] * total[2:3]) / total[3:])[None]
        moved = F.grid_sample(
            cue, (self.grid_64 + rough).permute(0, 2, 3, 1), padding_mode="border", align_corners=False
        )
        cues = channels_last(torch.cat((moved, cue), 1), self.thirty_two)
        seen = torch.cat((heat[None], cues, (rough * 8).permute(0, 2, 3, 1)), 3)
        coarse = net.enter(seen.permute(0, 3, 1, 2))
        at_16 = net.down_16(coarse)
        at_16 = net.up_16(torch.cat((double(net.down_8(at_16)), at_16), 1))
        coarse = net.up_32(torch.cat((double(at_16), coarse), 1))
        fine = net.up_64(torch.cat((double(coarse), cues.permute(0, 3, 1, 2)), 1))

        prior = (wide[1] + affinity)[:, None] + wide[0][None]
        masks = torch.softmax(net.assign(fine).permute(0, 2, 3, 1) + prior, 3)
        follows = masks[:, :, :, lm.LANDMARKS : POINTS].permute(0, 3, 1, 2)
        total = (sums @ masks.reshape(FIELD * FIELD, -1).T).reshape(1, 3, FIELD, FIELD)
        displacement = total[:, :2] + turned * total[:, 2:]
        adjust = net.adjust(fine)
        energy = (rough.square() + displacement.square()).sum(1, keepdim=True)
        near = self.box @ energy @ self.box.T
        everywhere = energy.mean((2, 3), keepdim=True)
        gate = 1 - torch.exp((near + 0.3 * everywhere) * (-1 / GATE_MOTION**2))
        displacement = displacement + gate * torch.tanh(adjust[:, :2]) * RESIDUAL_REACH
        return Field(displacement, torch.sigmoid(adjust[:, 2:]), gate, fine, coarse, follows)

    def _painted(self, at_128: Tensor, at_64: Tensor, at_32: Tensor, field: Field, sketch: Tensor) -> Tensor:
        """Generator.forward."""
        net = self.generator
        flow, visible = field.displacement, field.visible
        half = F.avg_pool2d(torch.cat((flow, visible), 1), 2)
        x = net.join_32(torch.cat((self._seen(at_32, half), field.coarse), 1))
        x = double(net.narrow_32(net.body(x)))
        x = net.join_64(torch.cat((x, self._seen(at_64, torch.cat((flow, visible), 1)), field.fine), 1))
        x = double(net.narrow_64(x))
        large = self._enlarge(torch.cat((flow, visible), 1), self.to_128)
        join, refine = net.join_128
        x = join(torch.cat((x, self._seen(at_128, large)), 1)) + net.drawn(sketch)
        x = net.smooth(net.paint(refine(x)))
        # To planes, as in `channels_last`.
        planes: Tensor = self.sixteen @ x.permute(0, 2, 3, 1).reshape(-1, 16).T
        return planes.reshape(4, 4, -1)

    def _at_256(self, x: Tensor) -> Tensor:
        """Bilinear upsampling [1, C, 64, 64] to [C, 4, 128 * 128] in the order of a pixel shuffle."""
        matrix = self.to_256  # [2, 128, 64]
        return (matrix[None, :, None] @ x[0, :, None, None] @ matrix.transpose(1, 2)).reshape(x.shape[1], 4, -1)

    @staticmethod
    def _seen(features: Tensor, flow: Tensor) -> Tensor:
        """Features [1, S, S, C] moved and dimmed by flow [1, 3, S, S] (displacement and visibility): [1, C, S, S]."""
        seen = warp(features, flow[:, :2]) * flow[:, 2:].permute(0, 2, 3, 1)
        return seen.permute(0, 3, 1, 2)

    @staticmethod
    def _enlarge(x: Tensor, matrix: Tensor) -> Tensor:
        """Bilinear upsampling [1, C, S, S] as two products with a matrix [T, S]: 4 times as fast as a resize."""
        return matrix @ x @ matrix.T


def warp(x: Tensor, displacement: Tensor) -> Tensor:
    """`renderer.sample` for one picture in channels-last layout: x [1, S, S, C], displacement [1, 2, S, S].

    Four fetches of whole pixels and their mean: on a CPU three to five times as fast as grid_sample, which fetches
    channel by channel. (Not so below 17 channels, where OpenVINO gathers number by number.)
    """
    size, channels = x.shape[1], x.shape[3]
    # Pixel indices are exact in float32; going through coordinates in -1..1 would lose some 1e-5 pixels.
    start = torch.arange(size, dtype=torch.float32, device=x.device)
    base = torch.stack((start.repeat(size), start.repeat_interleave(size)))
    at = (base + displacement.reshape(2, -1) * (size / 2)).clamp(0, size - 1)
    low = at.floor().clamp(max=size - 2)
    right, down = (at - low)[:, :, None]
    first = (low[1] * size + low[0]).to(torch.int32)
    table = x.reshape(size * size, channels)

    def fetch(offset: int) -> Tensor:
        return table.index_select(0, first + offset)

    corner, below = fetch(0), fetch(size)
    above = corner + (fetch(1) - corner) * right
    below = below + (fetch(size + 1) - below) * right
    moved: Tensor = above + (below - above) * down
    return moved.reshape(1, size, size, channels)


def channels_last(x: Tensor, identity: Tensor) -> Tensor:
    """[1, C, H, W] to [1, H, W, C]. A product with the identity is exact, and four times as fast as a reorder."""
    return (x.flatten(2)[0].T @ identity).reshape(1, x.shape[2], x.shape[3], -1)


def bilinear_matrix(small: int, large: int) -> Tensor:
    """[large, small]: what F.interpolate(mode="bilinear", align_corners=False) does along one side."""
    unit = torch.eye(small)[None]
    return F.interpolate(unit, large, mode="linear", align_corners=False)[0].T.contiguous()


def box_matrix(size: int, window: int) -> Tensor:
    """[size, size]: mean over the neighbours within `window` that exist, along one side."""
    place = torch.arange(size)
    near = ((place[:, None] - place[None]).abs() <= window // 2).float()
    return near / near.sum(1, keepdim=True)


NETWORKS: dict[str, type[Deployed]] = {
    "face": Face,
    "eye": Eye,
    "mouth": Mouth,
    "implicit": Implicit,
    "appearance": SourceAppearance,
    "renderer": PictureRenderer,
}
