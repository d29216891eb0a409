"""Milliseconds of the families with a feature volume, beside the same networks in plain torch.

Both are measured in turns, frame by frame: what else the machine does slows both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import Picture, turn_head
from kilocall.model.family_loader import load_family
from kilocall.model.volume.family import VolumeFamily, VolumeTrack
from kilocall.model.volume.networks import TorchRunner
from kilocall.proto.errors import BadInput
from kilocall.runtime.machine import cpu_model
from kilocall.runtime.progress import Progress

__all__ = ["VolumeSpeed", "measure_volume"]


@dataclass(frozen=True)
class VolumeSpeed:
    """Medians in milliseconds. `plain` is torch on the CPU in float32 with as many threads."""

    family: str
    version: str
    engine: str
    device: str
    cpu: str
    threads: int
    frames: int
    bfloat16: bool
    head_ms: float
    source_ms: float
    frame_ms: float
    plain_frame_ms: float
    psnr_db: float
    """Of the frames against those of plain torch."""

    @property
    def times_plain(self) -> float:
        return self.plain_frame_ms / self.frame_ms


def measure_volume(
    name: str,
    weights: Path,
    *,
    engine: str = "auto",
    threads: int = 0,
    frames: int = 5,
    progress: Progress = lambda done, total: None,
) -> VolumeSpeed:
    """Renders turned heads of the built-in portrait. Raises BadInput as `load_family` does."""
    from kilocall.sample.perform import portrait

    family = load_family(name, engine=choose_engine(engine, threads), folder=weights)
    if not isinstance(family, VolumeFamily):
        raise BadInput(f"family {name} is measured by `bench speed` without --family")
    side = family.size
    crop: Picture = np.asarray(cv2.resize(portrait(), (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    track = family.track(crop)
    assert isinstance(track, VolumeTrack)
    source = family.source(crop, replace(track, certainty=1.0))
    plain = TorchRunner(family.runner.networks, torch.device("cpu")) if _on_cpu(family) else None
    appearance = family.runner.appearance(crop)
    source_ms = _ms(lambda: family.runner.appearance(crop))
    head_ms = min(_ms(lambda: family.runner.head(crop)) for _ in range(3))
    x_s = family.keypoints_3d(source, source.pose)
    times: list[tuple[float, float]] = []
    errors: list[float] = []
    for number in range(frames + 1):
        x_d = family.keypoints_3d(source, turn_head(source.pose, 0.1 + 0.02 * number, -0.05, 0.03))
        began = time.perf_counter()
        made = family.runner.render(appearance, x_s, x_d)
        between = time.perf_counter()
        truth = plain.render(appearance, x_s, x_d) if plain else made
        # The first compiles.
        if number:
            times.append((between - began, time.perf_counter() - between))
            errors.append(float(np.square(made.astype(np.float64) - truth).mean()))
        progress(number + 1, frames + 1)
    frame, torch_frame = (1000 * float(np.median([pair[i] for pair in times])) for i in (0, 1))
    return VolumeSpeed(
        family=family.name,
        version=family.checkpoint.version,
        engine=family.engine.name,
        device=family.engine.device_name,
        cpu=cpu_model(),
        threads=family.engine.threads,
        frames=frames,
        bfloat16=bool(getattr(family.runner, "bfloat16", family.runner.device.type == "cuda")),
        head_ms=head_ms,
        source_ms=source_ms,
        frame_ms=frame,
        plain_frame_ms=torch_frame if plain else float("nan"),
        psnr_db=10 * float(np.log10(255**2 / max(float(np.mean(errors)), 1e-9))),
    )


def _on_cpu(family: VolumeFamily) -> bool:
    return family.runner.device.type == "cpu"


def _ms(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)
