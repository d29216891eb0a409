"""torch: for a CUDA device, and as the plain float reference that the other engines are measured against."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from kilocall.model.compact.export_modules import NETWORKS, ExportModule
from kilocall.model.compact.fusion_network import FusionNetwork
from kilocall.model.compact.int8_checkpoint import unpack
from kilocall.proto.errors import BadInput
from kilocall.runtime.engine import Array, CheckedNetwork, Engine, Network, Port


def cuda_device() -> str | None:
    """Name of the CUDA device that torch can use, or None."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


class TorchEngine(Engine):
    """Runs the float weights (`renderer.safetensors`) in float32. Sets torch's thread count for the whole process."""

    name = "torch"

    def __init__(self, threads: int, reason: str, device: Literal["auto", "cpu", "cuda"] = "auto") -> None:
        self.threads, self.reason = threads, reason
        found = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(found if device == "auto" else device)
        if self.device.type == "cuda":
            self.device_name = torch.cuda.get_device_name(self.device)
        torch.set_num_threads(threads)
        self._modules: dict[Path, ExportModule] = {}

    def load(self, model: Path) -> Network:
        return TorchNetwork(model.stem, self.module(model), self.device)

    def module(self, model: Path) -> ExportModule:
        """The network itself, on the engine's device."""
        if model not in self._modules:
            self._modules[model] = self._build(model)
        return self._modules[model]

    def _build(self, model: Path) -> ExportModule:
        kind = FusionNetwork if model.stem == "fusion" else NETWORKS.get(model.stem)
        if kind is None:
            raise BadInput(f"network {model.stem!r} is unknown to the torch engine, it has {', '.join(NETWORKS)}")
        weights = model.with_name(f"{kind.part}.safetensors")
        try:
            module = kind.from_state(unpack(load_file(weights)))
        except (OSError, SafetensorError, RuntimeError, KeyError) as error:
            raise BadInput(f"weights {weights} cannot be used: {str(error).splitlines()[0]}") from error
        placed: ExportModule = module.eval().requires_grad_(False).to(self.device)
        return placed


class TorchNetwork(CheckedNetwork):
    """A torch module behind the interface of the other engines."""

    def __init__(self, name: str, module: ExportModule, device: torch.device) -> None:
        super().__init__(
            name,
            tuple(Port(n, tuple(v.shape), np.dtype(v.numpy().dtype)) for n, v in module.examples().items()),
        )
        self._module, self._device = module, device
        self._constant: dict[str, Any] = {}

    def _bind(self, name: str, value: Array) -> None:
        self._constant[name] = torch.from_numpy(value).to(self._device)

    def _run(self, given: dict[str, Array]) -> dict[str, Array]:
        # torch.tensor copies: read-only arrays would otherwise warn.
        fresh = {name: torch.tensor(value, device=self._device) for name, value in given.items()}
        every = {**self._constant, **fresh}
        with torch.inference_mode():
            values = self._module(*(every[name] for name in self._ports))
        made = zip(self._module.outputs, values, strict=True)
        return {name: value.cpu().numpy() for name, value in made}
