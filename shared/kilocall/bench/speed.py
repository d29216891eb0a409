"""Milliseconds per stage and engine on this machine, beside the same networks in plain torch.

Every engine is measured on the built-in portrait with one thread, two, and all physical cores. A figure is the median
and the 95th percentile of single calls after a warm-up. Torch runs the float weights on as many threads right after,
so that a noisy or throttled machine slows both.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.model.compact import regions as rg
from kilocall.model.compact.compose import Composer, Painted
from kilocall.model.compact.family import IMPLICIT_INPUT, CompactFamily
from kilocall.model.compact.held_field import FieldFor
from kilocall.model.compact.held_picture import HeldPicture
from kilocall.model.compact.motion_fit import MotionFit
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import Source, Track, weights_folder
from kilocall.model.motion import Motion
from kilocall.proto.errors import BadInput
from kilocall.runtime.engine import ENGINES, EngineName, check_settings, installed_engines
from kilocall.runtime.machine import cpu_model, physical_cores, resident_bytes

Kind = Literal["sender", "receiver", "moved on", "once"]

WARM_UP: Final = 5
RUNS: Final = 60
#: Stages that only a share of the frames need, on 15 clips.
OF_FRAMES: Final = {"second look": 0.37, "field for alignment": 0.19}
#: Of a slow processor's pictures the networks make so many on 15 clips; the others are moved on from these.
MADE: Final = 0.36
#: A small turn and tilt: what a frame of a call asks of the renderer.
TURN: Final = (0.12, -0.06, 0.04)


@dataclass(frozen=True)
class StageTime:
    """One stage. `times_torch` is how many times as long plain torch takes for the same network; None if unknown."""

    stage: str
    kind: Kind  # "moved on": in place of what a receiver does for a frame; "once": for every source picture
    median_ms: float
    p95_ms: float
    times_torch: float | None


@dataclass(frozen=True)
class EngineSpeed:
    """One engine on so many threads."""

    engine: EngineName
    version: str
    threads: int
    device: str
    stages: tuple[StageTime, ...]
    load_s: float  # importing the library, reading and compiling all networks, the first calls
    sender_fps: float  # networks, fit and coding of one frame after the other
    receiver_fps: float
    moving_on_fps: float  # of a receiver that moves pictures on, as a slow processor's does
    memory_mb: float  # by how much loading and running let the process grow

    @property
    def name(self) -> str:
        return f"{self.engine}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class SpeedReport:
    cpu: str
    cores: int
    system: str
    python: str
    family: str
    runs: int
    picture: str
    compared_with: str | None  # torch's version, None without torch
    process_memory_mb: float  # resident, at the end, all engines together
    engines: tuple[EngineSpeed, ...]


def measure_speed(
    engines: Sequence[str] = (),
    threads: Sequence[int] = (),
    *,
    weights: Path | None = None,
    runs: int = RUNS,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> SpeedReport:
    """Measures `engines` (default: all installed) on `threads` (default: 1, 2 and the physical cores).

    `weights` replaces the packaged weights. Raises BadInput for an unknown or missing engine, a thread count or number
    of runs that makes no sense, or weights that cannot be read.
    """
    if runs < 1:
        raise BadInput(f"runs is {runs}, at least 1 is wanted")
    installed = installed_engines()
    names = tuple(engines) or tuple(name for name in ENGINES if installed[name] is not None)
    counts = tuple(threads) or tuple(sorted({1, min(2, physical_cores()), physical_cores()}))
    for name in names:
        for count in counts:
            check_settings(name, count)
    folder = weights or weights_folder()
    compared = installed["torch"]
    total = len(names) * len(counts)
    measured: list[EngineSpeed] = []
    for name in names:
        for count in counts:
            progress(len(measured), total)
            measured.append(_measure(name, count, folder, runs, compare=compared is not None))
    progress(total, total)
    return SpeedReport(
        cpu=cpu_model(),
        cores=physical_cores(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        family=CompactFamily(folder, choose_engine(names[0], 1)).name,
        runs=runs,
        picture="built-in portrait, 256x256",
        compared_with=compared,
        process_memory_mb=resident_mb(),
        engines=tuple(measured),
    )


def _measure(name: str, threads: int, folder: Path, runs: int, *, compare: bool) -> EngineSpeed:
    memory = resident_mb()
    started = time.perf_counter()
    engine = choose_engine(name, threads)
    bench = _Bench(CompactFamily(folder, engine))
    load_s = time.perf_counter() - started
    stages = list(bench.stages())
    for _, _, call in stages:
        call()
    after = resident_mb()
    plain = _torch_stages(folder, engine.threads) if compare else {}
    measured = []
    for stage, kind, call in stages:
        # One right after the other, so that what else the machine does at that moment slows both.
        times = timed(call, runs)
        median = float(np.median(times))
        ratio = float(np.median(timed(plain[stage], runs))) / median if stage in plain else None
        measured.append(StageTime(stage, kind, median, float(np.percentile(times, 95)), ratio))
    of_kind: tuple[tuple[Kind, float], ...] = (("receiver", MADE), ("moved on", 1 - MADE))
    return EngineSpeed(
        engine=engine.name,
        version=installed_engines()[engine.name] or "",
        threads=engine.threads,
        device=engine.device_name,
        stages=tuple(measured),
        load_s=load_s,
        sender_fps=frames_per_second(measured, "sender"),
        receiver_fps=frames_per_second(measured, "receiver"),
        moving_on_fps=1 / sum(share / frames_per_second(measured, kind) for kind, share in of_kind),
        memory_mb=after - memory,
    )


def _torch_stages(folder: Path, threads: int) -> dict[str, Callable[[], object]]:
    from kilocall.model.compact.torch_engine import TorchEngine

    bench = _Bench(CompactFamily(folder, TorchEngine(threads, "comparison", device="cpu")))
    return {name: call for name, _, call in bench.network_stages()}


def frames_per_second(stages: Sequence[StageTime], kind: Kind) -> float:
    """Of one side's stages one after the other, each for as many of the frames as need it."""
    return 1000 / sum(s.median_ms * OF_FRAMES.get(s.stage, 1.0) for s in stages if s.kind == kind)


