"""OpenVINO on the CPU: the fastest engine there (8-bit convolutions, grid_sample with vector instructions).

And on Intel's GPUs, where it wants OpenCL.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import threading
import weakref
from pathlib import Path
from typing import Any, Final

from kilocall.proto.errors import BadInput
from kilocall.runtime.engine import Array, CheckedNetwork, Engine, EngineName, Network, Port, how_to_install
from kilocall.runtime.machine import lacks_avx2

_TELEMETRY = "openvino_telemetry"
KEPT_VERSIONS: Final = 4


def quiet_openvino() -> Any:
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


# OpenVINO sets the process's locale to "C" while it reads a network and puts back what it found: two threads at once
# leave "C" behind, and every text file opened later is read as ASCII. Seen with 2026.4.1.
_COMPILING = threading.Lock()

#: Compiled networks that are in use, by all that makes them what they are. A call's threads share them: what a network
#: was compiled to is ten times as large as what one run of it needs. Two threads that want the same one at the same
#: moment take turns, 1 to 7 ms.
_SHARED: weakref.WeakValueDictionary[tuple[object, ...], Any] = weakref.WeakValueDictionary()


class OpenVinoEngine(Engine):
    """Compiling takes 1.7 s for all networks of a call, 0.5 s from `cache`, a folder that this user owns."""

    name: EngineName = "openvino"
    device: str = "CPU"

    def __init__(
        self,
        threads: int,
        reason: str,
        cache: Path | None = None,
        *,
        precision: str = "f32",
        exact: bool = False,
    ) -> None:
        """`precision` is what floats are computed in: f32, f16 or bf16 (where the CPU has it).

        `exact` computes 8-bit networks in floats between the roundings.
        """
        self.threads, self.reason, self.cache, self.precision = threads, reason, cache, precision
        self.exact = exact
        self._openvino = quiet_openvino()
        self._core: Any = self._openvino.Core()

    def load(self, model: Path) -> Network:
        if not model.is_file():
            raise BadInput(f"network {model} does not exist")
        found = model.stat()
        settings = self._settings()
        file = (model.resolve(), found.st_mtime_ns, found.st_size)
        key = (*file, self.device, *sorted(settings.items()))
        with _COMPILING:
            compiled = _SHARED.get(key)
            if compiled is None:
                compiled = self._compile(model, settings)
                _SHARED[key] = compiled
            # Here, too: two threads that ask for the types of one network at the same moment wait for each other for
            # ever, one with the interpreter's lock and one with the library's. Seen with 2026.4.1.
            return _OpenVinoNetwork(model.stem, compiled)

    def _compile(self, model: Path, settings: dict[str, str]) -> Any:
        kept = self._cache_of(model)
        cached = {} if kept is None else {"CACHE_DIR": str(kept)}
        try:
            return self._core.compile_model(str(model), self.device, settings | cached)
        except RuntimeError as error:
            if self.device == "CPU" and lacks_avx2():
                raise BadInput(
                    f"network {model} cannot run in OpenVINO: the processor has no AVX2; "
                    f"choose --engine onnxruntime ({how_to_install('onnxruntime')})"
                ) from error
            last = str(error).strip().splitlines()[-1]
            raise BadInput(f"network {model} cannot be read by OpenVINO: {last}") from error

    def _settings(self) -> dict[str, str]:
        return {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(self.threads),
            # Both directions of a call share the cores: pinned threads of two networks land on the same one.
            "ENABLE_CPU_PINNING": "NO",
            # Not bfloat16, which OpenVINO takes by itself where the CPU has it: coordinates in it cost up to 0.3 dB,
            # and beside 8-bit convolutions it gains nothing (9.8 and 10.0 ms a picture).
            "INFERENCE_PRECISION_HINT": self.precision,
            # Otherwise a processor with AVX-512 rounds what goes into the landmark network's last layers to 8 bits, and
            # one without does not; with oneDNN held to AVX2 there the network is refused. Seen with 2026.4.1.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
            **({"LP_TRANSFORMS_MODE": "NO"} if self.exact else {}),
        }

    def _cache_of(self, model: Path) -> Path | None:
        """Where compiled code of this very file is kept; None where nothing can be kept.

        Named by content, because OpenVINO tells files apart by path, time and size, and two releases can agree in all
        three. Only networks of a weights folder are kept, the last few versions of each.
        """
        if self.cache is None or not (model.parent / "manifest.json").is_file():
            return None
        digest = hashlib.sha256(model.read_bytes()).hexdigest()[:16]
        folder = self.cache / f"{model.stem}-{digest}"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            old = sorted(self.cache.glob(f"{model.stem}-*"), key=lambda p: p.stat().st_mtime)
            for unused in old[:-KEPT_VERSIONS]:
                shutil.rmtree(unused, ignore_errors=True)
        except OSError:
            return None
        return folder


class OpenVinoGpuEngine(OpenVinoEngine):
    """The first of Intel's GPUs that OpenVINO finds."""

    name = "openvino-gpu"
    device = "GPU"

    def __init__(self, threads: int, reason: str, cache: Path | None = None) -> None:
        """Raises BadInput where OpenVINO finds no GPU."""
        super().__init__(threads, reason, cache)
        try:
            self.device_name = str(self._core.get_property(self.device, "FULL_DEVICE_NAME"))
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1]
            hint = (
                "; it needs an Intel GPU and Intel's OpenCL driver (Debian: intel-opencl-icd)"
                if sys.platform == "linux"
                else "; it needs an Intel GPU"
            )
            raise BadInput(f"engine openvino-gpu finds no GPU ({last}){hint}") from error

    def _settings(self) -> dict[str, str]:
        # Not the float16 that OpenVINO takes on GPUs by itself: it rounds coordinates near 1 by up to 2^-12, which is
        # 0.03 of a pixel of 256, at every step.
        return {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": self.precision}


class _OpenVinoNetwork(CheckedNetwork):
    def __init__(self, name: str, compiled: Any) -> None:
        super().__init__(
            name,
            tuple(Port(p.any_name, tuple(p.shape), p.element_type.to_dtype()) for p in compiled.inputs),
        )
        self._compiled = compiled  # as long as anybody uses it
        self._request = compiled.create_infer_request()
        self._outputs = tuple(p.any_name for p in compiled.outputs)
        for port in (*compiled.inputs, *compiled.outputs):
            self._request.get_tensor(port.any_name).data  # noqa: B018  # what it finds out for the first time

    def _bind(self, name: str, value: Array) -> None:
        self._request.get_tensor(name).data[:] = value

    def _run(self, given: dict[str, Array]) -> dict[str, Array]:
        # Copied both ways, 3 to 20 us a picture: sharing the caller's memory would save that and outlive the call.
        for name, value in given.items():
            self._request.get_tensor(name).data[:] = value
        self._request.infer()
        return {name: self._request.get_tensor(name).data.copy() for name in self._outputs}
