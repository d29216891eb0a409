"""Half-precision constants in ONNX files: smaller, and the same network."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from kilocall.train.shrink import halve_constants


def test_large_constants_become_halves_and_the_result_stays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(64, 64)).astype(np.float32)
    bias = rng.normal(size=64).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = tmp_path / "a.onnx"
    onnx.save(model, path)
    before = path.stat().st_size
    halve_constants(path)
    assert path.stat().st_size < 0.6 * before
    stored = {i.name: i.data_type for i in onnx.load(path).graph.initializer}
    assert stored == {"w.half": TensorProto.FLOAT16, "b": TensorProto.FLOAT}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = rng.normal(size=(1, 64)).astype(np.float32)
    made = session.run(None, {"x": x})[0]
    assert np.abs(made - (x @ weight.astype(np.float16).astype(np.float32) + bias)).max() < 1e-4
