"""Inputs on which the networks are quantised and checked: real frames, each network fed as it will be in a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from kilocall.model.compact import regions as rg
from kilocall.model.compact.compose import Composer
from kilocall.model.compact.export_modules import ExportModule
from kilocall.model.compact.renderer import THUMB
from kilocall.model.interior import interior
from kilocall.model.shape import ShapeModel
from kilocall.proto.errors import BadInput
from kilocall.train.dataset import Dataset
from kilocall.train.renderer import Posed, driven_keypoints, jacobians

Inputs = dict[str, NDArray[Any]]
Picture = NDArray[np.uint8]


Finish = Callable[[Inputs], Picture]
"""The picture for what the motion field gives, by the float generator, or for what the generator paints."""


@dataclass(frozen=True)
class Calibration:
    """Inputs of every network, what outputs of field and generator look like, and what should come out."""

    inputs: Mapping[str, list[Inputs]]
    pictures: list[Finish]
    truth: list[Picture]  # [256, 256, 3] each


def calibration(
    data: Dataset, networks: Mapping[str, ExportModule], model: ShapeModel, *, pairs: int, seed: int
) -> Calibration:
    """Draws `pairs` of a source and a driving frame, from as many clips as there are.

    `networks` are the float networks; the inputs of field and generator are made with them. Raises BadInput for data
    without a clip of two frames or more.
    """
    rng = np.random.default_rng(seed)
    clips = [c for c in range(len(data.names)) if len(data.clip(c)) > 1]
    if not clips:
        raise BadInput("calibration needs at least one clip of two frames, the data has none")
    inputs: dict[str, list[Inputs]] = {
        name: [] for name in ("face", "eye", "mouth", "implicit", "appearance", "field", "generator")
    }
    seen: list[Finish] = []
    truth: list[Picture] = []
    for clip in rng.choice(clips, pairs, replace=pairs > len(clips)):
        frames = data.clip(int(clip))
        chosen = rng.choice(np.arange(frames.start, frames.stop), 2, replace=False)
        pictures, points = np.array(data.pictures[chosen]), data.points[chosen]
        driving = pictures[1]
        inputs["face"].append({"crop": _shrunk(driving, rg.FACE_INPUT)[None]})
        close = rg.cut_regions(driving, rg.regions(points[1, :, :2]))
        inputs["eye"].append({"region": close[:2]})
        inputs["mouth"].append({"region": close[2:]})
        thumbs = [_shrunk(p, THUMB)[None] for p in pictures]
        inputs["implicit"].append({"crop": thumbs[1]})
        inputs["appearance"].append({"picture": pictures[:1]})
        posed = Posed.of(points, model)
        source, drives = np.array([0]), np.array([1])
        implicit = [run_module(networks["implicit"], {"crop": thumb})["points"] for thumb in thumbs]
        x_d = driven_keypoints(posed, model, source, drives)
        appearance = run_module(networks["appearance"], {"picture": pictures[:1]})
        moved: Inputs = {"x_d": np.concatenate((x_d, implicit[1]), 1).astype(np.float32)}
        still: Inputs = {
            "motion_cue": appearance["motion_cue"],
            "x_s": np.concatenate((points[:1, :, :2], implicit[0]), 1).astype(np.float32),
        }
        inputs["field"].append({**still, **moved, "jacobian": jacobians(posed, source, drives)})
        made = run_module(networks["field"], inputs["field"][-1])
        composer = Composer(pictures[0], appearance, networks["generator"].examples())
        told = interior(driving, points[1, :, :2])[None]
        inputs["generator"].append({**composer.move(made), **moved, "interior": told})
        seen.append(partial(_picture, composer, networks["generator"], made, {**moved, "interior": told}))
        truth.append(driving)
    return Calibration(inputs, seen, truth)


def _picture(composer: Composer, generator: ExportModule, field: Inputs, driving: Inputs, made: Inputs) -> Picture:
    """`made` is what the generator painted for `field`, or another field to be painted for."""
    given = composer.move(field if "painted" in made else made)
    painted = made if "painted" in made else run_module(generator, {**given, **driving})
    return composer.mix(painted["painted"], made.get("gate", field["gate"]))[0]


def run_module(module: ExportModule, inputs: Inputs) -> Inputs:
    """Outputs by name of a float network."""
    with torch.inference_mode():
        values = module(*(torch.from_numpy(inputs[name]) for name in module.examples()))
    return {name: value.numpy() for name, value in zip(module.outputs, values, strict=True)}


def _shrunk(picture: Picture, size: int) -> Picture:
    return np.asarray(cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
