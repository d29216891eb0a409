"""How long networks take, side by side: one call of each in turn, so that a busy machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kilocall.runtime.engine import Network
from kilocall.train.calibration import Inputs

__all__ = ["Timed", "time_side_by_side"]


@dataclass(frozen=True)
class Timed:
    """Milliseconds a call: median and the fastest; `ratio` is the first network's time over this one's, the median
    over rounds."""

    median_ms: float
    fastest_ms: float
    ratio: float


def time_side_by_side(networks: Mapping[str, Network], inputs: Sequence[Inputs], rounds: int) -> dict[str, Timed]:
    """`rounds` calls of each network after two to warm up; the first network is what the others are compared with."""
    names = list(networks)
    taken = np.zeros((rounds, len(names)))
    for number in range(-2, rounds):
        given = inputs[number % len(inputs)]
        for column, name in enumerate(names):
            begun = time.perf_counter()
            networks[name](**given)
            if number >= 0:
                taken[number, column] = time.perf_counter() - begun
    ratios = np.median(taken[:, :1] / taken, axis=0)
    return {
        name: Timed(float(np.median(t)) * 1e3, float(t.min()) * 1e3, float(ratio))
        for name, t, ratio in zip(names, taken.T, ratios, strict=True)
    }
