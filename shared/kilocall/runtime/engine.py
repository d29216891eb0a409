"""What runs a network: OpenVINO, onnxruntime or torch behind one small interface.

A network is an ONNX file of a family's weights folder; inputs and outputs have names, fixed shapes and fixed types.
The libraries are imported when an engine is chosen, never before: start-up counts in a call.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from kilocall.proto.errors import BadInput
from kilocall.runtime.files import user_cache_folder

if TYPE_CHECKING:
    from kilocall.runtime.engines.fallback import FallbackEngine

__all__ = [
    "ENGINES",
    "GPU_ENGINES",
    "Array",
    "Engine",
    "EngineName",
    "Network",
    "Port",
    "check_settings",
    "choose_engine",
    "how_to_install",
    "installed_engines",
    "make_engine",
    "physical_cores",
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
#: More threads than this gain nothing on networks of a few milliseconds, and the call needs cores as well.
MOST_AUTO_THREADS: Final = 4
MOST_THREADS: Final = 64

_logger = logging.getLogger(__name__)


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
    def load(self, model: Path, outputs: tuple[str, ...] = ()) -> Network:
        """A network of its own for every call; what can be shared (compiled code, weights) is shared.

        With `outputs` it makes only these, and may want fewer inputs. Raises BadInput for a file that is missing or
        that this engine cannot read.
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


def choose_engine(name: str = "auto", threads: int = 0) -> Engine:
    """The engine called `name`, or with "auto" the fastest that is installed.

    The order of "auto" is torch on a CUDA device, a laptop's GPU where a trial found it faster (gpu_trial.py),
    OpenVINO, onnxruntime. A GPU engine goes on as the CPU's after its first error or wrong number. `threads` 0 takes
    the physical cores, at most four. Raises BadInput for an unknown or missing engine, a GPU engine asked for by name
    that finds no GPU, or a thread count outside 0..64.
    """
    check_settings(name, threads)
    installed = installed_engines()
    count = threads or min(physical_cores(), MOST_AUTO_THREADS)
    if name in GPU_ENGINES:
        return _with_fallback(name, count, "asked for")
    if name != "auto":
        return make_engine(cast(EngineName, name), count, "asked for")
    if installed["torch"] is not None and cuda_driver_present():
        from kilocall.runtime.engines import torch as torch_engine

        if torch_engine.cuda_device() is not None:
            return make_engine("torch", count, f"CUDA device {torch_engine.cuda_device()}")
    on_cpu, reason = _cpu_engine()
    candidates = gpu_candidates()
    if candidates:
        from kilocall.runtime.gpu_trial import faster_gpu

        found = faster_gpu(on_cpu, candidates, count)
        if found.engine is not None:
            try:
                return _with_fallback(found.engine, count, found.reason)
            except (BadInput, ImportError, OSError) as error:
                give_up(found.engine, str(error))
        reason = f"{reason}; {found.reason}"
    return make_engine(on_cpu, count, reason)


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


def make_engine(name: EngineName, threads: int, reason: str) -> Engine:
    """The engine itself, without a fallback. Raises BadInput for a GPU engine that finds no GPU it can use."""
    if name in ("openvino", "openvino-gpu"):
        from kilocall.runtime.engines.openvino import OpenVinoEngine, OpenVinoGpuEngine

        kind = OpenVinoEngine if name == "openvino" else OpenVinoGpuEngine
        return kind(threads, reason, user_cache_folder() / name)
    if name == "onnxruntime":
        from kilocall.runtime.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(threads, reason)
    if name == "webgpu":
        from kilocall.runtime.engines.webgpu import WebGpuEngine

        return WebGpuEngine(threads, reason)
    from kilocall.runtime.engines.torch import TorchEngine

    return TorchEngine(threads, reason)


def _cpu_engine() -> tuple[EngineName, str]:
    """The fastest on a CPU and why; BadInput where none is installed."""
    from kilocall.runtime.machine import lacks_avx2

    installed = installed_engines()
    if installed["onnxruntime"] is not None:
        if installed["openvino"] is None:
            return "onnxruntime", "OpenVINO is not installed"
        if lacks_avx2():
            return "onnxruntime", "the processor has no AVX2, which OpenVINO needs"
    if installed["openvino"] is not None:
        return "openvino", "no CUDA device; OpenVINO is the fastest on a CPU"
    raise BadInput(f"no engine is installed, wanted is one of {', '.join(ENGINES)} (on a CPU torch only by name)")


#: GPU engines that failed in this process, and how; they are not tried again.
_given_up: dict[EngineName, str] = {}


def give_up(name: EngineName, why: str) -> None:
    """From now on this process does without a GPU engine."""
    if name not in _given_up:
        _given_up[name] = why
        _logger.warning("engine %s is given up: %s", name, why)


def gpu_candidates() -> tuple[EngineName, ...]:
    """GPU engines that are worth a trial here: installed, with a GPU that they know, not given up. Loads no driver."""
    from kilocall.runtime.machine import graphics, intel_compute

    installed = installed_engines()
    fit = {"webgpu": lambda: bool(graphics()), "openvino-gpu": intel_compute}
    return tuple(n for n in GPU_ENGINES if installed[n] is not None and n not in _given_up and fit[n]())


def _with_fallback(name: EngineName, threads: int, reason: str) -> Engine:
    on_cpu, _ = _cpu_engine()
    if name in _given_up:
        return make_engine(on_cpu, threads, f"{name} was given up: {_given_up[name]}")
    from kilocall.runtime.engines.fallback import FallbackEngine

    made: FallbackEngine = FallbackEngine(
        make_engine(name, threads, reason),
        stand_in=lambda: make_engine(on_cpu, threads, f"{name} was given up"),
        reference=lambda: _exact_engine(name, threads),
        give_up=lambda why: give_up(name, why),
    )
    return made


def _exact_engine(gpu: EngineName, threads: int) -> Engine:
    """A GPU engine's library on the CPU, in the GPU's arithmetic.

    The CPU's own 8-bit products saturate where it has no VNNI, which moves points by more than GPUs differ.
    """
    if gpu == "webgpu":
        from kilocall.runtime.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(threads, "comparison", exact=True)
    from kilocall.runtime.engines.openvino import OpenVinoEngine

    return OpenVinoEngine(threads, "comparison", exact=True)


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


@cache
def cuda_driver_present() -> bool:
    """Whether an NVIDIA driver can be loaded: much cheaper to ask than torch, which takes seconds to import."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def physical_cores() -> int:
    """Cores this process may use: hyper-threads counted once, the affinity and a container's quota respected."""
    try:
        allowed = sorted(os.sched_getaffinity(0))
    except AttributeError:  # no affinity on macOS and Windows
        return max(1, os.cpu_count() or 1)
    siblings = set()
    for cpu in allowed:
        try:
            siblings.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            siblings.add(str(cpu))
    return max(1, min(len(siblings), _quota()))


def _quota() -> int:
    """Whole cores that the control group grants, rounded up."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return MOST_THREADS if quota == "max" else max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        return MOST_THREADS
