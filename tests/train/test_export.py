from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from kilocall.model.compact.compose import Composer
from kilocall.model.compact.export_modules import ExportModule, Motion, Mouth, Painter, SourceAppearance
from kilocall.model.compact.family import CompactFamily
from kilocall.model.compact.renderer import Light
from kilocall.model.engine_choice import choose_engine
from kilocall.model.shape import fit_shape_model
from kilocall.proto.errors import BadInput
from kilocall.train.calibration import Inputs, run_module
from kilocall.train.checkpoint import read_checkpoint
from kilocall.train.export import export, put_codebook
from kilocall.train.quantise import LADDERS, write_float
from train.random_weights import (
    noise_data,
    random_extractor,
    random_motion,
    random_picture,
    random_renderer,
)

NETWORKS = ("face", "eye", "mouth", "implicit", "appearance", "field", "generator")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder of random networks, about ten seconds."""
    data = noise_data()
    shape, _ = fit_shape_model([data.points[data.clip(c).start : data.clip(c).stop] for c in range(3)], 28)
    out = tmp_path_factory.mktemp("export") / "compact-256"
    export(
        random_extractor().state_dict(),
        random_renderer().state_dict(),
        shape,
        None,
        out,
        data,
        trained_steps={"extractor": 1, "renderer": 2},
        calibration_pairs=2,
        check_pairs=1,
    )
    return out


@pytest.mark.parametrize("light", [Light(), Light(coarse=True), Light(True, True, True)])
def test_exported_field_and_generator_reproduce_torch(tmp_path: Path, light: Light) -> None:
    state = random_renderer(light).state_dict()
    features = run_module(SourceAppearance.from_state(state).eval(), {"picture": random_picture().numpy()})
    x_s, x_d, jacobian, interior = (t.numpy() for t in random_motion())
    given = {"motion_cue": features["motion_cue"], "x_s": x_s, "x_d": x_d, "jacobian": jacobian}
    wanted = run_module(Motion.from_state(state).eval(), given)
    made = _exported(Motion.from_state(state), tmp_path, given)
    np.testing.assert_allclose(made["displacement"], wanted["displacement"], atol=1e-4)
    np.testing.assert_allclose(made["gate"], wanted["gate"], atol=1e-3)
    assert np.abs(made["fine"].astype(int) - wanted["fine"]).max() <= 1
    painter = Painter.from_state(state).eval()
    moved = Composer(random_picture().numpy()[0], features, painter.examples()).move(wanted)
    given = {**moved, "x_d": x_d, "interior": interior}
    painted = _exported(painter, tmp_path, given)["painted"].astype(int)
    assert np.abs(painted - run_module(painter, given)["painted"]).max() <= 1


def _exported(module: ExportModule, folder: Path, inputs: Inputs) -> Inputs:
    write_float(module, folder / "network.onnx")
    session = ort.InferenceSession(str(folder / "network.onnx"))
    return dict(zip(module.outputs, session.run(list(module.outputs), inputs), strict=True))


def test_exported_file_names_no_place_of_the_machine_that_made_it(tmp_path: Path) -> None:
    write_float(Mouth.from_state(random_extractor().state_dict()), tmp_path / "mouth.onnx")
    data = (tmp_path / "mouth.onnx").read_bytes()
    assert b"/site-packages/" not in data
    assert str(Path(__file__).parents[2]).encode() not in data


@pytest.mark.slow
def test_export_writes_every_network_with_its_hash(weights: Path) -> None:
    manifest = json.loads((weights / "manifest.json").read_text())
    wanted = {f"{name}.onnx" for name in NETWORKS} | {f"{p}.safetensors" for p in ("shape", "extractor", "renderer")}
    assert set(manifest["files"]) == wanted
    assert {p.name for p in weights.iterdir()} == wanted | {"manifest.json"}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((weights / name).read_bytes()).hexdigest() == digest
    assert manifest["trained_steps"] == {"extractor": 1, "renderer": 2}
    assert set(manifest["precision"]) == set(LADDERS)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "torch"])
def test_exported_family_tracks_a_crop_on_every_engine(weights: Path, engine: str) -> None:
    family = CompactFamily(weights, choose_engine(engine, 1))
    track = family.track(np.ascontiguousarray(random_picture().numpy()[0]))
    reference = CompactFamily(weights, choose_engine("torch", 1)).track(random_picture().numpy()[0])
    # 8-bit convolutions of random weights move points by a few pixels; a mix-up of channels moves them by half a crop.
    assert np.abs(track.points - reference.points).mean() < 8 / 128


@pytest.mark.slow
def test_a_file_that_does_not_match_the_manifest_is_refused(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(weights, folder)
    with (folder / "face.onnx").open("ab") as file:
        file.write(b"\0")
    family = CompactFamily(folder, choose_engine("openvino", 1))
    with pytest.raises(BadInput, match=r"face\.onnx does not match the manifest"):
        family.track(random_picture().numpy()[0])


@pytest.mark.slow
def test_a_failed_export_leaves_the_folder_as_it_was(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(weights, folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    state = random_extractor().state_dict()
    del state["mouth.head.score.weight"]
    data = noise_data()
    shape, _ = fit_shape_model([data.points[:12], data.points[12:24]], 28)
    with pytest.raises(BadInput, match="extractor weights do not fit network mouth"):
        export(state, random_renderer().state_dict(), shape, None, folder, data, trained_steps={})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.slow
def test_a_codebook_joins_the_manifest(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(weights, folder)
    (tmp_path / "made.safetensors").write_bytes(b"codebook")
    put_codebook(tmp_path / "made.safetensors", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"]["codebook.safetensors"] == hashlib.sha256(b"codebook").hexdigest()
    assert manifest["files"]["face.onnx"] == hashlib.sha256((folder / "face.onnx").read_bytes()).hexdigest()


def test_a_checkpoint_that_is_missing_or_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        read_checkpoint(tmp_path / "checkpoint.pt")
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(BadInput, match="is no training checkpoint"):
        read_checkpoint(tmp_path / "checkpoint.pt")
