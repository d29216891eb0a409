"""LPIPS and DISTS with random weights of the right shape: what holds for any weights, and files that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from kilocall.bench.perceptual import Dists, Lpips, PictureDistance, mean_distance
from kilocall.proto.errors import BadInput

Tensors = dict[str, Tensor]

ALEX = {0: (3, 64, 11), 3: (64, 192, 5), 6: (192, 384, 3), 8: (384, 256, 3), 10: (256, 256, 3)}
VGG = {
    **{0: (3, 64, 3), 2: (64, 64, 3), 5: (64, 128, 3), 7: (128, 128, 3), 10: (128, 256, 3)},
    **{12: (256, 256, 3), 14: (256, 256, 3), 17: (256, 512, 3), 19: (512, 512, 3), 21: (512, 512, 3)},
    **{24: (512, 512, 3), 26: (512, 512, 3), 28: (512, 512, 3)},
}
ALEX_HEADS = (64, 192, 384, 256, 256)
VGG_HEADS = (64, 128, 256, 512, 512)


def convolutions(shapes: dict[int, tuple[int, int, int]]) -> Tensors:
    """As torchvision names them."""
    torch.manual_seed(1)
    made: Tensors = {}
    for number, (inputs, outputs, kernel) in shapes.items():
        weight = torch.randn(outputs, inputs, kernel, kernel) * (2 / (inputs * kernel**2)) ** 0.5
        made |= {f"features.{number}.weight": weight, f"features.{number}.bias": torch.zeros(outputs)}
    return made


def heads(*channels: int) -> Tensors:
    torch.manual_seed(2)
    return {f"lin{number}.model.1.weight": torch.rand(1, count, 1, 1) for number, count in enumerate(channels)}


def shares() -> Tensors:
    torch.manual_seed(3)
    return {name: torch.rand(1, 1475, 1, 1) for name in ("alpha", "beta")}


def saved(path: Path, tensors: Tensors) -> Path:
    torch.save(tensors, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("perceptual")
    classifier = {"classifier.6.bias": torch.zeros(1000)}
    saved(folder / "alexnet.pth", convolutions(ALEX) | classifier)
    saved(folder / "alex.pth", heads(*ALEX_HEADS))
    saved(folder / "vgg16.pth", convolutions(VGG) | classifier)
    saved(folder / "vgg.pth", heads(*VGG_HEADS))
    saved(folder / "weights.pt", shares())
    return folder


def opened(name: str, folder: Path) -> PictureDistance:
    if name == "dists":
        return Dists([folder / "vgg16.pth", folder / "weights.pt"])
    network, head = ("alexnet.pth", "alex.pth") if name == "alex" else ("vgg16.pth", "vgg.pth")
    return Lpips([folder / network, folder / head])


def photograph() -> NDArray[np.uint8]:
    bgr = cv2.imread(str(Path(__file__).parents[1] / "data" / "astronaut.webp"))
    assert bgr is not None
    return np.asarray(cv2.resize(bgr[..., ::-1], (128, 128), interpolation=cv2.INTER_AREA), np.uint8)


@pytest.mark.parametrize("name", ["alex", "vgg", "dists"])
def test_equal_pictures_have_no_distance_and_more_blur_has_more(name: str, folder: Path) -> None:
    measure = opened(name, folder)
    sharp = photograph()
    blurred = [sharp, *(np.asarray(cv2.GaussianBlur(sharp, (0, 0), sigma), np.uint8) for sigma in (0.6, 1.5, 4.0))]
    found = measure(np.stack(blurred), np.stack([sharp] * 4))
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert 1e-4 < found[1] < found[2] < found[3]
    # Symmetric, and each pair counts alone.
    assert measure(sharp[None], blurred[2][None])[0] == pytest.approx(found[2], rel=1e-3)


def test_distance_of_the_first_layer_is_the_formula(folder: Path, tmp_path: Path) -> None:
    head = heads(*ALEX_HEADS)["lin0.model.1.weight"]
    others = {name: torch.zeros_like(value) for name, value in heads(*ALEX_HEADS).items()}
    only_first = saved(tmp_path / "alex.pth", others | {"lin0.model.1.weight": head})
    measure = Lpips([folder / "alexnet.pth", only_first])
    a = photograph()
    b = 255 - a
    weight = convolutions(ALEX)["features.0.weight"].numpy()

    def features(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
        """[31, 31, 64] by hand: a window of 11 at stride 4, a margin of 2."""
        scaled = (picture / 127.5 - 1 - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
        padded = np.pad(scaled, ((2, 2), (2, 2), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (11, 11), (0, 1))[::4, ::4]
        made = np.maximum(np.einsum("yxchw,ochw->yxo", windows, weight), 0)
        return np.asarray(made / np.linalg.norm(made, axis=2, keepdims=True))

    wanted = (np.square(features(a) - features(b)) @ head.numpy().ravel()).mean()
    assert measure(a[None], b[None])[0] == pytest.approx(wanted, rel=1e-3)


def test_names_of_whole_models_are_known_too(folder: Path, tmp_path: Path) -> None:
    def renamed(shapes: dict[int, tuple[int, int, int]], stage: Callable[[int], str]) -> Tensors:
        own = {name.split(".", 1)[1]: value for name, value in convolutions(shapes).items()}
        return {f"{stage(int(name.split('.')[0]))}.{name}": value for name, value in own.items()}

    slices = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}
    whole = renamed(ALEX, lambda number: f"net.slice{slices[number]}") | heads(*ALEX_HEADS)
    whole["scaling_layer.shift"] = torch.zeros(1, 3, 1, 1)
    assert Lpips([saved(tmp_path / "lpips.pth", whole)]).hash == opened("alex", folder).hash
    stages = renamed(VGG, lambda number: f"stage{1 + sum(number >= first for first in (5, 10, 17, 24))}")
    assert Dists([saved(tmp_path / "dists.pth", stages | shares())]).hash == opened("dists", folder).hash


def test_a_clip_is_judged_by_some_of_its_frames(folder: Path) -> None:
    measure = opened("alex", folder)
    truth = np.stack([photograph()] * 11)
    shown = truth.copy()
    shown[[0, 5, 10]] = 255 - shown[[0, 5, 10]]
    # At 25 fps every fifth frame is looked at.
    whole = float(measure(shown[:1], truth[:1])[0])
    assert mean_distance(measure, shown, truth, 25.0) == pytest.approx(whole, rel=1e-3)
    assert mean_distance(measure, shown[1:5], truth[1:5], 25.0) == pytest.approx(0, abs=1e-6)


def test_files_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no features\.0\.weight of AlexNet"):
        Lpips([folder / "alex.pth"])
    with pytest.raises(BadInput, match="no linear heads"):
        Lpips([folder / "alexnet.pth"])
    with pytest.raises(BadInput, match=r"features\.0\.weight is \[64, 3, 11, 11\], VGG-16 has \[64, 3, 3, 3\]"):
        Lpips([folder / "alexnet.pth", folder / "vgg.pth"])
    squeeze = saved(tmp_path / "squeeze.pth", heads(64, 128, 256, 384, 384, 512, 512))
    with pytest.raises(BadInput, match="wanted are those of AlexNet"):
        Lpips([folder / "alexnet.pth", squeeze])
    with pytest.raises(BadInput, match="no alpha"):
        Dists([folder / "vgg16.pth"])
    few = saved(tmp_path / "few.pt", {"alpha": torch.ones(5), "beta": torch.ones(5)})
    with pytest.raises(BadInput, match="alpha has 5 numbers, wanted are 1475"):
        Dists([folder / "vgg16.pth", few])
    with pytest.raises(BadInput, match="no such file"):
        Dists([tmp_path / "none.pt"])
    code = tmp_path / "code.pth"
    torch.save({"alpha": print}, code)
    with pytest.raises(BadInput, match="never run"):
        Dists([code])
