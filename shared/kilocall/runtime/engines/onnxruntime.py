"""onnxruntime on the CPU: where OpenVINO is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kilocall.proto.errors import BadInput
from kilocall.runtime.engine import Array, CheckedNetwork, Engine, EngineName, Network, Port

_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(int64)": np.int64}


class OnnxRuntimeEngine(Engine):
    name: EngineName = "onnxruntime"

    def __init__(self, threads: int, reason: str, *, exact: bool = False) -> None:
        """`exact` computes 8-bit networks in floats between the roundings, as GPUs do, where the CPU's 8-bit products
        may saturate (without VNNI)."""
        import onnxruntime

        onnxruntime.disable_telemetry_events()  # only builds for Windows send any
        self.threads, self.reason, self.exact = threads, reason, exact
        self._library: Any = onnxruntime
        self._sessions: dict[Path, Any] = {}

    def load(self, model: Path) -> Network:
        if model not in self._sessions:
            self._sessions[model] = self._open(model)
        return self._network(model.stem, self._sessions[model])

    def _open(self, model: Path) -> Any:
        if not model.is_file():
            raise BadInput(f"network {model} does not exist")
        try:
            return self._session(str(model), self._options())
        except Exception as error:  # its exceptions share no base class but Exception
            raise BadInput(f"network {model} cannot be read by {self.name}: {error}") from error

    def _options(self) -> Any:
        options = self._library.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if self.exact:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        return options

    def _session(self, model: str | bytes, options: Any) -> Any:
        return self._library.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def _network(self, name: str, session: Any) -> Network:
        return OnnxRuntimeNetwork(name, session)


class OnnxRuntimeNetwork(CheckedNetwork):
    def __init__(self, name: str, session: Any) -> None:
        super().__init__(
            name,
            tuple(Port(p.name, tuple(p.shape), np.dtype(_TYPES[p.type])) for p in session.get_inputs()),
        )
        self._session = session
        self._outputs = [p.name for p in session.get_outputs()]

    def _bind(self, name: str, value: Array) -> None:
        pass  # `_run` takes it from `_bound`

    def _run(self, given: dict[str, Array]) -> dict[str, Array]:
        values = self._session.run(self._outputs, {**self._bound, **given})
        return dict(zip(self._outputs, values, strict=True))
