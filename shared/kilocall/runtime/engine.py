"""What runs a network: OpenVINO, onnxruntime or torch behind one small interface.

A network is an ONNX file of a family's weights folder; inputs and outputs have names, fixed shapes and fixed types.
The libraries are imported when an engine is chosen, never before: start-up counts in a call.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from kilocall.proto.errors import BadInput

__all__ = [
    "ENGINES",
    "GPU_ENGINES",
    "Array",
    "Engine",
    "EngineName",
    "Network",
    "Port",
    "check_settings",
    "how_to_install",
    "installed_engines",
]

Array = NDArray[Any]
EngineName = Literal["openvino", "onnxruntime", "torch", "webgpu", "openvino-gpu"]

#: What runs wherever its library is installed.
ENGINES: Final[tuple[EngineName, ...]] = ("openvino", "onnxruntime", "torch")
#: What needs a GPU of an ordinary laptop with its driver as well.
GPU_ENGINES: Final[tuple[EngineName, ...]] = ("webgpu", "openvino-gpu")
#: Modules that an engine needs beside one another; the last one's package gives the version.
_MODULES: Final[dict[EngineName, tuple[str, ...]]] = {
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime",),
    "torch": ("torch",),
    "webgpu": ("onnxruntime", "onnxruntime_ep_webgpu"),
    "openvino-gpu": ("openvino",),
}
_EXTRAS: Final[dict[EngineName, str]] = {"onnxruntime": "onnxruntime", "torch": "torch", "webgpu": "gpu"}
MOST_THREADS: Final = 64


@dataclass(frozen=True)
class Port:
    """Name, shape and type of an input."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Network(Protocol):
    """One network with its own working memory; use it from one thread at a time."""

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What a call wants."""

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        """Outputs by name, owned by the caller. Raises ValueError for a missing, bound, unknown or misshapen input."""

    def bind_inputs(self, **inputs: Array) -> None:
        """Sets inputs that stay until `bind_inputs` sets them again; calls then leave them out."""


class Engine(ABC):
    """A library that runs networks on `threads` threads."""

    name: EngineName
    threads: int
    reason: str
    device_name: str = "CPU"

    @abstractmethod
    def load(self, model: Path) -> Network:
        """A network of its own for every call; what can be shared (compiled code, weights) is shared.

        Raises BadInput for a file that is missing or that this engine cannot read.
        """


class CheckedNetwork(ABC):
    """Keeps bound inputs and checks every input before an engine sees it."""

    def __init__(self, name: str, inputs: tuple[Port, ...]) -> None:
        self.name = name
        self._ports = {port.name: port for port in inputs}
        self._bound: dict[str, Array] = {}

    @property
    def inputs(self) -> tuple[Port, ...]:
        return tuple(self._ports.values())

    def bind_inputs(self, **inputs: Array) -> None:
        for name, value in self._checked(inputs).items():
            # A copy: what the caller does with its array later must not change what is bound.
            self._bound[name] = np.array(value, order="C")
            self._bind(name, self._bound[name])

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        given = self._checked(inputs)
        twice = [name for name in given if name in self._bound]
        if twice:
            raise ValueError(f"network {self.name}: input {', '.join(twice)} is held already")
        missing = [name for name in self._ports if name not in given and name not in self._bound]
        if missing:
            raise ValueError(f"network {self.name}: input {', '.join(missing)} is missing")
        return self._run(given)

    def _checked(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        for name, value in inputs.items():
            port = self._ports.get(name)
            if port is None:
                raise ValueError(f"network {self.name}: no input {name!r}, it has {', '.join(self._ports)}")
            if value.shape != port.shape or value.dtype != port.dtype:
                raise ValueError(
                    f"network {self.name}: input {name} is {value.dtype} {list(value.shape)}, "
                    f"wanted is {port.dtype} {list(port.shape)}"
                )
        return {name: np.ascontiguousarray(value) for name, value in inputs.items()}

    @abstractmethod
    def _bind(self, name: str, value: Array) -> None:
        """Hands a bound input to the engine."""

    @abstractmethod
    def _run(self, given: dict[str, Array]) -> dict[str, Array]:
        """Outputs for the given inputs, which are contiguous, and the bound ones."""


def check_settings(name: str, threads: int) -> None:
    """Raises BadInput for what `choose_engine` would refuse, without importing an engine."""
    if not 0 <= threads <= MOST_THREADS:
        raise BadInput(f"threads is {threads}, allowed are 0 (physical cores) to {MOST_THREADS}")
    installed = installed_engines()
    if name != "auto" and name not in installed:
        raise BadInput(f"engine is {name!r}, allowed are auto, {', '.join(installed)}; installed: {_listed(installed)}")
    if name != "auto" and installed[cast(EngineName, name)] is None:
        how = how_to_install(cast(EngineName, name))
        raise BadInput(f"engine {name} is not installed: {how}; installed: {_listed(installed)}")


def how_to_install(name: EngineName) -> str:
    """The command that brings an engine's library."""
    return f"pip install 'kilocall[{_EXTRAS[name]}]'" if name in _EXTRAS else "pip install openvino"


def installed_engines() -> dict[EngineName, str | None]:
    """Version of every engine's library, None where it is not installed. Imports none of them."""
    found: dict[EngineName, str | None] = {}
    for name, modules in _MODULES.items():
        found[name] = None
        if all(importlib.util.find_spec(module) is not None for module in modules):
            try:
                found[name] = version(modules[-1])
            except PackageNotFoundError:  # onnxruntime-gpu and the like bring the module under another name
                found[name] = "unknown version"
    return found


def _listed(installed: Mapping[EngineName, str | None]) -> str:
    return ", ".join(f"{name} {number}" for name, number in installed.items() if number is not None) or "none"
