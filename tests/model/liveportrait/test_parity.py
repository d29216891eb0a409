"""Our networks against what the public implementation gave for the same weights and pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kilocall.model.liveportrait import networks as net
from kilocall.model.volume.appearance import AppearanceExtractor
from kilocall.model.volume.spade import SpadeDecoder
from model.parity import DRIVING, KEYPOINTS, PICTURES, SOURCE, difference
from model.recipe_weights import network, vectors

FAMILY = "liveportrait"

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[np.float32]]:
    return vectors(FAMILY)


def test_keypoints_are_those_of_the_original(golden: dict[str, NDArray[np.float32]]) -> None:
    extractor = network(net.MotionExtractor, FAMILY, "motion_extractor")
    names = ("yaw", "pitch", "roll", "t", "exp", "scale", "kp")
    for name, picture in (("source", SOURCE), ("driving", DRIVING)):
        head = extractor(picture)
        for ours, theirs in zip(net.Head._fields, names, strict=True):
            assert difference(getattr(head, ours), golden[f"motion_{name}_{theirs}"]) < KEYPOINTS, ours
        assert difference(net.keypoints(head.canonical, head), golden[f"kp_{name}"]) < KEYPOINTS


def test_picture_of_512_is_that_of_the_original(golden: dict[str, NDArray[np.float32]]) -> None:
    appearance = network(AppearanceExtractor, FAMILY, "appearance_feature_extractor")
    volume = appearance(SOURCE)
    assert difference(volume.mean((3, 4)), golden["feature_volume_mean"]) < KEYPOINTS
    warping = network(net.WarpingModule, FAMILY, "warping_module")
    x_s, x_d = (torch.from_numpy(golden[f"kp_{name}"]) for name in ("source", "driving"))
    features, occlusion = warping(volume, x_s, x_d)
    assert difference(occlusion, golden["occlusion"]) < PICTURES
    decoder = network(lambda: SpadeDecoder(double=True), FAMILY, "spade_generator")
    picture = decoder(features)
    assert picture.shape == (1, 3, 512, 512)
    assert difference(picture, golden["prediction"]) < PICTURES
