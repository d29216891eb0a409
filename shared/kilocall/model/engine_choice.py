"""Which engine runs the networks: the one asked for, or the fastest on this machine."""

from __future__ import annotations

import logging
from typing import Final, cast

from kilocall.model.engine_factory import best_cpu_engine, exact_engine, make_engine
from kilocall.model.gpu_trial import faster_gpu
from kilocall.proto.errors import BadInput
from kilocall.runtime.engine import GPU_ENGINES, Engine, EngineName, check_settings, installed_engines
from kilocall.runtime.engines.fallback import FallbackEngine
from kilocall.runtime.machine import cuda_driver_present, graphics, intel_compute, physical_cores

__all__ = ["MOST_AUTO_THREADS", "choose_engine", "give_up", "given_up", "gpu_candidates"]

#: More threads than this gain nothing on networks of a few milliseconds, and the call needs cores as well.
MOST_AUTO_THREADS: Final = 4

_logger = logging.getLogger(__name__)

#: GPU engines that failed in this process, and how; they are not tried again.
given_up: dict[EngineName, str] = {}


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
        from kilocall.model.compact.torch_engine import cuda_device

        device = cuda_device()
        if device is not None:
            return make_engine("torch", count, f"CUDA device {device}")
    on_cpu, reason = best_cpu_engine()
    candidates = gpu_candidates()
    if candidates:
        found = faster_gpu(on_cpu, candidates, count)
        if found.engine is not None:
            try:
                return _with_fallback(found.engine, count, found.reason)
            except (BadInput, ImportError, OSError) as error:
                give_up(found.engine, str(error))
        reason = f"{reason}; {found.reason}"
    return make_engine(on_cpu, count, reason)


def give_up(name: EngineName, why: str) -> None:
    """From now on this process does without a GPU engine."""
    if name not in given_up:
        given_up[name] = why
        _logger.warning("engine %s is given up: %s", name, why)


def gpu_candidates() -> tuple[EngineName, ...]:
    """GPU engines that are worth a trial here: installed, with a GPU that they know, not given up. Loads no driver."""
    installed = installed_engines()
    fit = {"webgpu": lambda: bool(graphics()), "openvino-gpu": intel_compute}
    return tuple(n for n in GPU_ENGINES if installed[n] is not None and n not in given_up and fit[n]())


def _with_fallback(name: EngineName, threads: int, reason: str) -> Engine:
    on_cpu, _ = best_cpu_engine()
    if name in given_up:
        return make_engine(on_cpu, threads, f"{name} was given up: {given_up[name]}")
    return FallbackEngine(
        make_engine(name, threads, reason),
        stand_in=lambda: make_engine(on_cpu, threads, f"{name} was given up"),
        reference=lambda: exact_engine(name, threads),
        give_up=lambda why: give_up(name, why),
    )
