"""Networks through Vulkan give the CPU's numbers, on a driver in software if there is no other."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kilocall.model.engine_choice import choose_engine
from kilocall.proto.errors import BadInput
from kilocall.runtime.engine import check_settings, installed_engines

INSTALL = "needs pip install 'kilocall[gpu]', libvulkan1 and mesa-vulkan-drivers of Mesa 25.0 (Debian 12: backports)"

#: Run apart: the plug-in reads the environment once, and a driver may crash. A file, its inputs as in a call, and the
#: answers of both engines.
CODE = """
import json, sys
import numpy as np
from pathlib import Path
from kilocall.proto.errors import BadInput
from kilocall.model.engine_factory import make_engine
from kilocall.runtime.engines.fallback import difference
from kilocall.runtime.engines.onnxruntime import OnnxRuntimeEngine
try:
    gpu = make_engine("webgpu", 1, "test")
except BadInput as error:
    print(json.dumps({"missing": str(error)}))
    sys.exit()
cpu = OnnxRuntimeEngine(1, "test", exact=True)
answer = {"device": gpu.device_name, "difference": []}
one, other = gpu.load(Path(sys.argv[1])), cpu.load(Path(sys.argv[1]))
first = {}
for seed in range(3):
    given = {p.name: np.random.default_rng(seed).integers(0, 256, p.shape).astype(p.dtype) for p in one.inputs}
    made, wanted = one(**given), other(**given)
    first = first or {"made": made, "copy": {k: v.copy() for k, v in made.items()}}
    answer["difference"].append(difference(made, wanted))
answer["owned"] = all(np.array_equal(first["made"][k], first["copy"][k]) for k in first["made"])
one.bind_inputs(**given)
answer["held"] = difference(one(), wanted)
print(json.dumps(answer))
"""


@pytest.fixture
def small_network(tmp_path: Path) -> Path:
    """A picture's brightness from 0 to 1: two shaders, which compile in a moment."""
    onnx = pytest.importorskip("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", ["crop"], ["float"], to=types.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["points"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("crop", types.UINT8, [1, 16, 16, 3])],
        [helper.make_tensor_value_info("points", types.FLOAT, [1, 16, 16, 3])],
        [helper.make_tensor("scale", types.FLOAT, [1], [1 / 255])],
    )
    file = tmp_path / "small.onnx"
    file.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    return file


def test_without_the_package_the_command_that_brings_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "onnxruntime_ep_webgpu" else real(name, *rest)
    )
    assert installed_engines()["webgpu"] is None
    with pytest.raises(BadInput, match=r"engine webgpu is not installed: pip install 'kilocall\[gpu\]'; installed: "):
        check_settings("webgpu", 0)


def test_without_a_gpu_what_is_missing_is_told() -> None:
    pytest.importorskip("onnxruntime_ep_webgpu", reason=INSTALL)
    if Path("/dev/dri").exists() or sys.platform != "linux":
        pytest.skip("this machine may have a GPU")
    with pytest.raises(BadInput, match="engine webgpu finds no GPU; on Linux it needs libvulkan"):
        choose_engine("webgpu", 1)


@pytest.mark.slow
def test_a_network_gives_the_same_numbers_as_on_the_cpu(small_network: Path) -> None:
    pytest.importorskip("onnxruntime_ep_webgpu", reason=INSTALL)
    answer = _through_vulkan(small_network)
    assert answer["difference"] == [None, None, None]
    assert answer["held"] is None
    assert answer["owned"], "answers are the caller's"


def _through_vulkan(model: Path) -> dict[str, object]:
    """What CODE prints; skips where there is no driver that the plug-in takes."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(model)],
        env={
            **os.environ,
            "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1",
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        },
        stdout=subprocess.PIPE,
        timeout=240,
        check=True,
    )
    answer: dict[str, object] = json.loads(done.stdout.decode().splitlines()[-1])
    if "missing" in answer:
        pytest.skip(f"{INSTALL}: {answer['missing']}")
    return answer
