"""The networks as they ship compute what the networks in training compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from kilocall.model.compact.compose import Composer
from kilocall.model.compact.export_modules import (
    Face,
    Motion,
    Mouth,
    Painter,
    SourceAppearance,
    as_float,
    box_matrix,
)
from kilocall.model.compact.renderer import Light
from kilocall.train.calibration import run_module
from train.random_weights import random_extractor, random_motion, random_picture, random_renderer

CROP = torch.randint(0, 256, (1, 128, 128, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def _shipped(
    state: dict[str, Tensor], picture: Tensor, x_s: Tensor, x_d: Tensor, jacobian: Tensor, interior: Tensor
) -> NDArray[np.uint8]:
    """The picture [256, 256, 3] by the networks as they ship, and what is done between them."""
    appearance, field, painter = (kind.from_state(state).eval() for kind in (SourceAppearance, Motion, Painter))
    features = run_module(appearance, {"picture": picture.numpy()})
    still = {"motion_cue": features["motion_cue"], "x_s": x_s.numpy()}
    found = run_module(field, {**still, "x_d": x_d.numpy(), "jacobian": jacobian.numpy()})
    composer = Composer(picture[0].numpy(), features, painter.examples())
    moved = composer.move(found)
    painted = run_module(painter, {**moved, "x_d": x_d.numpy(), "interior": interior.numpy()})["painted"]
    return composer.mix(painted, found["gate"])[0]


@pytest.mark.parametrize("light", [Light(), Light(coarse=True), Light(True, True, True)])
def test_shipped_renderer_is_the_trained_one_to_a_grey_level(light: Light) -> None:
    network = random_renderer(light)
    picture = random_picture()
    x_s, x_d, jacobian, interior = random_motion()
    with torch.inference_mode():
        made, copied, field = network(network.appearance(as_float(picture)), x_s, x_d, jacobian, interior)
        without, _, _ = network(network.appearance(as_float(picture)), x_s, x_d, jacobian)
    shipped = _shipped(network.state_dict(), picture, x_s, x_d, jacobian, interior)
    wanted = (made[0] * 255).round().clamp(0, 255).permute(1, 2, 0).numpy()
    assert field.displacement.abs().max() > 0.02, "the random motion must move something"
    assert (made - copied).abs().max() > 0.1, "the painted part must show"
    assert (made - without).abs().max() > 0.03, "what is seen between the lips must show"
    difference = np.abs(shipped - wanted)
    # Positions are rounded to a 64th of a pixel of noise, features to bytes, pictures to bytes before they are mixed.
    assert difference.mean() < 1
    assert np.percentile(difference, 99) <= 3


@pytest.mark.parametrize("light", [Light(), Light(coarse=True), Light(True, True, True)])
def test_a_still_frame_is_the_source_picture_itself(light: Light) -> None:
    picture = random_picture()
    x_s, _, _, interior = random_motion()
    made = _shipped(random_renderer(light).state_dict(), picture, x_s, x_s, torch.eye(2)[None], interior)
    assert (made == picture[0].numpy()).all()


@pytest.mark.parametrize("light", [False, True])
def test_shipped_face_network_is_the_trained_one(light: bool) -> None:
    network = random_extractor(light=light)
    with torch.inference_mode():
        points, depth, logit, log_heat = network.face(as_float(CROP))
        made = dict(zip(Face.outputs, Face.from_state(network.state_dict()).eval()(CROP), strict=True))
    torch.testing.assert_close(made["points"], points, atol=1e-5, rtol=0)
    torch.testing.assert_close(made["depth"], depth)
    torch.testing.assert_close(made["face_logit"], logit)
    torch.testing.assert_close(made["certainty"], log_heat.exp().amax(-1).mean(1))


@pytest.mark.parametrize("light", [False, True])
def test_shipped_mouth_network_is_the_trained_one(light: bool) -> None:
    network = random_extractor(light=light)
    region = CROP[:, :64, :64]
    with torch.inference_mode():
        wanted = network.mouth(as_float(region))[0]
        made = Mouth.from_state(network.state_dict()).eval()(region)[0]
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=0)


def test_box_matrix_averages_the_neighbours_that_exist() -> None:
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(4))
    box = box_matrix(64, 9)
    torch.testing.assert_close(box @ x @ box.T, torch.nn.functional.avg_pool2d(x, 9, 1, 4, count_include_pad=False))


def test_weights_of_another_shape_are_refused() -> None:
    state = random_renderer().state_dict()
    state["field.background"] = torch.zeros(2)
    with pytest.raises(RuntimeError, match="size mismatch"):
        Motion.from_state(state)
