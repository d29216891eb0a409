"""LPIPS and DISTS: how different two pictures look to a network trained on photographs, with weights the user has.

LPIPS (Zhang et al. 2018): distances of normalised features of AlexNet or VGG-16, weighted by linear heads that were
fitted to what people said. DISTS (Ding et al. 2020): structure and texture of VGG-16's features, its poolings smooth.
Both are 0 for equal pictures and grow with the difference. The files are the public ones: torchvision's AlexNet or
VGG-16 (`features.*`) beside the heads (`lin*.model.1.weight`, or `alpha` and `beta`), or one file with all of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kilocall.model.checkpoints import read_tensors
from kilocall.proto.errors import BadInput
from kilocall.runtime.machine import physical_cores

__all__ = ["Dists", "Lpips", "PictureDistance", "mean_distance", "open_distances"]

Pictures = NDArray[np.uint8]

#: A second of a clip is judged by so many of its frames: they hardly differ from their neighbours, VGG takes long.
FRAMES_PER_S: Final = 5
_BATCH: Final = 4
#: DISTS was fitted to pictures of this side; larger ones are reduced to it.
_DISTS_SIDE: Final = 256
_LPIPS_SHIFT: Final = (-0.030, -0.088, -0.188)
_LPIPS_SCALE: Final = (0.458, 0.448, 0.450)
_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_STD: Final = (0.229, 0.224, 0.225)
_STABLE: Final = 1e-6

# Convolutions are counted as torchvision counts the layers: features.0, slice1.0 and stage1.0 are the same.
_CONVOLUTION: Final = re.compile(r"(?:^|\.)(?:features|slice\d|stage\d)\.(\d+)\.(weight|bias)$")
_HEAD: Final = re.compile(r"(?:^|\.)lin(?:s\.)?(\d)\.model\.1\.weight$")
_SHARE: Final = re.compile(r"(?:^|\.)(alpha|beta)$")


@dataclass(frozen=True)
class _Layout:
    """A feature network: stages of convolutions with ReLU; what comes out of each is looked at, pooling is between."""

    name: str
    stages: tuple[tuple[int, ...], ...]
    pooled: tuple[bool, ...]  # before each stage
    shapes: dict[int, tuple[int, int, int]]  # inputs, outputs, kernel
    stride: int = 1  # of the first

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple(self.shapes[stage[-1]][1] for stage in self.stages)


_ALEX: Final = _Layout(
    "AlexNet",
    ((0,), (3,), (6,), (8,), (10,)),
    (False, True, True, False, False),
    {0: (3, 64, 11), 3: (64, 192, 5), 6: (192, 384, 3), 8: (384, 256, 3), 10: (256, 256, 3)},
    stride=4,
)
_VGG: Final = _Layout(
    "VGG-16",
    ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)),
    (False, True, True, True, True),
    {
        **{0: (3, 64, 3), 2: (64, 64, 3), 5: (64, 128, 3), 7: (128, 128, 3), 10: (128, 256, 3)},
        **{number: (256, 256, 3) for number in (12, 14)},
        17: (256, 512, 3),
        **{number: (512, 512, 3) for number in (19, 21, 24, 26, 28)},
    },
)


class PictureDistance(Protocol):
    """One measure with its weights."""

    @property
    def name(self) -> str: ...
    @property
    def frames_per_s(self) -> int:
        """How many of a clip's frames are looked at."""

    @property
    def hash(self) -> str:
        """Of the tensors that are used."""

    def __call__(self, a: Pictures, b: Pictures) -> NDArray[np.float32]:
        """Distance of each pair of pictures uint8 RGB [T, S, S, 3]."""