def timed(call: Callable[[], object], runs: int) -> NDArray[np.float64]:
    """Milliseconds of each of `runs` calls, after a warm-up."""
    for _ in range(min(WARM_UP, runs)):
        call()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1000)
    return np.array(times)


Stage = tuple[str, Kind, Callable[[], object]]


class _Bench:
    """Every stage of a call as a function without arguments, on the portrait."""

    def __init__(self, family: CompactFamily) -> None:
        from kilocall.sample.perform import portrait

        self.family = family
        side = family.size
        self.crop = np.asarray(cv2.resize(portrait(), (side, side), interpolation=cv2.INTER_AREA), np.uint8)
        # How certain the networks are does not change how long they take: weights in training can be measured.
        self.track: Track = replace(family.track(self.crop), certainty=1.0)
        self.source: Source = family.source(self.crop, self.track)
        pose = self.source.pose
        yaw, pitch, roll = (a + b for a, b in zip(pose.rotation, TURN, strict=True))
        self.motion = Motion((yaw, pitch, roll), pose.translation, pose.scale, pose.expression)
        self.renderer = family.renderer(self.source)

    def network_stages(self) -> Iterator[Stage]:
        """The networks alone."""
        small = cv2.resize(self.crop, (rg.FACE_INPUT, rg.FACE_INPUT), interpolation=cv2.INTER_AREA)[None]
        tiny = cv2.resize(self.crop, (IMPLICIT_INPUT, IMPLICIT_INPUT), interpolation=cv2.INTER_AREA)[None]
        close = rg.cut_regions(self.crop, rg.regions(self.track.points))
        again = rg.cut_face(self.crop, rg.face_region(self.track.points))[None]
        yield "face", "sender", self._run("face", crop=small)
        yield "second look", "sender", self._run("face", crop=again)
        yield "eyes", "sender", self._run("eye", region=close[:2])
        yield "mouth", "sender", self._run("mouth", region=close[2:])
        yield "implicit points", "sender", self._run("implicit", crop=tiny)
        yield "appearance", "once", self._run("appearance", picture=self.crop[None])
        appearance = self.family.appearance(self.crop)
        field = self.family.motion_field()
        driving = self.family.driving(self.source, self.motion)
        told = {"x_d": driving["x_d"], "interior": driving.pop("interior")}
        driving.update(motion_cue=appearance["motion_cue"], x_s=self.source.keypoints[None])
        self._make_field = partial(field, **driving)
        yield "motion field", "receiver", self._make_field
        painter = self.family.painter()
        self._composer = Composer(self.crop, appearance, [port.name for port in painter.inputs])
        self._found = field(**driving)
        moved = self._composer.move(self._found)
        self._painted = painter(**moved, **told)["painted"]
        self._held = HeldPicture(
            FieldFor(self._found, self.source.keypoints, driving["x_d"][0], driving["jacobian"][0]),
            self._found["visible"][0, ..., 0],
            Painted.of(self._painted[0], self._found["gate"][0]),
        )
        yield "generator", "receiver", lambda: painter(**moved, **told)

    def stages(self) -> Iterator[Stage]:
        """The networks, and what is numpy and Python around them."""
        yield from self.network_stages()
        yield "moving and mixing", "receiver", self._compose
        yield "moving on", "moved on", self._move_on
        yield "cutting", "sender", self._cut
        seen = self.source.shape, self.track.points, self.track.depth
        fit = MotionFit(self.family.shape_model)
        start = fit.fit(*seen)
        aligner = self.family.aligner(self.source)
        # Six of seven calls hold the field of one before: the median is of these.
        yield "alignment", "sender", lambda: aligner.align(self.motion, self.track)
        yield "field for alignment", "sender", self._make_field
        yield "motion fit", "sender", lambda: fit.fit(*seen, start)
        if "codebook.safetensors" in self.family.files:
            yield from self._codec_stages()

    def _run(self, name: str, **inputs: NDArray[Any]) -> Callable[[], object]:
        network = self.family.engine.load(self.family.folder / f"{name}.onnx")
        return lambda: network(**inputs)

    def _cut(self) -> None:
        cv2.resize(self.crop, (rg.FACE_INPUT, rg.FACE_INPUT), interpolation=cv2.INTER_AREA)
        cv2.resize(self.crop, (IMPLICIT_INPUT, IMPLICIT_INPUT), interpolation=cv2.INTER_AREA)
        rg.cut_face(self.crop, rg.face_region(self.track.points))
        rg.cut_regions(self.crop, rg.regions(self.track.points))

    def _compose(self) -> None:
        self.family.driving(self.source, self.motion)
        self._composer.move(self._found)
        self._composer.mix(self._painted, self._found["gate"])

    def _move_on(self) -> None:
        driving = self.family.driving(self.source, self.motion)
        self._held.moved_on(self._composer.copy, driving["x_d"][0], driving["jacobian"][0])

    def _codec_stages(self) -> Iterator[Stage]:
        from kilocall.codec.motion_codec import MotionDecoder, MotionEncoder

        codebook = self.family.codebook
        encoder, decoder = MotionEncoder(codebook), MotionDecoder(codebook)
        vector = self.motion.vector[None]
        coded = MotionEncoder(codebook).encode(vector)
        yield "encode", "sender", lambda: encoder.encode(vector)
        yield "decode", "receiver", lambda: decoder.decode(coded)


def resident_mb() -> float:
    """Resident memory of this process."""
    return resident_bytes() / 1e6
