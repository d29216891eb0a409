"""How many senders or receivers run at once in real time on this machine: the portrait, moving, in each of them.

Every stream has an engine, networks and a thread of its own, as parties of different calls would; all are in one
process. A number of streams holds when each has done all its frames by the time a next one would be due.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np

from kilocall.api import Decoder, Encoder
from kilocall.bench.speed import resident_mb
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import Picture
from kilocall.model.family_loader import FamilyChoice
from kilocall.proto.errors import BadInput
from kilocall.runtime.engine import ENGINES, check_settings, installed_engines
from kilocall.runtime.machine import cpu_model, physical_cores
from kilocall.runtime.progress import Progress

__all__ = ["MOST_STREAMS", "Stream", "StreamsReport", "StreamsSpeed", "in_real_time", "largest", "measure_streams"]

Side = Literal["receiver", "sender"]

MOST_STREAMS: Final = 256
#: A family that is slower than real time by much is measured on so few.
FEWEST_FRAMES: Final = 3
PREPARE_WITHIN_S: Final = 10.0
#: How far the head sways, in parts of the picture.
SWAY: Final = 0.02


@dataclass(frozen=True)
class StreamsSpeed:
    """One side on one engine with so many threads for each stream."""

    engine: str
    version: str
    threads: int
    device: str
    side: Side
    at_once: int  # streams in real time; 0: not even one
    tried: int  # the most that were asked for
    fps_alone: float  # what one stream does as fast as it can, over `alone_frames`
    alone_frames: int
    first_s: float  # opening the first stream, to its first frame
    memory_mb: float | None  # by how much every further stream let the process grow; None where only one was opened


@dataclass(frozen=True)
class StreamsReport:
    cpu: str
    cores: int
    family: str
    fps: float
    seconds: float  # of every trial
    speeds: tuple[StreamsSpeed, ...]


def measure_streams(
    most: int,
    engines: Sequence[str] = (),
    threads: Sequence[int] = (),
    *,
    models: FamilyChoice | None = None,
    fps: float = 25.0,
    seconds: float = 2.0,
    progress: Progress = lambda done, total: None,
) -> StreamsReport:
    """Finds the largest number of streams, up to `most`, for every engine (default: all installed) and number of
    threads (default: 1). Raises BadInput for settings that make no sense or models that cannot be opened."""
    if not 1 <= most <= MOST_STREAMS:
        raise BadInput(f"streams is {most}, allowed are 1 to {MOST_STREAMS}")
    if not 1 <= fps <= 60 or not 0.1 <= seconds <= 60:
        raise BadInput(f"{seconds:g} s at {fps:g} fps; allowed are 0.1 to 60 s and 1 to 60 fps")
    models = models or FamilyChoice()
    installed = installed_engines()
    names = tuple(engines) or tuple(name for name in ENGINES if installed[name] is not None)
    counts = tuple(threads) or (1,)
    for name in names:
        for count in counts:
            check_settings(name, count)
    sides: tuple[Side, ...] = ("receiver", "sender")
    wanted = [(name, count, side) for name in names for count in counts for side in sides]
    speeds: list[StreamsSpeed] = []
    for name, count, side in wanted:
        progress(len(speeds), len(wanted))
        speeds.append(_measure(side, name, count, models, most, fps, seconds))
    progress(len(wanted), len(wanted))
    return StreamsReport(cpu_model(), physical_cores(), models.name, fps, seconds, tuple(speeds))


def largest(holds: Callable[[int], bool], most: int) -> int:
    """The largest count up to `most` that holds, by doubling and halving; 0 when one does not."""
    good, bad = 0, most + 1
    count = 1
    while good + 1 < bad:
        if holds(count):
            good = count
        else:
            bad = count
        count = min(2 * good, most) if bad > most else (good + bad) // 2
        if count <= good:
            count = good + 1
    return good


def _measure(
    side: Side, engine: str, threads: int, models: FamilyChoice, most: int, fps: float, seconds: float
) -> StreamsSpeed:
    frames = max(2, round(fps * seconds))
    crops = _swaying(frames)
    streams: list[Stream] = []
    sent: list[bytes] = []

    def opened() -> Stream:
        family = models.load(choose_engine(engine, threads))
        encoder = Encoder(crops[0], fps=fps, frames_per_packet=1, family=family)
        if side == "sender":
            return Stream([lambda n=n: encoder.push(crops[n], round(n * 1e6 / fps)) for n in range(frames)])  # type: ignore[misc]
        if not sent:
            until = time.perf_counter() + PREPARE_WITHIN_S
            for n, crop in enumerate(crops):
                packet = encoder.push(crop, round(n * 1e6 / fps))
                sent.extend([bytes(packet)] if packet is not None else [])
                if time.perf_counter() > until and len(sent) >= FEWEST_FRAMES:
                    break
        decoder = Decoder(encoder.source_picture, family=family)

        def show(packet: bytes) -> None:
            if not decoder.push(packet):
                raise RuntimeError(f"own packet not decoded: {decoder.packets.last_problem}")

        return Stream([lambda p=p: show(p) for p in sent], decoder.packets.reset)  # type: ignore[misc]

    began = time.perf_counter()
    streams.append(opened())
    streams[0].steps[0]()
    first_s = time.perf_counter() - began
    fps_alone, alone_frames = streams[0].alone(2 * seconds)
    before = resident_mb()

    def holds(count: int) -> bool:
        while len(streams) < count:
            streams.append(opened())
        return in_real_time(streams[:count], fps)

    # What is too slow with the machine to itself needs no trial, which could take minutes.
    at_once = largest(holds, most) if fps_alone >= fps else 0
    after = resident_mb()
    more = len(streams) - 1
    memory = None if not more else max(0.0, (after - before) / more)
    used = choose_engine(engine, threads)
    return StreamsSpeed(
        engine=used.name,
        version=installed_engines()[used.name] or "",
        threads=used.threads,
        device=used.device_name,
        side=side,
        at_once=at_once,
        tried=most,
        fps_alone=fps_alone,
        alone_frames=alone_frames,
        first_s=first_s,
        memory_mb=memory,
    )


@dataclass(frozen=True)
class Stream:
    """What one party does, frame by frame; `reset` before the first."""

    steps: list[Callable[[], object]]
    reset: Callable[[], None] = lambda: None

    def alone(self, seconds: float) -> tuple[float, int]:
        """Frames a second as fast as it can, and how many that was: all, or as many as it did in the time given."""
        self.reset()
        began = time.perf_counter()
        for done, step in enumerate(self.steps, 1):
            step()
            taken = time.perf_counter() - began
            if taken > seconds and done >= FEWEST_FRAMES:
                break
        return done / taken, done

    def run(self, fps: float, begin: float) -> float:
        """Does every frame when it is due; returns the time of the clock at the end."""
        self.reset()
        for number, step in enumerate(self.steps):
            early = begin + number / fps - time.perf_counter()
            if early > 0:
                time.sleep(early)
            step()
        return time.perf_counter()


def in_real_time(streams: Sequence[Stream], fps: float) -> bool:
    """Whether all of them, at the same time, do their frames at `fps` and are done when a next one would be due."""
    begin = time.perf_counter() + 0.05
    ends = [0.0] * len(streams)

    def follow(number: int) -> None:
        ends[number] = streams[number].run(fps, begin)

    running = [threading.Thread(target=follow, args=(number,), daemon=True) for number in range(len(streams))]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    # A stream whose thread failed has no end.
    return all(0 < end <= begin + (len(streams[0].steps) + 1) / fps for end in ends)


def _swaying(frames: int) -> list[Picture]:
    """The portrait, to and fro once a second and a half."""
    from kilocall.sample.perform import portrait

    picture = cv2.resize(portrait(), (256, 256), interpolation=cv2.INTER_AREA)
    made = []
    for number in range(frames):
        aside = 256 * SWAY * np.sin(2 * np.pi * number / 37)
        moved = np.array([[1, 0, aside], [0, 1, 0]], np.float32)
        made.append(np.asarray(cv2.warpAffine(picture, moved, (256, 256), borderMode=cv2.BORDER_REFLECT), np.uint8))
    return made
