"""Trains the renderer: one frame of a clip must turn into another one, given only keypoints of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from kilocall.model import geometry as geo
from kilocall.model import landmarks as lm
from kilocall.model.compact.regions import regions
from kilocall.model.compact.renderer import IMPLICIT, Appearance, Renderer
from kilocall.model.interior import BANDS, BASIS, LUMA, SAMPLES, SEEN_FROM_PX, SEEN_WHOLLY_PX
from kilocall.model.shape import ShapeModel, rigid_weight
from kilocall.proto.errors import BadInput
from kilocall.train.adversary import PATCH, Adversary, squares
from kilocall.train.ahead import Ahead, PictureStore
from kilocall.train.align import aligned, seen_slopes
from kilocall.train.dataset import SIZE, Dataset
from kilocall.train.extractor import frame_weights
from kilocall.train.loop import on_device, precision
from kilocall.train.losses import gradient_l1, ssim_loss, texture_energy, weighted_l1
from kilocall.train.perceptual import LandmarkPerception, Seen

Array = NDArray[np.float32]

DRIVEN = 2  # driving frames a source picture, so that its features are computed once for several
EXTRACTION_NOISE = 0.4 / 128  # crop units; what the landmark networks and the quantiser add
IMPLICIT_NOISE = 0.8 / 128  # what the quantiser and a frame of fast motion leave after the alignment
INTERIOR_NOISE = 0.04
PERCEPTION = 0.1  # about half of the pixel losses
DISAGREEMENT = 0.004  # a pixel, for lids and lips that the landmark networks find elsewhere
# A pixel that lids or lips open too far or not far enough, or that irises look elsewhere. The other losses leave lids
# half open: they moved by 0.49 of what the keypoints asked, lips by 0.77, irises by 0.32; correlations do not show it.
MOVEMENT = 0.1
ADVERSARY = 0.1
# Of what is seen between the lips: its brightness as `interior` tells it, and the colours of the mouth's close-up, four
# pixels at a time. A mouth is a hundredth of the picture, and without these it learns that much slower.
INTERIOR = 2.0
MOUTH_COLOURS = 1.0
# The same of the eyes' close-ups: a generator that is unsure of a closed lid may paint it red, and no other loss minds.
EYE_COLOURS = 1.0


@dataclass(frozen=True)
class Posed:
    """Faces taken apart: rotation [N, 3, 3], translation [N, 3], scale [N], head-fixed shape [N, K, 3]."""

    rotation: Array
    translation: Array
    scale: Array
    shape: Array

    @staticmethod
    def of(points: Array, model: ShapeModel) -> Posed:
        pose = geo.similarity(points, model.mean, rigid_weight())
        return Posed(*pose, geo.unpose(points, *pose))


def driven_keypoints(posed: Posed, model: ShapeModel, source: NDArray[np.int64], driving: NDArray[np.int64]) -> Array:
    """x_d [B, K, 2] as a receiver composes it: the source's shape plus the coded part of the expression change."""
    shape = posed.shape[source]
    delta = model.delta(model.project(posed.shape[driving] - shape))
    turned = (shape + delta) @ np.swapaxes(posed.rotation[driving], 1, 2)
    points = turned[..., :2] * posed.scale[driving, None, None] + posed.translation[driving, None, :2]
    return np.asarray(points, np.float32)


def jacobians(posed: Posed, source: NDArray[np.int64], driving: NDArray[np.int64]) -> Array:
    """J [B, 2, 2] = (s_s / s_d) (R_s R_d^T)[:2, :2]."""
    turn = posed.rotation[source] @ np.swapaxes(posed.rotation[driving], 1, 2)
    ratio = posed.scale[source] / posed.scale[driving]
    return (turn[:, :2, :2] * ratio[:, None, None]).astype(np.float32)


