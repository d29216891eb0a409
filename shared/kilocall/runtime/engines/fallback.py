"""A GPU engine that the CPU stands in for after the first error or wrong number."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from kilocall.proto.errors import BadInput
from kilocall.runtime.engine import Array, Engine, Network, Port

#: Two devices order their sums differently, which is 1e-6 of a coordinate; 8-bit networks then round a few values to
#: the next step. Measured in the mean: two libraries in exact arithmetic are 0.04 pixels apart, Vulkan and the CPU 0.09
#: grey levels. A wrong number is far beyond these.
MOST_PIXELS: Final = 0.1
MOST_GREY_LEVELS: Final = 2.0
#: Coordinates run from -1 to 1 over the side of the picture that a network sees; without one, over this.
SIDE: Final = 256


class FallbackEngine(Engine):
    """`gpu` until it fails, then the engine that `stand_in` makes, for all its networks.

    The first answer of every network is compared with that of the engine that `reference` makes: one on the CPU, in the
    same arithmetic. `give_up` is told why, once.
    """

    def __init__(
        self,
        gpu: Engine,
        stand_in: Callable[[], Engine],
        reference: Callable[[], Engine],
        give_up: Callable[[str], None],
    ) -> None:
        self.name, self.threads, self.reason, self.device_name = gpu.name, gpu.threads, gpu.reason, gpu.device_name
        self.gpu: Engine | None = gpu
        self._make_stand_in, self._make_reference, self._tell = stand_in, reference, give_up
        self._giving_up = threading.Lock()

    def load(self, model: Path) -> Network:
        gpu = self.gpu
        if gpu is None:
            return self.stand_in.load(model)
        try:
            network = gpu.load(model)
        except Exception as error:  # a driver may raise anything
            # A file that no engine reads is the file's fault, and raises BadInput here.
            on_cpu = self.stand_in.load(model)
            self.give_up(f"{model.name} does not load: {_first_line(error)}")
            return on_cpu
        return _FallbackNetwork(self, network, model)

    @cached_property
    def stand_in(self) -> Engine:
        return self._make_stand_in()

    @cached_property
    def reference(self) -> Engine:
        return self._make_reference()

    def give_up(self, why: str) -> None:
        """From now on every network runs in the stand-in."""
        with self._giving_up:
            if self.gpu is None:
                return
            self.gpu = None
        self.name, self.device_name = self.stand_in.name, self.stand_in.device_name
        self.reason = self.stand_in.reason
        self._tell(f"{why}; {self.stand_in.name} goes on")


class _FallbackNetwork:
    def __init__(self, engine: FallbackEngine, on_gpu: Network, model: Path) -> None:
        self._engine, self._model = engine, model
        self._network, self._is_gpu, self._trusted = on_gpu, True, False
        self._bound: dict[str, Array] = {}

    @property
    def inputs(self) -> tuple[Port, ...]:
        return self._network.inputs

    def bind_inputs(self, **inputs: Array) -> None:
        try:
            self._current().bind_inputs(**inputs)
        except ValueError:  # an input that does not fit
            raise
        except Exception as error:  # a driver may raise anything
            self._give_up(error).bind_inputs(**inputs)
        self._bound.update({name: value.copy() for name, value in inputs.items()})

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        network = self._current()
        if not self._is_gpu:
            return network(**inputs)
        try:
            made = network(**inputs)
        except ValueError:
            raise
        except Exception as error:  # a driver may raise anything
            return self._give_up(error)(**inputs)
        if not self._trusted:
            wanted = self._on(self._engine.reference)(**inputs)
            wrong = difference(made, wanted, _side(self.inputs))
            if wrong is not None:
                self._engine.give_up(f"{self._model.name} gives other numbers than the CPU: {wrong}")
                return self._current()(**inputs)
            self._trusted = True
        return made

    def _current(self) -> Network:
        """The GPU's network, or the stand-in's as soon as the engine has given up."""
        if self._is_gpu and self._engine.gpu is None:
            self._network, self._is_gpu = self._on(self._engine.stand_in), False
        return self._network

    def _give_up(self, error: Exception) -> Network:
        self._engine.give_up(f"{self._model.name} does not run: {_first_line(error)}")
        return self._current()

    def _on(self, engine: Engine) -> Network:
        network = engine.load(self._model)
        network.bind_inputs(**self._bound)
        return network


def difference(made: Mapping[str, Array], wanted: Mapping[str, Array], side: int = SIDE) -> str | None:
    """By how much outputs differ from what they should be, in words; None where they agree.

    Bytes are grey levels; floats are coordinates over `side` pixels, or else values of which the largest counts as 1.
    """
    for name, right in wanted.items():
        value = made.get(name)
        if value is None or value.shape != right.shape or value.dtype != right.dtype:
            return f"{name} is missing or of another shape"
        apart = float(np.abs(value.astype(np.float64) - right).mean())
        if right.dtype == np.uint8:
            if apart > MOST_GREY_LEVELS:
                return f"{name} by {apart:.1f} grey levels in the mean, allowed are {MOST_GREY_LEVELS:g}"
        elif right.dtype.kind == "f":
            pixels = apart * side / 2 / max(1.0, float(np.abs(right).max()))
            if not pixels <= MOST_PIXELS:  # NaN as well
                return f"{name} by {pixels:.2f} pixels in the mean, allowed are {MOST_PIXELS:g}"
        elif apart > 0:
            return f"{name}, whole numbers"
    return None


def _side(inputs: tuple[Port, ...]) -> int:
    """Of the picture [N, S, S, 3] that a network sees."""
    return next((p.shape[1] for p in inputs if p.dtype == np.uint8 and len(p.shape) == 4), SIDE)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines and isinstance(error, BadInput) else lines[0] if lines else type(error).__name__
