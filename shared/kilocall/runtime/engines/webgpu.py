"""A laptop's GPU by Direct3D 12, Vulkan or Metal: onnxruntime with the plug-in of the package onnxruntime-ep-webgpu."""

from __future__ import annotations

import sys
import threading
from typing import Any, Final

from kilocall.proto.errors import BadInput
from kilocall.runtime.engine import Array, Network
from kilocall.runtime.engines.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeNetwork

#: Names the library within onnxruntime; whoever registers it twice in a process gets an error.
_REGISTERED_AS: Final = "kilocall-webgpu"
_REGISTERING = threading.Lock()
#: y = x + x for one float: what a driver must at least be able to do (ONNX opset 17, no names of producers).
_SMALLEST: Final = bytes.fromhex(
    "08083a350a0e0a01780a017812017922034164641201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a0208014204"
    "0a001011"
)
#: PCI vendors, for devices that onnxruntime knows by number only.
_VENDORS: Final = {0x1002: "AMD", 0x106B: "Apple", 0x10DE: "NVIDIA", 0x5143: "Qualcomm", 0x8086: "Intel"}
_LINUX: Final = "; on Linux it needs libvulkan.so.1 and a Vulkan driver (Debian: libvulkan1 and mesa-vulkan-drivers)"


class WebGpuEngine(OnnxRuntimeEngine):
    """Operators that the plug-in lacks run on `threads` threads of the CPU."""

    name = "webgpu"

    def __init__(self, threads: int, reason: str) -> None:
        """Raises BadInput where there is no GPU, or its driver does not work."""
        super().__init__(threads, reason)
        hint = _LINUX if sys.platform == "linux" else "; a newer driver of the graphics adapter may help"
        try:
            self._device = self._find_device()
            if self._device is not None:
                self._session(_SMALLEST, self._options())
        except Exception as error:  # the library's exceptions share no base class but Exception
            raise BadInput(f"engine webgpu: the GPU's driver does not work ({_last_line(error)}){hint}") from error
        if self._device is None:
            raise BadInput(f"engine webgpu finds no GPU{hint}")
        self.device_name = _name_of(self._device.device)

    def _find_device(self) -> Any:
        import onnxruntime_ep_webgpu

        with _REGISTERING:
            wanted = onnxruntime_ep_webgpu.get_ep_name()
            if not self._devices(wanted):
                try:
                    self._library.register_execution_provider_library(
                        _REGISTERED_AS, onnxruntime_ep_webgpu.get_library_path()
                    )
                except Exception as error:
                    if "already registered" not in str(error):
                        raise
            found = self._devices(wanted)
        # The plug-in takes one device, and chooses the physical GPU by itself.
        return found[0] if found else None

    def _devices(self, wanted: str) -> list[Any]:
        return [device for device in self._library.get_ep_devices() if device.ep_name == wanted]

    def _session(self, model: str | bytes, options: Any) -> Any:
        options.add_provider_for_devices([self._device], {})
        return self._library.InferenceSession(model, options)

    def _network(self, name: str, session: Any) -> Network:
        return _WebGpuNetwork(name, session)


class _WebGpuNetwork(OnnxRuntimeNetwork):
    """Keeps bound inputs in the GPU's memory: a source picture's features are 6 MB."""

    def __init__(self, name: str, session: Any) -> None:
        super().__init__(name, session)
        self._io_binding = session.io_binding()
        for output in self._outputs:
            self._io_binding.bind_output(output, "cpu")

    def _bind(self, name: str, value: Array) -> None:
        self._io_binding.bind_cpu_input(name, value)

    def _run(self, given: dict[str, Array]) -> dict[str, Array]:
        for name, value in given.items():
            self._io_binding.bind_cpu_input(name, value)
        self._session.run_with_iobinding(self._io_binding)
        return dict(zip(self._outputs, self._io_binding.copy_outputs_to_cpu(), strict=True))


def _name_of(device: Any) -> str:
    """What a person calls a hardware device."""
    if device.type.name == "CPU":
        return "a driver in software"
    vendor = _VENDORS.get(device.vendor_id, device.vendor or "GPU")
    return str(device.metadata.get("Description") or f"{vendor} {device.device_id:#06x}")


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].rsplit(" was false. ", 1)[-1] or type(error).__name__
