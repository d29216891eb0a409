"""OpenVINO on the CPU: the fastest engine there (8-bit convolutions, grid_sample with vector instructions)."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from kilocall.proto.errors import BadInput
from kilocall.runtime.engine import Array, CheckedNetwork, Engine, Network, Port, bf16_allowed

_TELEMETRY = "openvino_telemetry"


def quiet_openvino() -> ModuleType:
    """The openvino module, imported without its telemetry.

    Importing openvino reports the import to its vendor and writes an identity to the home folder unless the package
    openvino_telemetry is missing (openvino 2026.4 tools/ovc/__init__.py); so it is hidden during the import.
    """
    if "openvino" not in sys.modules and _TELEMETRY not in sys.modules:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # None makes the import system raise ImportError
        try:
            import openvino
        finally:
            del sys.modules[_TELEMETRY]
    import openvino

    return openvino


class OpenVinoEngine(Engine):
    name = "openvino"

    def __init__(self, threads: int, reason: str) -> None:
        self.threads, self.reason = threads, reason
        self._openvino = quiet_openvino()
        self._core: Any = self._openvino.Core()
        self._can_bf16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self._compiled: dict[Path, Any] = {}

    def load(self, model: Path) -> Network:
        if model not in self._compiled:
            self._compiled[model] = self._compile(model)
        return _OpenVinoNetwork(model.stem, self._openvino, self._compiled[model])

    def _compile(self, model: Path) -> Any:
        if not model.is_file():
            raise BadInput(f"network {model} does not exist")
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(self.threads),
            # Both directions of a call share the cores: pinned threads of two networks land on the same one.
            "ENABLE_CPU_PINNING": "NO",
            "INFERENCE_PRECISION_HINT": "bf16" if self._can_bf16 and bf16_allowed(model) else "f32",
        }
        try:
            return self._core.compile_model(str(model), "CPU", settings)
        except RuntimeError as error:
            first = str(error).strip().splitlines()[-1]
            raise BadInput(f"network {model} cannot be read by OpenVINO: {first}") from error


class _OpenVinoNetwork(CheckedNetwork):
    def __init__(self, name: str, openvino: ModuleType, compiled: Any) -> None:
        super().__init__(
            name,
            tuple(
                Port(p.any_name, tuple(p.shape), p.element_type.to_dtype()) for p in compiled.inputs
            ),
        )
        self._tensor = openvino.Tensor
        self._request = compiled.create_infer_request()
        self._outputs = tuple(p.any_name for p in compiled.outputs)

    def _keep(self, name: str, value: Array) -> None:
        self._request.get_tensor(name).data[:] = value

    def _run(self, given: dict[str, Array]) -> dict[str, Array]:
        # Copied both ways, 3 to 20 us a picture: sharing the caller's memory would save that and outlive the call.
        for name, value in given.items():
            self._request.get_tensor(name).data[:] = value
        self._request.infer()
        return {name: self._request.get_tensor(name).data.copy() for name in self._outputs}
