"""How long work takes on this computer, and networks on an engine, on inputs that fit them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from kilocall.runtime.engine import Array, Engine, Port

#: Networks that run once a source picture; those that run every frame hold what they make.
ONCE: Final = ("appearance",)
MOST_RUNS: Final = 20
_TRIED: Final = 4


def takes_longer(seconds: float, work: Callable[[], object]) -> bool:
    """Whether none of a few runs was quicker. The first run of all, in which things are loaded, is the caller's."""
    for _ in range(_TRIED):
        began = time.perf_counter()
        work()
        took = time.perf_counter() - began
        if took <= seconds:
            return False
        if took > _TRIED * seconds:
            break
    return True


def network_files(folder: Path) -> tuple[Path, ...]:
    """The networks of a weights folder, those that others hold the outputs of first."""
    return tuple(sorted(folder.glob("*.onnx"), key=lambda file: (file.stem not in ONCE, file.name)))


def time_networks(engine: Engine, files: Sequence[Path], budget_s: float = 1.0) -> dict[str, float]:
    """Milliseconds of one run of each network by name, the median; loading and the first run are not counted.

    Inputs are outputs of the networks before where name and shape fit, else made up. All runs together take about
    `budget_s`, longer where a single run of each does. Raises BadInput for files that the engine cannot read.
    """
    known: dict[str, Array] = {}
    held: dict[str, Array] = {}
    found: dict[str, float] = {}
    for file in files:
        network = engine.load(file)
        given = {port.name: example(port, {**known, **held}) for port in network.inputs}
        kept = {name: value for name, value in given.items() if held.get(name) is value}
        network.bind_inputs(**kept)
        fresh = {name: value for name, value in given.items() if name not in kept}
        (held if file.stem in ONCE else known).update(network(**fresh))
        times: list[float] = []
        end = time.perf_counter() + budget_s / len(files)
        while not times or (len(times) < MOST_RUNS and time.perf_counter() < end):
            started = time.perf_counter()
            network(**fresh)
            times.append((time.perf_counter() - started) * 1000)
        found[file.stem] = float(np.median(times))
    return found


def frame_ms(times: Mapping[str, float]) -> float:
    """What a frame's networks take of `time_networks`, in milliseconds."""
    return sum(ms for name, ms in times.items() if name not in ONCE)


def example(port: Port, known: Mapping[str, Array]) -> Array:
    """Something of an input's shape and type: of `known` by name where it fits, else a picture or small numbers."""
    value = known.get(port.name)
    if value is not None and value.shape == port.shape and value.dtype == port.dtype:
        return value
    made = np.random.default_rng(0).random(port.shape)
    if port.dtype == np.uint8:
        return (made * 255).astype(np.uint8)
    return (made - 0.5).astype(port.dtype)
