"""Constants of ONNX files in 8 and 16 bits: smaller, and the same network."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from kilocall.train.shrink import halve_constants, store_eight_bits


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


def test_weights_that_are_steps_of_a_scale_take_a_byte_each_and_lose_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    steps = rng.integers(-127, 128, (64, 64)).astype(np.float32)
    steps[:, 0] = 127  # a row's largest weight is 127 steps, as stored weights have it
    weight = steps * rng.uniform(0.001, 0.01, (64, 1)).astype(np.float32)
    other = rng.normal(size=(64, 64)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["h"], transB=1), helper.make_node("Gemm", ["h", "o"], ["y"], transB=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(other, "o")],
    )
    path = tmp_path / "a.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    store_eight_bits(path)
    stored = {i.name: i.data_type for i in onnx.load(path).graph.initializer}
    # The second layer's weights are no steps of anything.
    assert stored == {"w.steps": TensorProto.INT8, "w.step": TensorProto.FLOAT, "o": TensorProto.FLOAT}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = rng.normal(size=(1, 64)).astype(np.float32)
    wanted = x @ weight.T @ other.T
    assert np.abs(session.run(None, {"x": x})[0] - wanted).max() < 1e-5 * np.abs(wanted).max()
