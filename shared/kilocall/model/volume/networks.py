"""Runs the networks of a family with a feature volume: all in torch, or convolutions in OpenVINO and warps in torch.

Source features are computed once per picture. A frame is then: the volume's suggestions (torch, small products), motion
field (convolutions), deformation and 5-D warp (torch, float32), decoder (convolutions).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kilocall.model.volume.appearance import DEPTH, FIELD
from kilocall.model.volume.motion_field import MotionFieldEstimator, along_axes, deformation, suggestions, warp
from kilocall.proto.errors import BadInput
from kilocall.runtime.engine import GPU_ENGINES, Engine
from kilocall.runtime.machine import instruction_sets

Array = NDArray[np.float32]
Picture = NDArray[np.uint8]

#: What a CPU must have for sums in bfloat16 to be faster.
_BFLOAT16: Final = frozenset({"avx512_bf16", "amx_bf16"})


@dataclass(frozen=True)
class HeadPose:
    """What a head network saw: rotation [3, 3], translation [3], scale, expression deltas [K, 3]."""

    rotation: Array
    translation: Array
    scale: float
    expression: Array


def as_array(tensor: Tensor) -> Array:
    """A float32 copy of its own; numpy would warn when asked to copy a tensor."""
    return tensor.float().cpu().numpy().copy()


@dataclass(frozen=True)
class Appearance:
    """One source picture's features: volume [1, 32, 16, 64, 64] and its compressed form [1, 4, 16, 64, 64]."""

    volume: Tensor
    compressed: Tensor


class VolumeNetworks(ABC):
    """A family's networks. Each is read from the weights when it is first used: a sender never touches a generator."""

    keypoints: int
    picture_size: int

    @property
    @abstractmethod
    def head(self) -> nn.Module:
        """Picture [B, 3, 256, 256] in 0..1 to a named tuple of what it says."""

    @abstractmethod
    def pose(self, head: Any) -> HeadPose:
        """The numbers of the first picture in what `head` said."""

    @abstractmethod
    def canonical(self, picture: Tensor, head: Any) -> Tensor:
        """x_c [B, K, 3] of a picture for which `head` was computed already."""

    @abstractmethod
    def volume(self, picture: Tensor) -> Tensor:
        """Picture [B, 3, 256, 256] to the feature volume."""

    @property
    @abstractmethod
    def field(self) -> MotionFieldEstimator: ...

    @abstractmethod
    def decode(self, warped: Tensor, occlusion: Tensor) -> Tensor:
        """Picture [B, 3, S, S] in 0..1 of a warped volume."""

    @abstractmethod
    def modules(self) -> list[nn.Module]:
        """Every network, for those who move them elsewhere."""

    @abstractmethod
    def head_graph(self, graph: Any) -> dict[str, Any]:
        """`head` on a CpuGraph."""

    @abstractmethod
    def picture_graph(self, graph: Any) -> Any:
        """`decode` on a CpuGraph, as uint8."""


class AbandonedError(Exception):
    """Nobody waits for the picture any more."""


class TorchRunner:
    """Everything in torch: float32 on a CPU, bfloat16 sums on a CUDA device."""

    def __init__(self, networks: VolumeNetworks, device: torch.device) -> None:
        self.networks, self.device = networks, device
        self._fast = device.type == "cuda"
        self._ready = False
        self._interrupted = False

    def interrupt(self) -> None:
        """On any thread: whatever runs ends as soon as it can, and with AbandonedError whatever is begun afterwards."""
        self._interrupted = True

    def head(self, crop: Picture) -> Any:
        with torch.inference_mode():
            return self._on_device(self.networks).head(self._tensor(crop))

    def pose(self, head: Any) -> HeadPose:
        return self.networks.pose(head)

    def canonical(self, crop: Picture, head: Any) -> Array:
        with torch.inference_mode():
            x_c = self._on_device(self.networks).canonical(self._tensor(crop), head)
            return as_array(x_c[0])

    def appearance(self, picture: Picture) -> Appearance:
        networks = self._on_device(self.networks)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self._fast):
            volume = networks.volume(self._tensor(picture)).float()
            return Appearance(volume, networks.field.compressed(volume).float())

    def render(self, appearance: Appearance, x_s: Array, x_d: Array) -> Picture:
        """uint8 [S, S, 3]; keypoints [K, 3]."""
        if self._interrupted:
            raise AbandonedError
        source, driving = (torch.from_numpy(np.ascontiguousarray(x))[None].to(self.device) for x in (x_s, x_d))
        with torch.inference_mode():
            made = self._frame(appearance.volume, appearance.compressed, source, driving)
            return made.cpu().numpy().copy()

    @cached_property
    def _frame(self) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        networks = self._on_device(self.networks)
        if not self._fast:
            return lambda volume, compressed, x_s, x_d: _frame(networks, volume, compressed, x_s, x_d)

        def fast(volume: Tensor, compressed: Tensor, x_s: Tensor, x_d: Tensor) -> Tensor:
            with torch.autocast("cuda", torch.bfloat16):
                return _frame(networks, volume, compressed, x_s, x_d)

        # With fixed shapes every frame is the same: recorded once as a CUDA graph, then replayed.
        compiled: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = torch.compile(fast, mode="reduce-overhead")
        return compiled

    def _on_device(self, networks: VolumeNetworks) -> VolumeNetworks:
        """All of them, in float32 (weights that are so already are not copied on a CPU)."""
        if not self._ready:
            for module in networks.modules():
                module.to(self.device, torch.float32)
                if self._fast:
                    _channels_last(module)
            self._ready = True
        return networks

    def _tensor(self, picture: Picture) -> Tensor:
        # torch.tensor copies: read-only arrays would otherwise warn.
        pixels = torch.tensor(picture, device=self.device)
        return pixels.permute(2, 0, 1)[None].float() / 255


