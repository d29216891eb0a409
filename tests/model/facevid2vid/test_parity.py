"""Our networks against what the public implementation gave for the same weights and pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kilocall.model.facevid2vid import networks as net
from model.parity import DRIVING, KEYPOINTS, PICTURES, SOURCE, difference
from model.recipe_weights import network, vectors

FAMILY = "facevid2vid"

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[np.float32]]:
    return vectors(FAMILY)


def test_keypoints_of_the_new_checkpoints_are_those_of_the_original(golden: dict[str, NDArray[np.float32]]) -> None:
    detector = network(net.KeypointDetector, FAMILY, "kp_detector")
    estimator = network(net.HeadEstimator, FAMILY, "he_estimator")
    canonical = detector(SOURCE)
    assert difference(canonical, golden["canonical"]) < KEYPOINTS
    for name, picture in (("source", SOURCE), ("driving", DRIVING)):
        head = estimator(picture)
        for ours, theirs in zip(net.Head._fields, ("yaw", "pitch", "roll", "t", "exp"), strict=True):
            assert difference(getattr(head, ours), golden[f"he_{name}_{theirs}"]) < KEYPOINTS, ours
        assert difference(net.keypoints(canonical, head, "new"), golden[f"kp_{name}"]) < KEYPOINTS
        # The other order of rotations is another result: the test would see it.
        assert difference(net.keypoints(canonical, head, "beta"), golden[f"kp_{name}"]) > KEYPOINTS


def test_canonical_keypoints_of_the_beta_checkpoint_are_those_of_the_original(
    golden: dict[str, NDArray[np.float32]],
) -> None:
    detector = network(lambda: net.KeypointDetector(shrink=False), FAMILY, "kp_detector", shrink=False)
    assert difference(detector(SOURCE), golden["canonical_beta"]) < KEYPOINTS


@pytest.mark.parametrize("decoder", ["original", "spade"])
def test_pictures_of_both_generators_are_those_of_the_original(
    decoder: str, golden: dict[str, NDArray[np.float32]]
) -> None:
    generator = network(lambda: net.Generator(decoder), FAMILY, f"generator_{decoder}")  # type: ignore[arg-type]
    x_s, x_d = (torch.from_numpy(golden[f"kp_{name}"]) for name in ("source", "driving"))
    made = generator(SOURCE, x_s, x_d)
    assert difference(made.picture, golden[f"{decoder}_prediction"]) < PICTURES
    assert difference(made.occlusion, golden[f"{decoder}_occlusion"]) < PICTURES
    if decoder == "original":
        # A network of noise still answers to its keypoints: a picture that ignored them would not pass.
        still = generator(SOURCE, x_s, x_s)
        assert difference(still.picture, golden[f"{decoder}_prediction"]) > PICTURES
