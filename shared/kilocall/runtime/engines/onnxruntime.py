"""onnxruntime on the CPU: where OpenVINO is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kilocall.proto.errors import BadInput
from kilocall.runtime.engine import Array, CheckedNetwork, Engine, Network, Port

_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(int64)": np.int64}


class OnnxRuntimeEngine(Engine):
    name = "onnxruntime"

    def __init__(self, threads: int, reason: str) -> None:
        import onnxruntime

        onnxruntime.disable_telemetry_events()  # only builds for Windows send any
        self.threads, self.reason = threads, reason
        self._library: Any = onnxruntime
        self._sessions: dict[Path, Any] = {}

    def load(self, model: Path, outputs: tuple[str, ...] = ()) -> Network:
        if model not in self._sessions:
            self._sessions[model] = self._open(model)
        partly = self._library.RunOptions()
        partly.only_execute_path_to_fetches = bool(outputs)
        return _OnnxRuntimeNetwork(model.stem, self._sessions[model], outputs, partly)

    def _open(self, model: Path) -> Any:
        if not model.is_file():
            raise BadInput(f"network {model} does not exist")
        options = self._library.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            return self._library.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class but Exception
            raise BadInput(f"network {model} cannot be read by onnxruntime: {error}") from error


class _OnnxRuntimeNetwork(CheckedNetwork):
    def __init__(self, name: str, session: Any, outputs: tuple[str, ...], options: Any) -> None:
        super().__init__(
            name,
            tuple(Port(p.name, tuple(p.shape), np.dtype(_TYPES[p.type])) for p in session.get_inputs()),
        )
        self._session = session
        self._options = options
        self._outputs = list(outputs) or [p.name for p in session.get_outputs()]

    def _keep(self, name: str, value: Array) -> None:
        pass  # `_run` takes it from `_held`

    def _run(self, given: dict[str, Array]) -> dict[str, Array]:
        values = self._session.run(self._outputs, {**self._held, **given}, self._options)
        return dict(zip(self._outputs, values, strict=True))