class Lpips:
    """Version 0.1, of AlexNet or VGG-16, whichever the heads belong to. Raises BadInput for files that do not fit."""

    def __init__(self, files: Sequence[Path]) -> None:
        found = _read(files)
        heads = {int(m[1]): value for name, value in found.items() if (m := _HEAD.search(name))}
        said = _named(files)
        if not heads:
            raise BadInput(
                f"lpips {said}: no linear heads (lin0.model.1.weight ...); they have a file of their own, alex.pth or "
                "vgg.pth of LPIPS 0.1: name both with --lpips"
            )
        widths = tuple(value.shape[1] if value.ndim == 4 else 0 for _, value in sorted(heads.items()))
        layout = next((one for one in (_ALEX, _VGG) if one.channels == widths), None)
        if layout is None:
            raise BadInput(
                f"lpips {said}: the heads are for {', '.join(map(str, widths))} channels, wanted are those of AlexNet "
                f"({', '.join(map(str, _ALEX.channels))}) or VGG-16 ({', '.join(map(str, _VGG.channels))})"
            )
        self._features = _Features(layout, found, f"lpips {said}")
        self._heads = [value.float() for _, value in sorted(heads.items())]
        self.name = f"LPIPS 0.1, {layout.name}"
        self.frames_per_s = FRAMES_PER_S
        self.hash = _hash([*self._features.tensors, *self._heads])

    def __call__(self, a: Pictures, b: Pictures) -> NDArray[np.float32]:
        """Of pictures of one size, whatever it is; at least 64 wide."""
        with torch.inference_mode():
            seen = [self._features(_scaled(2 * _tensor(x) - 1, _LPIPS_SHIFT, _LPIPS_SCALE), _max_pool) for x in (a, b)]
            total = torch.zeros(len(a))
            for one, other, head in zip(*seen, self._heads, strict=True):
                total += functional.conv2d((_unit(one) - _unit(other)).square(), head).mean((1, 2, 3))
            return total.numpy().copy()


class Dists:
    """With the weights of its authors' `weights.pt`. Raises BadInput for files that do not fit."""

    def __init__(self, files: Sequence[Path]) -> None:
        found = _read(files)
        shares = {m[1]: value.float() for name, value in found.items() if (m := _SHARE.search(name))}
        said = _named(files)
        channels = (3, *_VGG.channels)
        for name in ("alpha", "beta"):
            if name not in shares:
                raise BadInput(
                    f"dists {said}: no {name}; it is in a file of its own, weights.pt of DISTS: name that and VGG-16's "
                    "with --dists"
                )
            if shares[name].numel() != sum(channels):
                raise BadInput(f"dists {said}: {name} has {shares[name].numel()} numbers, wanted are {sum(channels)}")
        self._features = _Features(_VGG, found, f"dists {said}")
        whole = shares["alpha"].sum() + shares["beta"].sum()
        self._texture, self._structure = (
            (shares[name].flatten() / whole).split_with_sizes(channels) for name in ("alpha", "beta")
        )
        self.name = "DISTS, VGG-16"
        self.frames_per_s = FRAMES_PER_S
        self.hash = _hash([*self._features.tensors, shares["alpha"], shares["beta"]])

    def __call__(self, a: Pictures, b: Pictures) -> NDArray[np.float32]:
        """Of pictures of one size, reduced to 256 where they are larger."""
        with torch.inference_mode():
            pictures = [_tensor(_reduced(x)) for x in (a, b)]
            seen = [[x, *self._features(_scaled(x, _IMAGENET_MEAN, _IMAGENET_STD), _smooth_pool)] for x in pictures]
            alike = torch.zeros(len(a))
            for x, y, texture, structure in zip(*seen, self._texture, self._structure, strict=True):
                x_mean, y_mean = x.mean((2, 3)), y.mean((2, 3))
                x_var, y_var = ((v - m[..., None, None]).square().mean((2, 3)) for v, m in ((x, x_mean), (y, y_mean)))
                together = (x * y).mean((2, 3)) - x_mean * y_mean
                means = (2 * x_mean * y_mean + _STABLE) / (x_mean.square() + y_mean.square() + _STABLE)
                moves = (2 * together + _STABLE) / (x_var + y_var + _STABLE)
                alike += means @ texture + moves @ structure
            return (1 - alike).numpy().copy()


def open_distances(lpips: Sequence[Path], dists: Sequence[Path], threads: int = 0) -> dict[str, PictureDistance]:
    """The measures whose files are given, by the names that scores have. Sets torch's threads, 0: all cores.

    Raises BadInput for files that are missing or do not fit.
    """
    torch.set_num_threads(threads or physical_cores())
    opened: dict[str, PictureDistance] = {}
    if lpips:
        opened["lpips"] = Lpips(lpips)
    if dists:
        opened["dists"] = Dists(dists)
    return opened


