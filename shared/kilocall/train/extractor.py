"""Trains the landmark networks on labelled crops: heat maps, coordinates, and how far lids and lips are open."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from kilocall.model import landmarks as lm
from kilocall.model.compact import regions as rg
from kilocall.model.compact.extractor import Extractor, FaceLevels, HeatmapHead, RegionLevels
from kilocall.model.compact.regions import FACE_INPUT, REGION_INPUT
from kilocall.train.ahead import Ahead
from kilocall.train.augment import FaceSample, augment_face
from kilocall.train.dataset import SIZE, Dataset
from kilocall.train.loop import on_device, precision, take_over
from kilocall.train.losses import eye_opening_apart, lip_opening_apart, openings_apart, relative_l1

#: So long each block of a light face network gets what the teacher's blocks give; then it gets its own.
APART_STEPS = 300
HALF = SIZE / 2  # pixels a unit of crop coordinates
REGION_HALF = REGION_INPUT / 2  # the same within a close-up


class ExtractorTask:
    """Augmented faces and their close-ups against the labels."""

    def __init__(
        self,
        data: Dataset,
        held_out: Dataset,
        *,
        batch: int,
        device: torch.device,
        teacher: Extractor | None = None,
        seed: int = 0,
    ) -> None:
        """`teacher` is imitated beside the labels, by light networks."""
        self.network: nn.Module = on_device(Extractor(light=teacher is not None), device)
        self.teacher = None if teacher is None else on_device(teacher.eval().requires_grad_(False), device)
        if teacher is not None:
            take_over(self.network, teacher)
        self.data, self.held_out, self.batch, self.device, self.seed = data, held_out, batch, device, seed
        self.points = data.points
        self.cumulative = np.cumsum(frame_weights(data, self.points))
        self.weight = torch.from_numpy(lm.importance()).to(device)
        self._ahead = Ahead(self._make, device)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Charbonnier distance in pixels + heat-map cross-entropy + opening errors + face or no face."""
        crops, points, is_face, regions, matrices = (t.to(self.device) for t in self._ahead.take(step))
        network = self.network
        assert isinstance(network, Extractor)
        crops, eyes, mouths = (
            t.contiguous(memory_format=torch.channels_last)
            for t in (crops, regions[:, :2].flatten(0, 1), regions[:, 2])
        )
        given: _Found | None = None
        with precision(self.device):
            if self.teacher is not None:
                with torch.no_grad():
                    given = _find(self.teacher, crops, eyes, mouths)
            below = given.levels if given is not None and step < APART_STEPS else None
            found = _find(network, crops, eyes, mouths, below)
        labels = _labels(points, is_face, matrices)
        weight = self.weight / self.weight.mean()
        total = _face_loss(network, found, labels, weight) + _close_loss(network, found, labels)
        if given is not None:
            total = total + _unlike_teacher(found, given, labels, weight)
        distance = _masked((found.points - labels.flat).norm(dim=-1).mean(1) * HALF, labels.face)
        return total, {"loss": float(total.detach()), "px": float(distance.detach())}

    def extra_state(self) -> dict[str, Any]:
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Nothing but the network and its optimizer is kept."""

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Mean landmark distance in pixels at 256 and correlation of the openings on held-out clips."""
        assert isinstance(network, Extractor)
        distances: list[float] = []
        coarse: list[float] = []
        lids: list[float] = []
        lips: list[float] = []
        for clip in range(len(self.held_out.names)):
            frames = list(self.held_out.clip(clip))[::5]
            truth = self.held_out.points[frames]
            first, found = extract(network, self.held_out.pictures[frames], self.device)
            coarse.append(float(np.linalg.norm(first - truth[..., :2], axis=-1).mean() * HALF))
            distances.append(float(np.linalg.norm((found - truth)[..., :2], axis=-1).mean() * HALF))
            for pairs, sink in ((lm.LID_PAIRS, lids), (lm.LIP_PAIRS, lips)):
                a, b = lm.mean_opening(found[..., :2], pairs), lm.mean_opening(truth[..., :2], pairs)
                sink.append(float(np.corrcoef(a, b)[0, 1]) if len(a) > 2 else 0.0)
        return {
            "px": float(np.mean(distances)),
            "coarse_px": float(np.mean(coarse)),
            "lids_r": float(np.mean(lids)),
            "lips_r": float(np.mean(lips)),
        }

    def sheet(self, network: nn.Module) -> NDArray[np.uint8] | None:
        """Held-out faces with found points (blue) and labels (red)."""
        assert isinstance(network, Extractor)
        frames = [self.held_out.clip(c)[len(self.held_out.clip(c)) // 2] for c in range(len(self.held_out.names))][:15]
        _, found = extract(network, self.held_out.pictures[frames], self.device)
        tiles = []
        for frame, points in zip(frames, found, strict=True):
            tile = cv2.resize(self.held_out.pictures[frame], None, fx=1.5, fy=1.5)
            for where, colour in ((self.held_out.points[frame], (255, 40, 40)), (points, (60, 120, 255))):
                for x, y in (where[:, :2] + 1) * (HALF * 1.5):
                    cv2.circle(tile, (int(x), int(y)), 1, colour, -1)
            tiles.append(tile)
        while len(tiles) % 5:
            tiles.append(np.zeros_like(tiles[0]))
        return np.concatenate([np.concatenate(tiles[i : i + 5], 1) for i in range(0, len(tiles), 5)], 0)

    def _make(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, step))
        chosen = np.searchsorted(self.cumulative, rng.random(self.batch) * self.cumulative[-1])
        samples = [augment_face(self.data.pictures[i], self.points[i], rng) for i in chosen]
        crops = _small([s.picture for s in samples])
        cut = [_cut_regions(s, rng) for s in samples]
        return (
            _to_tensor(crops),
            torch.from_numpy(np.stack([s.points for s in samples])),
            torch.tensor([s.is_face for s in samples]),
            _to_tensor(np.stack([r for r, _ in cut])),
            torch.from_numpy(np.stack([m for _, m in cut])),
        )


class _Found(NamedTuple):
    """What the networks say of B faces and their close-ups, the right and left eye of each in turn."""

    levels: FaceLevels
    points: Tensor  # [B, K, 2]
    depth: Tensor  # [B, K]
    logit: Tensor  # [B]
    heat: Tensor  # [B, K, S * S] logarithms, as of the others
    eye_levels: RegionLevels
    mouth_levels: RegionLevels
    eye: Tensor  # [2 B, K, 2] within the close-up
    eye_heat: Tensor
    mouth: Tensor  # [B, K, 2]
    mouth_heat: Tensor


def _find(network: Extractor, crops: Tensor, eyes: Tensor, mouths: Tensor, given: FaceLevels | None = None) -> _Found:
    """Every block of `given` takes the place of what this network's own gives to the next ones."""
    levels = network.face.levels(crops, given)
    face = network.face.read(levels)
    eye_levels = network.eye.levels(*network.eye.below(eyes))
    mouth_levels = network.mouth.levels(*network.mouth.below(mouths))
    eye, mouth = network.eye.head(eye_levels.up_half), network.mouth.head(mouth_levels.up_half)
    return _Found(levels, *face, eye_levels, mouth_levels, *eye, *mouth)


class _Labels(NamedTuple):
    flat: Tensor  # [B, K, 2] points
    depth: Tensor  # [B, K]
    face: Tensor  # [B] 1 where there is one, else 0
    eye: Tensor  # [2 B, K, 2] within the close-up
    eye_face: Tensor  # [2 B]
    mouth: Tensor  # [B, K, 2]


def _labels(points: Tensor, is_face: Tensor, matrices: Tensor) -> _Labels:
    flat, face = points[..., :2], is_face.float()
    right = _into(matrices[:, 0], flat[:, list(lm.RIGHT_EYE_REGION)])
    left = _into(matrices[:, 1], flat[:, list(lm.LEFT_EYE_REGION)])
    eye = torch.stack((right, left), 1).flatten(0, 1)
    mouth = _into(matrices[:, 2], flat[:, list(lm.MOUTH_REGION)])
    return _Labels(flat, points[..., 2], face, eye, face.repeat_interleave(2), mouth)


def _face_loss(network: Extractor, found: _Found, labels: _Labels, weight: Tensor) -> Tensor:
    flat, face = labels.flat, labels.face
    error = _charbonnier((found.points - flat) * HALF)
    loss = _masked((error * weight).mean(1), face) + _masked(openings_apart(found.points, flat) * HALF, face)
    loss = loss + 0.3 * _masked(_heat_loss(network.face.head, found.heat, flat).mean(1), face)
    depth_loss = _masked((found.depth - labels.depth).abs().mean(1), face) * 10
    return loss + depth_loss + F.binary_cross_entropy_with_logits(found.logit, face)


def _close_loss(network: Extractor, found: _Found, labels: _Labels) -> Tensor:
    eye, eye_face, mouth, face = labels.eye, labels.eye_face, labels.mouth, labels.face
    loss = _masked(_charbonnier((found.eye - eye) * REGION_HALF).mean(1), eye_face)
    loss = loss + _masked(eye_opening_apart(found.eye, eye) * REGION_HALF, eye_face)
    loss = loss + _masked(_charbonnier((found.mouth - mouth) * REGION_HALF).mean(1), face)
    loss = loss + _masked(lip_opening_apart(found.mouth, mouth) * REGION_HALF, face)
    loss = loss + 0.3 * _masked(_heat_loss(network.eye.head, found.eye_heat, eye).mean(1), eye_face)
    return loss + 0.3 * _masked(_heat_loss(network.mouth.head, found.mouth_heat, mouth).mean(1), face)


def _unlike_teacher(found: _Found, given: _Found, labels: _Labels, weight: Tensor) -> Tensor:
    face, eye_face = labels.face, labels.eye_face
    loss = _masked((_charbonnier((found.points - given.points) * HALF) * weight).mean(1), face)
    loss = loss + 10 * _masked((found.depth - given.depth).abs().mean(1), face)
    loss = loss + (found.logit - given.logit).abs().mean()
    # Not the last: a light face network reads its heat maps off it by another kind of convolution.
    for made, wanted in (
        (found.levels[:-1], given.levels[:-1]),
        (found.eye_levels, given.eye_levels),
        (found.mouth_levels, given.mouth_levels),
    ):
        loss = loss + sum(relative_l1(a, b) for a, b in zip(made, wanted, strict=True))
    loss = loss + _masked(_charbonnier((found.eye - given.eye) * REGION_HALF).mean(1), eye_face)
    loss = loss + _masked(_charbonnier((found.mouth - given.mouth) * REGION_HALF).mean(1), face)
    for own, told, mask in (
        (found.heat, given.heat, face),
        (found.eye_heat, given.eye_heat, eye_face),
        (found.mouth_heat, given.mouth_heat, face),
    ):
        loss = loss + 0.5 * _masked((told.exp() * (told - own)).sum(-1).mean(1), mask)
    return loss


def frame_weights(data: Dataset, points: NDArray[np.float32]) -> NDArray[np.float64]:
    """How often a frame is drawn: clips by the root of their length, blinks and wide mouths more often."""
    weight = np.zeros(len(points))
    for clip in range(len(data.names)):
        frames = data.clip(clip)
        span = slice(frames.start, frames.stop)
        w = np.ones(len(frames))
        if len(frames) > 20:
            lids = lm.mean_opening(points[span, :, :2], lm.LID_PAIRS)
            lips = lm.mean_opening(points[span, :, :2], lm.LIP_PAIRS)
            w += 3.0 * (lids < np.quantile(lids, 0.12)) + 1.5 * (lips > np.quantile(lips, 0.8))
        weight[span] = w / w.sum() * (np.sqrt(len(frames)) if len(frames) > 1 else 4.0)
    return weight


@torch.no_grad()
def extract(
    network: Extractor, pictures: NDArray[np.uint8], device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Landmarks of crops [N, 256, 256, 3]: from two looks at the face [N, K, 2], and refined by the close-ups
    [N, K, 3].

    The third coordinate is the depth.
    """
    first, fine = [], []
    for start in range(0, len(pictures), 32):
        some = pictures[start : start + 32]
        seen = _faces(network, _small(some), device)
        turned = [rg.face_region(face[:, :2]) for face in seen]
        again = _faces(network, np.stack([rg.cut_face(p, m) for p, m in zip(some, turned, strict=True)]), device)
        refined = np.stack([rg.refined_points(*looks) for looks in zip(seen, again, turned, strict=True)])
        first.append(refined[..., :2].copy())
        matrices = np.stack([rg.regions(p) for p in refined[..., :2]])
        close = np.stack([rg.cut_regions(p, m) for p, m in zip(some, matrices, strict=True)])
        cut = _to_tensor(close).to(device)
        eyes = network.eye(cut[:, :2].flatten(0, 1))[0].cpu().numpy().reshape(len(some), 2, -1, 2)
        mouth = network.mouth(cut[:, 2])[0].cpu().numpy()
        for i, m in enumerate(matrices):
            refined[i, list(lm.RIGHT_EYE_REGION), :2] = rg.to_crop(m[0], eyes[i, 0])
            refined[i, list(lm.LEFT_EYE_REGION), :2] = rg.to_crop(m[1], eyes[i, 1])
            refined[i, list(lm.MOUTH_REGION), :2] = rg.to_crop(m[2], mouth[i])
        fine.append(refined)
    return np.concatenate(first), np.concatenate(fine)


def _faces(network: Extractor, pictures: NDArray[np.uint8], device: torch.device) -> NDArray[np.float32]:
    """Points and depths [N, K, 3] in pictures [N, 128, 128, 3]."""
    points, depths, _, _ = network.face(_to_tensor(pictures).to(device))
    faces: NDArray[np.float32] = torch.cat((points, depths[..., None]), 2).cpu().numpy()
    return faces


def _cut_regions(sample: FaceSample, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Close-ups around where the first network might have seen the face: a little off, turned, too large or small."""
    matrices = rg.regions(sample.points[:, :2])
    for i in range(3):
        angle, zoom = rng.normal(0, 0.07), np.exp(rng.normal(0, 0.08))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * zoom
        matrices[i] = np.column_stack(
            (matrices[i, :, :2] @ turn, rg.to_crop(matrices[i], rng.normal(0, 0.08, 2).astype(np.float32)))
        )
    return rg.cut_regions(sample.picture, matrices), matrices


def _small(pictures: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    small = [cv2.resize(p, (FACE_INPUT, FACE_INPUT), interpolation=cv2.INTER_AREA) for p in pictures]
    return np.stack(small).astype(np.uint8)


def _to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pictures).movedim(-1, -3).float().div_(255)


def _charbonnier(pixels: Tensor) -> Tensor:
    distance: Tensor = (pixels.square().sum(-1) + 0.25).sqrt()
    return distance


def _masked(values: Tensor, mask: Tensor) -> Tensor:
    mean: Tensor = (values * mask).sum() / mask.sum().clamp(min=1)
    return mean


def _into(matrix: Tensor, points: Tensor) -> Tensor:
    """Crop points in region coordinates."""
    moved = points - matrix[:, None, :, 2]
    inside: Tensor = torch.linalg.solve(matrix[:, :, :2], moved.transpose(1, 2)).transpose(1, 2)
    return inside


def _heat_loss(head: HeatmapHead, log_heat: Tensor, points: Tensor) -> Tensor:
    """Cross-entropy against a Gaussian of one cell around the point; keeps heat maps narrow and early learning fast."""
    grid = head.grid
    cell = grid[1, 0] - grid[0, 0]
    target = torch.softmax(-(points[:, :, None] - grid).square().sum(-1) / (2 * cell**2), -1)
    return -(target * log_heat).sum(-1)
