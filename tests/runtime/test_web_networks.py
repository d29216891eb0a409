"""Networks rewritten for browsers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kilocall.runtime import web_files
from kilocall.runtime.web_files import NETWORK_FILES, WEIGHTS, for_browsers, rewritten_path
from kilocall.runtime.web_networks import rewrite

ort = pytest.importorskip("onnxruntime", reason="needs onnxruntime")


def test_every_network_is_rewritten_once_and_what_is_not_wanted_goes(tmp_path: Path) -> None:
    folder = tmp_path / "networks"
    count = rewrite(folder)
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert count == len(written) == sum(name.endswith(".onnx") for name in NETWORK_FILES)
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