def mean_distance(measure: PictureDistance, made: Pictures, truth: Pictures, fps: float) -> float:
    """Mean over frames evenly spread over two clips uint8 [T, S, S, 3], as many of each second as the measure says."""
    step = max(1, round(fps / measure.frames_per_s))
    made, truth = made[::step], truth[::step]
    parts = [measure(made[i : i + _BATCH], truth[i : i + _BATCH]) for i in range(0, len(made), _BATCH)]
    return float(np.concatenate(parts).mean())


class _Features:
    """What every stage of a feature network says of pictures [B, 3, H, W]."""

    def __init__(self, layout: _Layout, found: Mapping[str, Tensor], said: str) -> None:
        self._layout = layout
        own: dict[tuple[int, str], Tensor] = {}
        for name, value in found.items():
            match = _CONVOLUTION.search(name)
            if match:
                own[int(match[1]), match[2]] = value.float()
        for number, (inputs, outputs, kernel) in layout.shapes.items():
            for part, shape in (("weight", (outputs, inputs, kernel, kernel)), ("bias", (outputs,))):
                if (number, part) not in own:
                    raise BadInput(
                        f"{said}: no features.{number}.{part} of {layout.name}; torchvision's file of {layout.name} "
                        "has it: name that too"
                    )
                value = own[number, part]
                if tuple(value.shape) != shape:
                    raise BadInput(
                        f"{said}: features.{number}.{part} is {list(value.shape)}, {layout.name} has {list(shape)}"
                    )
        self._own = {key: value for key, value in own.items() if key[0] in layout.shapes}

    @property
    def tensors(self) -> list[Tensor]:
        return [self._own[key] for key in sorted(self._own)]

    def __call__(self, x: Tensor, pool: _Pool) -> list[Tensor]:
        made = []
        for stage, pooled in zip(self._layout.stages, self._layout.pooled, strict=True):
            if pooled:
                x = pool(x, self._layout)
            for number in stage:
                kernel = self._layout.shapes[number][2]
                first = number == 0
                x = functional.relu(
                    functional.conv2d(
                        x,
                        self._own[number, "weight"],
                        self._own[number, "bias"],
                        stride=self._layout.stride if first else 1,
                        # AlexNet's first kernel of 11 has a margin of 2.
                        padding=2 if first and kernel > 3 else kernel // 2,
                    )
                )
            made.append(x)
        return made


class _Pool(Protocol):
    def __call__(self, x: Tensor, layout: _Layout) -> Tensor: ...


def _max_pool(x: Tensor, layout: _Layout) -> Tensor:
    return functional.max_pool2d(x, 3 if layout is _ALEX else 2, 2)


def _smooth_pool(x: Tensor, layout: _Layout) -> Tensor:
    """The root of the mean square under a Hann window: no aliases, so that shifted textures look alike."""
    bell = torch.tensor([0.25, 0.5, 0.25])
    window = (bell[:, None] * bell).expand(x.shape[1], 1, 3, 3)
    return torch.sqrt(functional.conv2d(x.square(), window, stride=2, padding=1, groups=x.shape[1]) + 1e-12)


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


def _scaled(x: Tensor, shift: tuple[float, ...], scale: tuple[float, ...]) -> Tensor:
    return (x - torch.tensor(shift)[:, None, None]) / torch.tensor(scale)[:, None, None]


def _tensor(pictures: Pictures) -> Tensor:
    """[T, 3, H, W] in 0..1."""
    return torch.tensor(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255


def _reduced(pictures: Pictures) -> Pictures:
    if pictures.shape[1] <= _DISTS_SIDE:
        return pictures
    side = (_DISTS_SIDE, _DISTS_SIDE)
    return np.stack([np.asarray(cv2.resize(p, side, interpolation=cv2.INTER_AREA), np.uint8) for p in pictures])


def _read(files: Sequence[Path]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in files:
        if not file.is_file():
            raise BadInput(f"{file}: no such file")
        found |= read_tensors(file)
    return found


def _hash(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _named(files: Sequence[Path]) -> str:
    return ", ".join(map(str, files))
