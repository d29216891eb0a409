"""Makes an engine by its name; its library is imported then, never before."""

from __future__ import annotations

from kilocall.proto.errors import BadInput
from kilocall.runtime.engine import ENGINES, Engine, EngineName, installed_engines
from kilocall.runtime.files import user_cache_folder
from kilocall.runtime.machine import lacks_avx2

__all__ = ["best_cpu_engine", "exact_engine", "make_engine"]


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
    from kilocall.model.compact.torch_engine import TorchEngine

    return TorchEngine(threads, reason)


def best_cpu_engine() -> tuple[EngineName, str]:
    """The fastest on a CPU and why; BadInput where none is installed."""
    installed = installed_engines()
    if installed["onnxruntime"] is not None:
        if installed["openvino"] is None:
            return "onnxruntime", "OpenVINO is not installed"
        if lacks_avx2():
            return "onnxruntime", "the processor has no AVX2, which OpenVINO needs"
    if installed["openvino"] is not None:
        return "openvino", "no CUDA device; OpenVINO is the fastest on a CPU"
    raise BadInput(f"no engine is installed, wanted is one of {', '.join(ENGINES)} (on a CPU torch only by name)")


def exact_engine(gpu: EngineName, threads: int) -> Engine:
    """A GPU engine's library on the CPU, in the GPU's arithmetic.

    The CPU's own 8-bit products saturate where it has no VNNI, which moves points by more than GPUs differ.
    """
    if gpu == "webgpu":
        from kilocall.runtime.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(threads, "comparison", exact=True)
    from kilocall.runtime.engines.openvino import OpenVinoEngine

    return OpenVinoEngine(threads, "comparison", exact=True)
