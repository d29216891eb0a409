from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from kilocall.cli.doctor import Diagnosis, diagnose
from kilocall.model.family import weights_folder
from kilocall.runtime.engine import GPU_ENGINES, how_to_install, installed_engines


def _weights(folder: Path) -> Path:
    """Two small files and a manifest that fits them."""
    files = {"face.onnx": b"face", "eye.onnx": b"eye"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    listed = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    (folder / "manifest.json").write_text(
        json.dumps({"family": "compact-256", "trained_steps": {"renderer": 7}, "files": listed})
    )
    return folder


def _value(diagnosis: Diagnosis, name: str) -> str:
    return next(f.value for s in diagnosis.sections for f in s.findings if f.name == name)


def test_a_whole_installation_is_healthy(tmp_path: Path) -> None:
    found = diagnose("openvino", 1, _weights(tmp_path))
    assert found.broken == ()
    assert found.exit_code == 0
    assert _value(found, "chosen") == "openvino on 1 thread (asked for)"
    assert _value(found, "trained steps") == "renderer 7"
    assert _value(found, "face.onnx").endswith("hash matches")


def test_every_engine_tells_how_long_its_networks_take_or_how_it_is_installed() -> None:
    section = next(s for s in diagnose("openvino", 1).sections if s.title == "engines")
    engines = {f.name: f for f in section.findings}
    for name, number in installed_engines().items():
        found = engines[name]
        if number is None:
            assert found.value == f"not installed: {how_to_install(name)}"
        elif found.state == "ok":
            assert set(found.milliseconds) == {file.stem for file in weights_folder().glob("*.onnx")}
            assert all(ms > 0 for ms in found.milliseconds.values())
            assert found.value.startswith(f"{number} on ")
        else:
            assert name in GPU_ENGINES, found.value
            assert "finds no GPU" in found.value or "driver does not work" in found.value
    assert engines["openvino"].state == "ok"


def test_a_changed_weights_file_is_named_and_fails(tmp_path: Path) -> None:
    folder = _weights(tmp_path)
    (folder / "eye.onnx").write_bytes(b"Eye")
    found = diagnose("openvino", 1, folder)
    assert [f.name for f in found.broken] == ["eye.onnx"]
    assert found.exit_code == 2


def test_a_missing_weights_file_fails(tmp_path: Path) -> None:
    folder = _weights(tmp_path)
    (folder / "face.onnx").unlink()
    assert [f.name for f in diagnose("openvino", 1, folder).broken] == ["face.onnx"]


@pytest.mark.parametrize("text", [None, "{", "[]", '{"family": "x"}'])
def test_a_missing_or_damaged_manifest_fails(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    assert [f.name for f in diagnose("openvino", 1, tmp_path).broken] == ["manifest"]


def test_an_engine_that_cannot_run_fails_and_is_explained(tmp_path: Path) -> None:
    found = diagnose("abacus", 1, _weights(tmp_path))
    assert [f.name for f in found.broken] == ["chosen"]
    assert "abacus" in found.broken[0].value
