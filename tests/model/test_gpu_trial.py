"""Trials of the CPU's engines against each other: a trial does not ask what an engine runs on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kilocall.model import gpu_trial
from kilocall.model.family import weights_folder
from kilocall.model.gpu_trial import Outcome, faster_gpu, try_engines
from kilocall.runtime.engine import EngineName


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """One small network of the packaged weights, with a manifest."""
    folder = tmp_path / "weights"
    folder.mkdir()
    shutil.copy(weights_folder() / "implicit.onnx", folder)
    # Of its own for every test: what was found of others in this process does not hold for them.
    (folder / "manifest.json").write_text(json.dumps({"made for": str(tmp_path)}))
    return folder


def _never(*args: object) -> Outcome:
    raise AssertionError("tried again")


def _keep(cache: Path, cpu: EngineName, weights: Path, **values: object) -> Path:
    """An outcome as a trial of openvino against `cpu` would have kept it."""
    key = gpu_trial.outcome_key(cpu, ["openvino"], 1, weights)
    outcome = {"key": key, "cpu": cpu, "cpu_ms": 10.0, "gpu_ms": {"openvino": 2.0}, "failed": {}, **values}
    cache.mkdir(exist_ok=True)
    file = cache / gpu_trial.outcome_file(key)
    file.write_text(json.dumps(outcome))
    return file


@pytest.mark.slow
def test_engines_are_timed_in_processes_of_their_own(weights: Path) -> None:
    pytest.importorskip("onnxruntime")
    found = try_engines("key", "openvino", ["onnxruntime"], 1, weights, limit_s=60)
    assert found.cpu_ms > 0
    assert found.gpu_ms["onnxruntime"] > 0
    assert found.failed == {}


@pytest.mark.slow
def test_an_engine_that_fails_or_is_not_ready_in_time_is_not_chosen(weights: Path) -> None:
    (weights / "implicit.onnx").write_bytes(b"not a network")
    found = try_engines("key", "openvino", ["openvino"], 1, weights, limit_s=60)
    assert "cannot be read by OpenVINO" in found.failed["openvino"]
    assert gpu_trial.choice_of(found).engine is None
    late = try_engines("key", "openvino", ["openvino"], 1, weights, limit_s=0.01)
    assert late.failed == {"openvino": "not ready within 0.01 s"}


@pytest.mark.parametrize(("gpu_ms", "chosen"), [(8.9, "openvino"), (9.1, None), (12.0, None)])
def test_a_gpu_must_be_a_tenth_faster(
    gpu_ms: float, chosen: str | None, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_trial, "try_engines", _never)
    _keep(tmp_path / "cache", "onnxruntime", weights, gpu_ms={"openvino": gpu_ms})
    found = faster_gpu("onnxruntime", ["openvino"], 1, weights, tmp_path / "cache")
    assert found.engine == chosen
    assert f"{gpu_ms:.1f} ms" in found.reason


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"key": "x"}', '{"key": "x", "cpu": "abacus", "cpu_ms": 1, "gpu_ms": {}, "failed": {}}']
)
def test_a_damaged_cache_is_ignored_and_replaced(
    text: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tried(key: str, cpu: EngineName, *rest: object) -> Outcome:
        return Outcome(key=key, cpu=cpu, cpu_ms=1.0, gpu_ms={}, failed={"openvino": "tried anew"})

    monkeypatch.setattr(gpu_trial, "try_engines", tried)
    file = _keep(tmp_path / "cache", "onnxruntime", weights)
    file.write_text(text)
    assert faster_gpu("onnxruntime", ["openvino"], 1, weights, tmp_path / "cache").reason == "openvino: tried anew"
    replaced = gpu_trial.kept_outcome(file.parent, gpu_trial.outcome_key("onnxruntime", ["openvino"], 1, weights))
    assert replaced is not None
    assert gpu_trial.choice_of(replaced).reason == "openvino: tried anew"
    # Nor is it tried again in this process, whatever becomes of the file.
    monkeypatch.setattr(gpu_trial, "try_engines", _never)
    file.unlink()
    assert faster_gpu("onnxruntime", ["openvino"], 1, weights, tmp_path / "cache").reason == "openvino: tried anew"


@pytest.mark.parametrize("values", [{"cpu_ms": -1.0}, {"cpu_ms": float("inf")}, {"key": "another machine"}])
def test_an_outcome_of_another_machine_or_without_sense_is_ignored(
    values: dict[str, object], weights: Path, tmp_path: Path
) -> None:
    file = _keep(tmp_path / "cache", "onnxruntime", weights, **values)
    assert gpu_trial.kept_outcome(file.parent, gpu_trial.outcome_key("onnxruntime", ["openvino"], 1, weights)) is None


def test_other_weights_or_threads_are_tried_anew(weights: Path) -> None:
    def key(threads: int) -> str:
        return gpu_trial.outcome_key("openvino", ["webgpu"], threads, weights)

    first = key(1)
    assert first == key(1)
    assert first != key(2)
    (weights / "manifest.json").write_text('{"files": {}}')
    assert first != key(1)