@dataclass(frozen=True)
class Pairs:
    """S source pictures and DRIVEN frames for each, B = S * DRIVEN of them; all that a step needs but the pixels."""

    frames: NDArray[np.int64]  # [S + B] of the data set, the sources first
    mirrored: bool
    corner: tuple[int, int]  # of the square that a discriminator sees
    x_s: Tensor  # [S, K, 2]
    x_d: Tensor  # [B, K, 2]
    seen: Tensor  # [B, K, 2] as the driving frames themselves have them
    noise: Tensor  # [B, BANDS] of what is seen between the lips
    jacobian: Tensor  # [B, 2, 2]
    jitter: Tensor  # [B, N, 2] of the implicit keypoints
    close: Tensor  # [B, 3, 2, 3] places of the close-ups; none without the landmark networks
    light: Tensor  # [2, S + B, 3] gain and gamma

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.x_s, self.x_d, self.seen, self.noise, self.jacobian, self.jitter, self.close, self.light


class RendererTask:
    def __init__(
        self,
        data: Dataset,
        held_out: Dataset,
        model: ShapeModel,
        *,
        sources: int,
        device: torch.device,
        sharpen: float = 1.0,
        perception: LandmarkPerception | None = None,
        tracked: Array | None = None,
        adversary: Adversary | None = None,
        seed: int = 0,
    ) -> None:
        """`tracked` [N, K, 3]: what the extractor says instead of the labels, so that the renderer learns to live with
        its errors. `perception` adds the landmark networks' features to the loss,
        `adversary` the judgement of discriminators that learn along; it needs `perception` for its close-ups."""
        self.network: nn.Module = on_device(Renderer(), device)
        self.data, self.held_out, self.model, self.device = data, held_out, model, device
        self.sources, self.sharpen, self.seed = sources, sharpen, seed
        points = data.points if tracked is None else tracked
        self.points = points
        if adversary is not None and perception is None:
            raise BadInput("discriminators need the landmark networks of an extractor run for their close-ups")
        self.adversary = adversary
        self.perception = None if perception is None else on_device(perception, device)
        self.posed = Posed.of(points, model)
        weights = frame_weights(data, points)
        self.clips = [c for c in range(len(data.names)) if len(data.clip(c)) > 1]
        self.clip_weight = np.array([np.sqrt(len(data.clip(c))) for c in self.clips])
        self.clip_weight /= self.clip_weight.sum()
        self.frame_weight = weights
        self._pictures = PictureStore(data.pictures, device)
        self._ahead = Ahead(self._make, device)

    def _make(self, step: int) -> Pairs:
        rng = np.random.default_rng((self.seed, step))
        source, driving = self._draw(rng)
        repeated = np.repeat(source, DRIVEN)
        x_s = self.points[source, :, :2].copy()
        seen = self.points[driving, :, :2].copy()
        x_d = driven_keypoints(self.posed, self.model, repeated, driving)
        x_d += rng.normal(0, EXTRACTION_NOISE, x_d.shape).astype(np.float32)
        jacobian = jacobians(self.posed, repeated, driving)
        mirrored = bool(rng.random() < 0.5)
        if mirrored:
            mirror = list(lm.MIRROR)
            flip = np.array([-1, 1], np.float32)
            x_s, x_d, seen = (points[:, mirror] * flip for points in (x_s, x_d, seen))
            jacobian = jacobian * np.array([[1, -1], [-1, 1]], np.float32)
        gain = np.exp(rng.normal(0, 0.12, (self.sources, 1)) + rng.normal(0, 0.05, (self.sources, 3)))
        gamma = np.exp(rng.normal(0, 0.15, (self.sources, 1))).repeat(3, 1)
        noise = rng.uniform(-IMPLICIT_NOISE, IMPLICIT_NOISE, (len(driving), IMPLICIT, 2))
        close = np.zeros((0, 3, 2, 3), np.float32)
        if self.perception is not None:
            close = np.stack([regions(points) for points in x_d])
        corner = (int(rng.integers(SIZE - PATCH + 1)), int(rng.integers(SIZE - PATCH + 1)))
        light = np.stack([np.concatenate((a, np.repeat(a, DRIVEN, 0))) for a in (gain, gamma)])
        dim = rng.uniform(-INTERIOR_NOISE, INTERIOR_NOISE, (len(driving), BANDS))
        arrays = (x_s, x_d, seen, dim, jacobian, noise, close, light)
        tensors = (torch.from_numpy(np.ascontiguousarray(a, np.float32)) for a in arrays)
        return Pairs(np.concatenate((source, driving)), mirrored, corner, *tensors)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        pairs = self._ahead.take(step)
        x_s, x_d, points, dim, jacobian, jitter, close, light = (
            t.to(self.device, non_blocking=True) for t in pairs.tensors
        )
        pictures = self._seen(pairs, light)
        first, truth = pictures[: self.sources], pictures[self.sources :]
        network = self.network
        assert isinstance(network, Renderer)
        wanted = interior_of(truth, points)
        between = told_interior(interior_of(first, x_s), wanted + dim * openness_of(points))
        with precision(self.device):
            made, copied = self._render(network, first, truth, x_s, x_d, jacobian, between, jitter=jitter)
        total = self._unlike(made, copied, truth, watched(x_d))
        figures = {"l1": float((made.detach() - truth).abs().mean())}
        apart = (interior_of(made, points) - wanted).abs().mean()
        total = total + INTERIOR * apart
        figures["interior"] = float(apart.detach()) * 255
        if self.perception is not None:
            total = total + self._looks(self.perception, made, truth, close, pairs.corner, figures)
        return total, {"loss": float(total.detach()), **figures}

    def _unlike(self, made: Tensor, copied: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
        """How far pictures, and the copies alone, are from the truth, at three sizes."""
        half = [F.avg_pool2d(t, 2) for t in (made, copied, truth, weight)]
        quarter = [F.avg_pool2d(t, 2) for t in half]
        l1 = weighted_l1(made, truth, weight)
        total = l1 + weighted_l1(half[0], half[2], half[3]) + weighted_l1(quarter[0], quarter[2], quarter[3])
        total = total + 0.5 * (weighted_l1(copied, truth, weight) + weighted_l1(quarter[1], quarter[2], quarter[3]))
        total = total + 0.5 * gradient_l1(made, truth, weight) + 0.25 * ssim_loss(made, truth)
        return total + self.sharpen * texture_energy(made, truth)

    def _looks(
        self,
        perception: LandmarkPerception,
        made: Tensor,
        truth: Tensor,
        close: Tensor,
        corner: tuple[int, int],
        figures: dict[str, float],
    ) -> Tensor:
        """What other networks think of the made picture: the landmark networks, and the discriminators if any."""
        with precision(self.device):
            seen: Seen = perception(made, truth, close)
        total = PERCEPTION * seen.features + DISAGREEMENT * seen.disagreement + MOVEMENT * seen.movement
        total = total + MOUTH_COLOURS * F.avg_pool2d(seen.mouth[0] - seen.mouth[1], 4).abs().mean()
        total = total + EYE_COLOURS * F.avg_pool2d(seen.eyes[0] - seen.eyes[1], 4).abs().mean()
        figures["px"] = float(seen.disagreement.detach())
        figures["movement_px"] = float(seen.movement.detach())
        if self.adversary is not None:
            judged = self.adversary.loss(
                {
                    "patch": (squares(made, corner), squares(truth, corner)),
                    "eyes": seen.eyes,
                    "mouth": seen.mouth,
                }
            )
            total = total + ADVERSARY * judged
            figures["judged"] = float(judged.detach())
        return total

    def extra_state(self) -> dict[str, Any]:
        return {} if self.adversary is None else {"adversary": self.adversary.state_dict()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """A run that had no discriminators so far begins with fresh ones."""
        if self.adversary is not None and "adversary" in state:
            self.adversary.load_state_dict(state["adversary"])

    def _draw(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        source: list[int] = []
        driving: list[int] = []
        for clip in rng.choice(self.clips, self.sources, p=self.clip_weight):
            frames = self.data.clip(int(clip))
            weight = self.frame_weight[frames.start : frames.stop]
            source.append(int(rng.integers(frames.start, frames.stop)))
            driving.extend(frames.start + rng.choice(len(frames), DRIVEN, p=weight / weight.sum()))
        return np.array(source), np.array(driving)

    def _seen(self, pairs: Pairs, light: Tensor) -> Tensor:
        """The pictures [S + B, 3, 256, 256] of pairs, in the same light for a source and its driving frames."""
        pictures = self._pictures.take(pairs.frames)
        if pairs.mirrored:
            pictures = pictures.flip(3)
        gain, gamma = light[..., None, None]
        seen: Tensor = (pictures.clamp(min=1e-4).pow(gamma) * gain).clamp(0, 1)
        return seen

    @staticmethod
    def _render(
        network: Renderer,
        first: Tensor,
        truth: Tensor,
        x_s: Tensor,
        x_d: Tensor,
        jacobian: Tensor,
        interior: Tensor,
        *,
        jitter: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Source pictures [B, ...], driving frames [B * n, ...]; `jitter` moves the implicit keypoints of these."""
        n = len(truth) // len(first)
        appearance = network.appearance(first.contiguous(memory_format=torch.channels_last))
        appearance = Appearance(*(t.repeat_interleave(n, 0) for t in appearance))
        implicit = network.implicit(F.avg_pool2d(torch.cat((first, truth)), 4))
        implicit_s, implicit_d = implicit[: len(first)].repeat_interleave(n, 0), implicit[len(first) :]
        x_s = torch.cat((x_s.repeat_interleave(n, 0), implicit_s), 1)
        seen = seen_slopes(first).repeat_interleave(n, 0)
        placed = aligned(
            network.field, appearance.motion_cue, seen, x_s, torch.cat((x_d, implicit_d), 1), jacobian, truth
        )
        # The detector learns as if it had found them there itself.
        implicit_d = implicit_d + (placed - implicit_d).detach()
        if jitter is not None:
            implicit_d = implicit_d + jitter
        made, copied, _ = network(appearance, x_s, torch.cat((x_d, implicit_d), 1), jacobian, interior)
        return made, copied

    @torch.no_grad()
    def render_clip(
        self, network: Renderer, held_out: Dataset, frames: range, every: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Truth, made and copied pictures of every n-th frame, driven by the labels, source = first frame."""
        chosen = np.array(list(frames)[::every])
        points = held_out.points[chosen]
        posed = Posed.of(points, self.model)
        zero, all_ = np.zeros(len(chosen), np.int64), np.arange(len(chosen))
        x_d = torch.from_numpy(driven_keypoints(posed, self.model, zero, all_))
        jac = torch.from_numpy(jacobians(posed, zero, all_))
        truth = torch.from_numpy(held_out.pictures[chosen]).permute(0, 3, 1, 2).float().div_(255)
        x_s = torch.from_numpy(points[:1, :, :2].copy())
        between = interior_of(truth, torch.from_numpy(points[..., :2].copy()))
        between = told_interior(between[:1], between)
        inputs = (truth[:1], truth, x_s, x_d, jac, between)
        with precision(self.device):
            made, copied = self._render(network, *(t.to(self.device) for t in inputs))
        return truth, made.cpu(), copied.cpu()

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """PSNR (dB) and 1 - SSIM on the held-out clips, beside the frozen first frame."""
        assert isinstance(network, Renderer)
        rows = []
        for clip in range(len(self.held_out.names)):
            truth, made, copied = self.render_clip(network, self.held_out, self.held_out.clip(clip), 25)
            frozen = truth[:1].expand_as(truth)
            rows.append(
                (
                    _psnr(made, truth),
                    _psnr(copied, truth),
                    _psnr(frozen, truth),
                    float(ssim_loss(made, truth)),
                    _sharp(made, truth),
                )
            )
        names = ("psnr", "copied_psnr", "frozen_psnr", "dssim", "sharpness")
        return dict(zip(names, np.mean(rows, 0).tolist(), strict=True))

    def sheet(self, network: nn.Module) -> NDArray[np.uint8] | None:
        """Rows: source, truth, made, copied for some held-out clips."""
        assert isinstance(network, Renderer)
        columns = []
        for clip in range(0, len(self.held_out.names), 2):
            frames = self.held_out.clip(clip)
            truth, made, copied = self.render_clip(network, self.held_out, frames, max(1, len(frames) * 2 // 5))
            for i in (1, 2):
                tiles = torch.cat((truth[0], truth[i], made[i], copied[i]), 1)
                columns.append((tiles.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy())
        picture = np.concatenate(columns, 1)
        return np.asarray(cv2.resize(picture, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA), np.uint8)


def interior_of(pictures: Tensor, points: Tensor) -> Tensor:
    """`interior` [B, BANDS] of pictures [B, 3, 256, 256] in 0..1 with points [B, K, 2]."""
    samples = torch.from_numpy(SAMPLES).to(points.device)
    places = torch.einsum("bsk,nkc->nbsc", samples, points)  # [B, BANDS + 1, S, 2]
    light = (pictures * pictures.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    mean = F.grid_sample(light, places, padding_mode="border", align_corners=False)[:, 0].mean(2)
    found: Tensor = (mean[:, :BANDS] - mean[:, BANDS:]) * openness_of(points)
    return found


def openness_of(points: Tensor) -> Tensor:
    """`openness` [B, 1] of points [B, K, 2]."""
    upper, lower = [a for a, _ in lm.LIP_PAIRS], [b for _, b in lm.LIP_PAIRS]
    apart = (points[:, upper] - points[:, lower]).norm(dim=-1).mean(1, keepdim=True) * 128
    seen: Tensor = ((apart - SEEN_FROM_PX) / (SEEN_WHOLLY_PX - SEEN_FROM_PX)).clamp(0, 1)
    return seen


def told_interior(source: Tensor, driving: Tensor) -> Tensor:
    """What a receiver knows of `interior` [B * n, BANDS] of driving frames, having those of B source pictures: `BASIS`
    leaves out a part of the change."""
    basis = torch.from_numpy(BASIS).to(source.device)
    own = source.repeat_interleave(len(driving) // len(source), 0)
    told: Tensor = own + (driving - own) @ basis.T @ basis
    return told


def watched(x_d: Tensor) -> Tensor:
    """Loss weight [B, 1, 256, 256]: eight times as much around eyes and mouth as elsewhere."""
    from kilocall.model.compact.blocks import pixel_centres

    grid = pixel_centres(64).reshape(1, 1, -1, 2).to(x_d.device)
    points = x_d[:, [*lm.OUTER_LIPS, *lm.INNER_LIPS, *lm.RIGHT_EYE, *lm.LEFT_EYE]]
    near = (grid - points[:, :, None]).square().sum(-1).amin(1)
    weight = 1 + 7 * torch.exp(-near / (2 * 0.05**2))
    return F.interpolate(weight.reshape(-1, 1, 64, 64), scale_factor=4.0, mode="bilinear", align_corners=False)


def _psnr(made: Tensor, truth: Tensor) -> float:
    error = (made - truth)[1:].square().mean((1, 2, 3)).clamp(min=1e-6)
    return float((-10 * error.log10()).mean())


def _sharp(made: Tensor, truth: Tensor) -> float:
    def energy(t: Tensor) -> Tensor:
        grey = t[1:].mean(1, keepdim=True)
        return (grey - F.avg_pool2d(grey, 3, 1, 1)).square().mean()

    return float(energy(made) / energy(truth))
