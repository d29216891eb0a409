from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kilocall.model import landmarks as lm
from kilocall.model.compact.family import CompactFamily
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import Array, place
from kilocall.model.family_loader import load_family
from kilocall.model.motion import Motion
from kilocall.sender.calibration import Calibration, Face
from kilocall.sender.face_crop import CropPlace

SIZE = (640, 480)
CROP = CropPlace(80.0, 0.0, 480.0)
NO_EXPRESSION = np.zeros(38, np.float32)
SHARP = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def mean() -> Array:
    family = load_family(engine=choose_engine("auto", 1))
    assert isinstance(family, CompactFamily)
    return family.shape_model.mean


@pytest.fixture(scope="module")
def ideal(mean: Array) -> Motion:
    """Where the mean face fills the ideal box of the whole-height crop."""
    box = Calibration(mean).ideal_box(SIZE)
    tall = (box[3] - box[1]) * 2  # crop units
    scale = tall / float(np.ptp(mean[:, 1]))
    middle = (mean[:, :2].min(0) + mean[:, :2].max(0)) / 2 * scale
    x = ((box[0] + box[2]) / 2 * 640 - 80) / 240 - 1
    y = (box[1] + box[3]) - 1
    return Motion((0.0, 0.0, 0.0), (x - float(middle[0]), y - float(middle[1])), scale, NO_EXPRESSION)


def face(mean: Array, pose: Motion, *, open_eyes: bool = True, sharp: bool = True) -> Face:
    points = place(mean, pose)
    if not open_eyes:
        for upper, lower in lm.LID_PAIRS:
            points[upper] = points[lower]
    crop = SHARP if sharp else np.full_like(SHARP, 90)
    return Face(points, CROP, pose, crop, 1, SIZE)


def advice(mean: Array, pose: Motion, **how: bool) -> str:
    calibration = Calibration(mean)
    calibration.look(face(mean, pose, **how), SIZE)
    return calibration.look(face(mean, pose, **how), SIZE).advice


def test_ideal_pose_is_good(mean: Array, ideal: Motion) -> None:
    calibration = Calibration(mean)
    assert calibration.look(face(mean, ideal), SIZE).advice == "hold still"  # nothing to compare with yet
    overlay = calibration.look(face(mean, ideal), SIZE)
    assert overlay.good
    assert overlay.advice == "good"
    assert overlay.box == pytest.approx(overlay.ideal_box, abs=1e-5)
    assert np.allclose(overlay.points, overlay.ideal_points, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scale": 0.4}, "move closer"),
        ({"scale": 1.4, "y": 0.1}, "move back"),
        ({"scale": 1.7}, "your head is cut off by the picture: move back"),
        ({"x": 0.5}, "move right"),
        ({"x": -0.5}, "move left"),
        ({"y": 0.3}, "move up"),
        ({"y": -0.5}, "your head is cut off by the picture: move down"),
        ({"y": 0.6}, "your head is cut off by the picture: move up"),
        ({"x": 0.85}, "your head is cut off by the picture: move right"),
        ({"x": -0.85}, "your head is cut off by the picture: move left"),
        ({"y": -0.5, "scale": 1.4}, "your head is cut off by the picture: move back"),
        ({"yaw": 0.3}, "turn right"),
        ({"yaw": -0.3}, "turn left"),
        ({"pitch": 0.3}, "look up"),
        ({"pitch": -0.3}, "look down"),
        ({"roll": 0.3}, "hold your head upright"),
    ],
)
def test_advice_names_what_is_wrong(mean: Array, ideal: Motion, change: dict[str, float], said: str) -> None:
    x, y = ideal.translation
    pose = replace(
        ideal,
        rotation=(change.get("yaw", 0.0), change.get("pitch", 0.0), change.get("roll", 0.0)),
        translation=(x + change.get("x", 0.0), y + change.get("y", 0.0)),
        scale=ideal.scale * change.get("scale", 1.0),
    )
    assert advice(mean, pose) == said


def test_closed_eyes_and_blur_are_named(mean: Array, ideal: Motion) -> None:
    assert advice(mean, ideal, open_eyes=False) == "open your eyes"
    assert advice(mean, ideal, sharp=False).startswith("more light")


def test_moving_head_is_asked_to_hold_still(mean: Array, ideal: Motion) -> None:
    calibration = Calibration(mean)
    calibration.look(face(mean, ideal), SIZE)
    x, y = ideal.translation
    assert calibration.look(face(mean, replace(ideal, translation=(x + 0.05, y))), SIZE).advice == "hold still"


def test_no_face_says_so(mean: Array) -> None:
    overlay = Calibration(mean).look(None, SIZE)
    assert not overlay.face
    assert overlay.advice.startswith("no face")
    assert overlay.message()["type"] == "overlay"
