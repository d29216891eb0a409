"""Networks rewritten for browsers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kilocall.runtime import web_files
from kilocall.runtime.web_files import GPU_NETWORKS, NETWORK_FILES, WEIGHTS, for_browsers, rewritten_path
from kilocall.runtime.web_networks import for_graphics, rewrite

onnx = pytest.importorskip("onnx", reason="needs onnx")
ort = pytest.importorskip("onnxruntime", reason="needs onnxruntime")


def test_every_network_is_rewritten_once_and_what_is_not_wanted_goes(tmp_path: Path) -> None:
    folder = tmp_path / "networks"
    count = rewrite(folder)
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    networks = sum(name.endswith(".onnx") for name in NETWORK_FILES)
    assert count == len(written) == networks + len(GPU_NETWORKS)
    (folder / "field-of-other-weights.onnx").write_bytes(b"")
    assert rewrite(folder) == count
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written


def test_a_page_gets_the_rewritten_network_of_the_same_weights_or_else_the_stored_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_files, "WEB", tmp_path)
    stored = (WEIGHTS / "eye.onnx").read_bytes()
    assert for_browsers("eye.onnx", stored) == stored
    rewrite(tmp_path / "vendor" / "networks")
    given = for_browsers("eye.onnx", stored)
    assert given == rewritten_path(tmp_path / "vendor" / "networks", "eye.onnx", stored).read_bytes() != stored
    assert for_browsers("eye.onnx", stored + b"other weights") == stored + b"other weights"
    region = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    plain, rewritten = (ort.InferenceSession(data, providers=["CPUExecutionProvider"]) for data in (stored, given))
    inputs = {plain.get_inputs()[0].name: region[..., : plain.get_inputs()[0].shape[-1]]}
    for one, other in zip(plain.run(None, inputs), rewritten.run(None, inputs), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("name", GPU_NETWORKS)
def test_a_network_for_graphics_processors_rounds_nothing_and_leaves_out_nothing_else(name: str) -> None:
    stored = (WEIGHTS / name).read_bytes()
    made = for_graphics(stored)
    assert len(made) <= 1.01 * len(stored)  # weights stay in 8 bits
    before, after = (_operations(data) for data in (stored, made))
    assert "QuantizeLinear" not in after
    for operation in ("Conv", "Relu", "Clip", "MatMul", "Resize"):
        assert after.count(operation) == before.count(operation)
    if name == "generator.onnx":
        return  # of random features it makes what its 8 bits do not reach; tests/web has its pictures
    plain, unrounded = (ort.InferenceSession(data, providers=["CPUExecutionProvider"]) for data in (stored, made))
    rng = np.random.default_rng(1)
    inputs = {}
    for wanted in plain.get_inputs():
        numbers = rng.random(wanted.shape, np.float32)
        inputs[wanted.name] = (255 * numbers).astype(np.uint8) if wanted.type == "tensor(uint8)" else numbers
    answers = (session.run(None, inputs) for session in (plain, unrounded))
    for wanted, found in zip(*answers, strict=True):
        # Random numbers are nothing that a network was made for: a wrong operation shows, a rounding hardly.
        spread = max(1e-3, float(np.abs(wanted.astype(np.float64) - wanted.mean()).mean()))
        assert float(np.abs(wanted.astype(np.float64) - found).mean()) < 0.25 * spread + 0.02


def test_a_convolution_of_channels_in_threes_gets_another_one_or_two() -> None:
    made = onnx.load_model_from_string(for_graphics((WEIGHTS / "generator.onnx").read_bytes()))
    shapes = {one.name: one.dims for one in made.graph.initializer}
    stored_as = {node.output[0]: node.input[0] for node in made.graph.node}
    for node in made.graph.node:
        if node.op_type != "Conv" or any(one.name == "group" and one.i != 1 for one in node.attribute):
            continue
        channels = shapes[stored_as.get(node.input[1], node.input[1])][1]
        assert channels == 3 or channels % 3 or channels % 4 == 0


def _operations(data: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(data).graph.node]