def _frame(networks: VolumeNetworks, volume: Tensor, compressed: Tensor, x_s: Tensor, x_d: Tensor) -> Tensor:
    mask, occlusion = networks.field.logits(suggestions(compressed, x_s, x_d))
    warped = warp(volume, deformation(mask, x_s, x_d))
    picture = networks.decode(warped, occlusion)[0].permute(1, 2, 0)
    return (picture.float() * 255).round().to(torch.uint8)


def _channels_last(module: nn.Module) -> None:
    """Kernels as tensor cores want them; `Module.to` would refuse networks that have both 2-D and 3-D ones."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        elif parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)


class OpenVinoRunner(TorchRunner):
    """Convolutions of every frame in OpenVINO; what comes once per source picture stays in torch."""

    def __init__(self, networks: VolumeNetworks, threads: int, *, bfloat16: bool | None = None) -> None:
        """`bfloat16` decides how frames are made, None: as the CPU likes; heads are always found in float32."""
        super().__init__(networks, torch.device("cpu"))
        self.threads = threads
        if bfloat16 is None:
            bfloat16 = bool(_BFLOAT16 & set(instruction_sets() or ()))
        self.bfloat16 = bfloat16
        self._running: Any = None
        torch.set_num_threads(threads)

    def _on_device(self, networks: VolumeNetworks) -> VolumeNetworks:
        # What runs in torch is float32 already; converting the rest would copy what OpenVINO reads in halves too.
        return networks

    def head(self, crop: Picture) -> Any:
        found = self._start(self._head, picture=torch.tensor(crop)[None])
        return {name: value.copy() for name, value in found.items()}

    def pose(self, head: Any) -> HeadPose:
        return self.networks.pose(_Attributes({name: torch.from_numpy(value) for name, value in head.items()}))

    def canonical(self, crop: Picture, head: Any) -> Array:
        return super().canonical(crop, _Attributes({name: torch.from_numpy(value) for name, value in head.items()}))

    def render(self, appearance: Appearance, x_s: Array, x_d: Array) -> Picture:
        source, driving = (torch.from_numpy(np.ascontiguousarray(x))[None] for x in (x_s, x_d))
        with torch.inference_mode():
            compressed = appearance.compressed.reshape(1, -1, *appearance.compressed.shape[3:])
            parts = along_axes(source, driving, (DEPTH, FIELD, FIELD))
            self._start(self._suggestions, compressed=compressed, **parts)
            made = self._start(self._field)
            warped = warp(appearance.volume, deformation(torch.from_numpy(made["mask"]), source, driving))
            made = self._start(self._picture, warped=warped, occlusion=torch.from_numpy(made["occlusion"]))
        return np.array(made["picture"][0], np.uint8)

    @cached_property
    def _head(self) -> Any:
        from kilocall.model.volume.cpu_graph import CpuGraph

        graph = CpuGraph()
        outputs = self.networks.head_graph(graph)
        return graph.compile(outputs, threads=self.threads, bfloat16=False).create_infer_request()

    @cached_property
    def _suggestions(self) -> Any:
        from kilocall.model.volume.cpu_graph import CpuGraph

        graph = CpuGraph()
        # Coordinates need more than bfloat16's eight bits.
        outputs = {"suggestions": graph.suggestions(self.networks.keypoints + 1)}
        return graph.compile(outputs, threads=self.threads, bfloat16=False).create_infer_request()

    @cached_property
    def _field(self) -> Any:
        from kilocall.model.volume.cpu_graph import CpuGraph

        graph = CpuGraph()
        outputs = graph.field(self.networks.field)
        request = graph.compile(outputs, threads=self.threads, bfloat16=self.bfloat16).create_infer_request()
        # 21 MB that need not be copied.
        request.set_tensor("suggestions", self._suggestions.get_tensor("suggestions"))
        return request

    @cached_property
    def _picture(self) -> Any:
        from kilocall.model.volume.cpu_graph import CpuGraph

        graph = CpuGraph()
        outputs = {"picture": self.networks.picture_graph(graph)}
        return graph.compile(outputs, threads=self.threads, bfloat16=self.bfloat16).create_infer_request()

    def interrupt(self) -> None:
        super().interrupt()
        running = self._running
        if running is not None:
            running.cancel()

    def _start(self, request: Any, **inputs: Tensor) -> dict[str, NDArray[Any]]:
        """Outputs by name, in the request's own memory: they hold until its next run."""
        for name, value in inputs.items():
            request.get_tensor(name).data[:] = value.numpy()
        # Not `infer`, which cannot be cancelled from another thread (2026.4).
        self._running = request
        if self._interrupted:
            raise AbandonedError
        try:
            request.start_async()
            request.wait()
        except RuntimeError as error:
            if self._interrupted:
                raise AbandonedError from error
            raise
        finally:
            self._running = None
        names = [port.any_name for port in request.model_outputs]
        return {name: request.get_tensor(name).data for name in names}


class _Attributes:
    """A head's outputs by name, as its named tuple gives them."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.__dict__.update(values)


def make_runner(networks: VolumeNetworks, engine: Engine) -> TorchRunner:
    """What runs the networks for the engine that was chosen. Raises BadInput for onnxruntime, which has no 3-D warp."""
    # On a laptop's GPU there is no 3-D warp either: the processor beside it takes over.
    if engine.name in ("openvino", *GPU_ENGINES):
        return OpenVinoRunner(networks, engine.threads)
    if engine.name == "torch":
        device = getattr(engine, "device", torch.device("cpu"))
        return TorchRunner(networks, device)
    raise BadInput(f"engine {engine.name} does not run families with a feature volume; allowed are openvino and torch")
