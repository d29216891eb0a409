"""The networks that are studied, each with real inputs and a measure of how far its output is off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from kilocall.model import landmarks as lm
from kilocall.model.compact.export_modules import NETWORKS, ExportModule, Painter
from kilocall.model.compact.family import CompactFamily
from kilocall.model.compact.int8_checkpoint import unpack
from kilocall.model.facevid2vid.networks import FIRST_BIN, HeadEstimator
from kilocall.model.volume.pose import expected_degrees
from kilocall.proto.errors import BadInput
from kilocall.train.calibration import Calibration, Finish, Inputs, calibration
from kilocall.train.dataset import SIZE, Dataset
from kilocall.train.quantise import LADDERS

__all__ = ["STUDIED", "NetworkName", "Studied", "sample_data", "studied_networks"]

NetworkName = Literal["generator", "extractor", "pose"]
STUDIED: Final[tuple[NetworkName, ...]] = ("generator", "extractor", "pose")
#: Frames of each built-in speaker, evenly over eight seconds.
SAMPLE_FRAMES: Final = 16


@dataclass(frozen=True)
class Studied:
    """One network. `calibration` and `check` are inputs of different frames."""

    name: NetworkName
    title: str
    module: ExportModule
    calibration: list[Inputs]
    check: list[Inputs]
    truth: list[NDArray[np.uint8]] | None  # the pictures that should come out for `check`
    pictures: list[Finish]  # how what is painted becomes pictures
    kept_float: tuple[str, ...]  # what the shipped network keeps out of 8 bits
    shipped: Path | None  # the file in the package
    unit: str | None  # of quality; None where the weights are random and there is none
    forward: Callable[[Any, dict[str, Tensor]], Tensor]
    """A differentiable output for training."""

    quality: Callable[[Mapping[str, Any], Mapping[str, Any]], float]
    """Of outputs, made and wanted: PSNR in dB (larger is better) for pictures; else the mean distance, in the unit."""


def psnr(made: NDArray[Any], truth: NDArray[Any]) -> float:
    """dB; equal pictures count 60."""
    error = float(((made.astype(np.float32) - truth.astype(np.float32)) ** 2).mean())
    return float(min(60.0, 10 * np.log10(255**2 / max(error, 1e-9))))


class Pose(ExportModule):
    """The head pose network of the report, with angles in degrees."""

    part = "extractor"
    outputs = ("yaw", "pitch", "roll", "translation", "expression")

    def __init__(self, net: HeadEstimator) -> None:
        super().__init__()
        self.net = net

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Pose:
        net = HeadEstimator()
        net.load_state_dict(state, strict=False)
        return cls(net)

    def examples(self) -> dict[str, Tensor]:
        return {"picture": torch.zeros(1, 3, SIZE, SIZE)}

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        head = self.net(picture)
        angles = (expected_degrees(scores, FIRST_BIN) for scores in head[:3])
        return (*angles, head.translation, head.expression)


def studied_networks(
    names: Sequence[NetworkName],
    family: CompactFamily,
    data: Dataset,
    *,
    pairs: int,
    pose_weights: Path | None = None,
) -> list[Studied]:
    """The networks `names`, fed with frames of `data`. Raises BadInput for weights that cannot be used."""
    states = {p: unpack(load_file(family.folder / f"{p}.safetensors")) for p in ("extractor", "renderer")}
    modules = {n: kind.from_state(states[kind.part]).eval().requires_grad_(False) for n, kind in NETWORKS.items()}
    fitted, held = (calibration(data, modules, family.shape_model, pairs=pairs, seed=seed) for seed in (0, 1))
    made = []
    for name in names:
        if name == "pose":
            made.append(_pose(data, pairs, pose_weights))
        else:
            made.append(_compact(name, modules, fitted, held, family))
    return made


def _compact(
    name: NetworkName,
    modules: Mapping[str, ExportModule],
    fitted: Calibration,
    held: Calibration,
    family: CompactFamily,
) -> Studied:
    painting = name == "generator"
    file = "generator" if painting else "face"
    return Studied(
        name=name,
        title="compact-256: generator" if painting else "compact-256: landmarks of the crop",
        module=modules[file],
        calibration=fitted.inputs[file],
        check=held.inputs[file],
        truth=held.truth if painting else None,
        pictures=held.pictures if painting else [],
        kept_float=LADDERS[file][0] or (),
        shipped=family.folder / f"{file}.onnx",
        unit="dB" if painting else "px",
        forward=_painted_output if painting else _points_output,
        quality=_painted_quality if painting else _points_quality,
    )


def _painted_output(module: Any, inputs: dict[str, Tensor]) -> Tensor:
    return cast(Painter, module).planes(*inputs.values())


def _points_output(module: Any, inputs: dict[str, Tensor]) -> Tensor:
    points, depth = module(**inputs)[:2]
    return torch.cat((points.flatten(1), depth), 1)


def _angles_output(module: Any, inputs: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten(1) for value in module(**inputs)], 1)


def _painted_quality(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> float:
    return psnr(made["painted"], wanted["painted"])


def _points_quality(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> float:
    return float(np.linalg.norm(made["points"] - wanted["points"], axis=-1).mean()) * SIZE / 2


def _angles_quality(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> float:
    return float(np.mean([np.abs(made[n] - wanted[n]).mean() for n in ("yaw", "pitch", "roll")]))


def _pose(data: Dataset, pairs: int, weights: Path | None) -> Studied:
    torch.manual_seed(0)
    network: nn.Module = HeadEstimator()
    if weights is not None:
        from kilocall.model.checkpoints import FACEVID2VID, load_into, read_checkpoint

        network = load_into(network, read_checkpoint(weights, FACEVID2VID).modules["he_estimator"]).float()
    module = Pose(cast(HeadEstimator, network)).eval().requires_grad_(False)
    numbers = np.linspace(0, len(data.pictures) - 1, 2 * pairs).astype(int)
    pictures = np.stack([data.pictures[n] for n in numbers]).transpose(0, 3, 1, 2).astype(np.float32) / 255
    inputs: list[Inputs] = [{"picture": p[None]} for p in pictures]
    return Studied(
        name="pose",
        title="face-vid2vid: head pose and expression" + ("" if weights else ", random weights: size and speed only"),
        module=module,
        calibration=inputs[::2],
        check=inputs[1::2],
        truth=None,
        pictures=[],
        kept_float=(),
        shipped=None,
        unit="degrees" if weights else None,
        forward=_angles_output,
        quality=_angles_quality,
    )


def sample_data(family: CompactFamily, frames: int = SAMPLE_FRAMES) -> Dataset:
    """The built-in speakers as data. The shipped networks made these pictures themselves, so what is measured on them
    is how far a change moves the output, not how good the network is."""
    from kilocall.api import StreamPlayer
    from kilocall.sample import NAMES, sample_stream

    pictures, meshes, start = [], [], [0]
    for name in NAMES:
        player = StreamPlayer(sample_stream(name), family=family)
        motions = list(player.motions())
        for timed in motions[:: max(1, len(motions) // frames)][:frames]:
            picture = player.renderer.render(timed.motion)
            if picture.shape[0] != SIZE:
                picture = np.asarray(cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA), np.uint8)
            track = family.track(picture)
            mesh = np.zeros((lm.MESH_POINTS, 3), np.float32)
            mesh[list(lm.MESH_INDEX)] = np.column_stack((track.points, track.depth))
            pictures.append(picture)
            meshes.append(mesh)
        start.append(len(pictures))
    if not pictures:
        raise BadInput("the built-in streams hold no frame")
    return Dataset(np.stack(pictures), np.stack(meshes), np.array(start, np.int64), NAMES)
