"""Teaches the network of `compact/fusion.py` to compare: the same sums as there, in torch, with a loss behind them.

The network sees a made picture and a layer frame of one moment, and is judged by what its correction does to a picture
of that moment or one before the next layer frame, moved there with the face. So it learns to change nothing that does
not last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from kilocall.model.compact.compose import TRACE_STEPS
from kilocall.model.compact.fusion import COARSE, FAR, SIDE, WORK_SIDE
from kilocall.model.compact.fusion_network import FusionNetwork
from kilocall.model.interior import LUMA
from kilocall.proto.errors import BadInput
from kilocall.sender.layer_encoder import LADDER, LayerSetting
from kilocall.train.fusion_data import Batch, Sample, SentClip, gather
from kilocall.train.loop import on_device, precision
from kilocall.train.losses import ssim_loss, vif_loss

__all__ = ["FusionTask", "carried", "changes", "fused", "moved", "traced"]

#: Weights of the loss: of the difference, its square, that in powers of ten, 1 - SSIM, 1 - visual information fidelity,
#: detail that is missing and detail that is too much. The third has a clip that is nearly right count as much as one
#: that is far off; the fifth tells detail that is there from detail that only looks like some.
ABSOLUTE: Final = 4.0
SQUARED: Final = 10.0
POWERS: Final = 0.25
UNLIKE: Final = 0.1
UNREADABLE: Final = 0.6
MISSING_DETAIL: Final = 4.5
MORE_DETAIL: Final = 0.9
_LEAST_SQUARED: Final = 1e-5
#: Of squared error, blocks of so many pixels each way, beyond what the made picture has there.
WORSE: Final = 30.0
WORSE_BLOCK: Final = 8
#: Of the ladder's settings so many are drawn for one of the others.
LADDER_WEIGHT: Final = 2
#: Layer frames of a held-out clip that are measured at each rate, and how many samples at once.
MEASURED: Final = 4
MEASURED_AT_ONCE: Final = 8
#: Rows of the picture that shows how it goes.
ROWS: Final = 6


class FusionTask:
    """A `Task`: samples of sent clips, measured on others."""

    def __init__(
        self,
        clips: Sequence[SentClip],
        held_out: Sequence[SentClip],
        *,
        batch: int,
        device: torch.device,
        seed: int = 0,
    ) -> None:
        if not clips:
            raise BadInput("the fusion network needs at least one clip to learn from, there is none")
        self.clips, self.batch, self.device, self.seed = clips, batch, device, seed
        self.network: nn.Module = on_device(FusionNetwork(), device)
        self.held_out = _held_out(held_out)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((self.seed, step))
        given = gather([_draw(self.clips, rng) for _ in range(self.batch)], self.device)
        made, truth = given.made_now, given.truth
        shown = self.fuse(self.network, given)
        worse = _blocks((shown - truth).square()) - _blocks((made - truth).square())
        apart = _energy(truth) - _energy(shown)
        difference = shown - truth
        squared = difference.square().mean((1, 2, 3))
        total = ABSOLUTE * difference.abs().mean() + SQUARED * squared.mean()
        total = total + POWERS * (squared + _LEAST_SQUARED).log10().mean()
        total = total + UNLIKE * ssim_loss(shown, truth) + UNREADABLE * vif_loss(_luma(shown), _luma(truth))
        total = total + WORSE * F.relu(worse).mean()
        total = total + MISSING_DETAIL * F.relu(apart).mean() + MORE_DETAIL * F.relu(-apart).mean()
        with torch.no_grad():
            figures = _figures(made, shown, truth)
        means = {name: float(values.mean()) for name, values in figures.items()}
        return total, {"loss": float(total.detach()), **means}

    def fuse(self, network: nn.Module, given: Batch) -> Tensor:
        """What is shown [B, 3, 256, 256]; not cut off at black and white."""
        way = traced(given.displacement_now, given.displacement_then)
        return fused(given.made_now, carried(changes(network, given), way))

    def extra_state(self) -> dict[str, Any]:
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        pass

    @torch.inference_mode()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """PSNR (dB) of the made pictures, of the fused ones, and of these at each rate; how sharp these are."""
        rows: list[dict[str, float]] = []
        for start in range(0, len(self.held_out), MEASURED_AT_ONCE):
            samples = self.held_out[start : start + MEASURED_AT_ONCE]
            given = gather(samples, self.device)
            shown = self.fuse(network, given).clamp(0, 1)
            figures = {n: v.tolist() for n, v in _figures(given.made_now, shown, given.truth).items()}
            for i, sample in enumerate(samples):
                row = {name: float(values[i]) for name, values in figures.items()}
                rows.append({**row, f"psnr_{sample.setting.kbps:g}": row["psnr"]})
        names = list(dict.fromkeys(name for row in rows for name in row))
        return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}

    @torch.inference_mode()
    def sheet(self, network: nn.Module) -> NDArray[np.uint8] | None:
        """Rows: made, layer, fused, truth, of held-out samples."""
        if not self.held_out:
            return None
        count = min(ROWS, len(self.held_out))
        chosen = [self.held_out[i] for i in np.linspace(0, len(self.held_out) - 1, count).astype(int)]
        given = gather(chosen, self.device)
        shown = self.fuse(network, given).clamp(0, 1)
        rows = torch.cat((given.made_now, given.layer, shown, given.truth), 3)
        tiles = (255 * rows).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return np.asarray(cv2.resize(np.concatenate(tiles), None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA))


def changes(network: nn.Module, given: Batch) -> Tensor:
    """What the network changes of a picture of the layer frame's moment [B, 4, 256, 256]: offsets of three colours,
    1 is white, and the gain of detail."""
    low, layer_low = F.avg_pool2d(given.made_then, 2), F.avg_pool2d(given.layer, 2)
    layer_high = given.layer - _double(layer_low)
    difference = layer_low - low
    coarse = F.interpolate(
        F.avg_pool2d(difference, COARSE), scale_factor=float(COARSE), mode="bilinear", align_corners=False
    )
    fine = difference - coarse
    features = torch.cat(
        (
            low - 0.5,
            4 * coarse,
            8 * fine,
            10 * F.avg_pool2d(_luma(given.made_then - _double(low)).abs(), 2),
            10 * F.avg_pool2d(_luma(layer_high).abs(), 2),
            given.painted,
            _wide(given.visible, WORK_SIDE),
            given.size.view(-1, 1, 1, 1).expand(-1, 1, WORK_SIDE, WORK_SIDE),
        ),
        1,
    )
    with precision(features.device):
        said = network(features.permute(0, 2, 3, 1))[0]
    said = _wide(said.float().permute(0, 3, 1, 2), WORK_SIDE)
    of_coarse, of_fine, more, gain, detail = torch.split(said, [1, 1, 3, 1, 1], 1)
    # A layer that is no larger has no detail beyond.
    larger = (given.size > np.log2(WORK_SIDE / SIDE)).view(-1, 1, 1, 1)
    offset = _double(of_coarse * coarse + of_fine * fine + more) + larger * _double(detail) * layer_high
    return torch.cat((offset, _double(gain)), 1)


def traced(now: Tensor, then: Tensor) -> Tensor:
    """How far from each place it lay at another moment, by the displacements of both [B, 2, F, F], crop units."""
    still = _grid(now)
    way = now - then
    for _ in range(TRACE_STEPS):
        way = now - _sampled(then, still + way)
    return way


def moved(values: Tensor, way: Tensor) -> Tensor:
    """What belongs to a moment [B, C, 256, 256], at the places of another that lie so far away [B, 2, F, F]."""
    return _sampled(values, _grid(values) + _wide(way, values.shape[-1]))


def carried(change: Tensor, way: Tensor) -> Tensor:
    """What is left of a change [B, 4, 256, 256] at the places of another moment."""
    share = _wide(1 / (1 + way.square().sum(1, keepdim=True) / FAR**2), change.shape[-1])
    offset, gain = torch.split(moved(change, way), [3, 1], 1)
    return torch.cat((share * offset, 1 + share * (gain - 1)), 1)


def fused(made: Tensor, change: Tensor) -> Tensor:
    """The picture [B, 3, 256, 256] changed."""
    offset, gain = change[:, :3], change[:, 3:]
    low = _double(F.avg_pool2d(made, 2))
    return low + gain * (made - low) + offset


def _draw(clips: Sequence[SentClip], rng: np.random.Generator) -> Sample:
    clip = clips[int(rng.integers(len(clips)))]
    settings = [setting for setting, layer in clip.layers.items() if len(layer.frames)]
    weight = np.array([LADDER_WEIGHT if setting in LADDER else 1 for setting in settings], np.float64)
    setting = settings[rng.choice(len(settings), p=weight / weight.sum())]
    number = int(rng.integers(len(clip.layers[setting].frames)))
    shown = _shown_after(clip, setting, number, rng.random())
    return Sample(clip, setting, number, shown, mirrored=bool(rng.random() < 0.5))


def _held_out(clips: Sequence[SentClip]) -> list[Sample]:
    """The same for every step: layer frames throughout a clip, each seen by a frame at another distance."""
    samples = []
    for clip in clips:
        for setting in (setting for setting in clip.layers if setting in LADDER):
            count = len(clip.layers[setting].frames)
            for i, number in enumerate(np.linspace(0, count - 1, min(MEASURED, count)).astype(int)):
                shown = _shown_after(clip, setting, int(number), (i + 0.5) / MEASURED)
                samples.append(Sample(clip, setting, int(number), shown))
    return samples


def _shown_after(clip: SentClip, setting: LayerSetting, number: int, share: float) -> int:
    """A frame from the layer frame's own up to the last before the next is due, `share` 0..1 of that way."""
    first = int(clip.layers[setting].frames[number])
    last = min(first + max(0, round(clip.fps / setting.fps) - 1), len(clip.truth) - 1)
    return first + int(share * (last - first + 1))


def _figures(made: Tensor, shown: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Of each sample [B]."""
    energy = [_energy(picture).mean((1, 2, 3)) for picture in (shown, truth)]
    return {"made_psnr": _psnr(made, truth), "psnr": _psnr(shown, truth), "sharpness": energy[0] / energy[1]}


def _psnr(made: Tensor, truth: Tensor) -> Tensor:
    return -10 * (made - truth).square().mean((1, 2, 3)).clamp(min=1e-6).log10()


def _energy(picture: Tensor) -> Tensor:
    """How much the Laplacian finds in blocks of 16 pixels; the offset keeps its slope finite on flat ground."""
    kernel = picture.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3)
    return (F.avg_pool2d(F.conv2d(_luma(picture), kernel).square(), 16, 8) + 1e-5).sqrt()


def _blocks(error: Tensor) -> Tensor:
    return F.avg_pool2d(error.mean(1, keepdim=True), WORSE_BLOCK)


def _luma(picture: Tensor) -> Tensor:
    return (picture * picture.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def _double(x: Tensor) -> Tensor:
    return _wide(x, 2 * x.shape[-1])


def _wide(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)


def _sampled(values: Tensor, places: Tensor) -> Tensor:
    """Values [B, C, H, W] at places [B, 2, H, W] in crop units; beyond the edge as at the edge."""
    return F.grid_sample(values, places.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)


def _grid(like: Tensor) -> Tensor:
    """Centres of a field's places [1, 2, S, S], crop units."""
    side = like.shape[-1]
    line = (2 * torch.arange(side, device=like.device, dtype=torch.float32) + 1) / side - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack((x, y))[None]
