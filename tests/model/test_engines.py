from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kilocall.model.compact.family import CompactFamily
from kilocall.model.engine_choice import choose_engine, gpu_candidates
from kilocall.model.family import weights_folder
from kilocall.proto.errors import BadInput
from kilocall.runtime.engine import ENGINES, Engine, EngineName, Network, installed_engines
from kilocall.runtime.machine import intel_compute, physical_cores

FILE_ENGINES: tuple[EngineName, ...] = ("openvino", "onnxruntime")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """implicit.onnx (one input), field.onnx and generator.onnx (several) of random weights, and the tensors that torch
    reads."""
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from safetensors.torch import save_file

    from kilocall.model.compact.export_modules import Implicit, Motion, Painter, SourceAppearance
    from kilocall.train.quantise import write_float
    from train.random_weights import random_renderer

    folder = tmp_path_factory.mktemp("networks")
    state = {k: v for k, v in random_renderer().state_dict().items() if v.is_floating_point()}
    save_file(state, folder / "renderer.safetensors")
    write_float(Implicit.from_state(state), folder / "implicit.onnx")
    write_float(SourceAppearance.from_state(state), folder / "appearance.onnx")
    write_float(Motion.from_state(state), folder / "field.onnx")
    write_float(Painter.from_state(state), folder / "generator.onnx")
    return folder


def _engine(name: str) -> Engine:
    pytest.importorskip(name)
    return choose_engine(name, 1)


def _crop(seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)


def test_unknown_engine_is_refused_and_the_installed_ones_are_named() -> None:
    with pytest.raises(BadInput, match=r"'tensorrt'.*auto, openvino, onnxruntime, torch.*installed: openvino"):
        choose_engine("tensorrt")


@pytest.mark.parametrize("threads", [-1, 65])
def test_thread_count_outside_its_range_is_refused(threads: int) -> None:
    with pytest.raises(BadInput, match=f"threads is {threads}"):
        choose_engine("openvino", threads)


def test_zero_threads_means_the_physical_cores_but_at_most_four() -> None:
    assert choose_engine("openvino", 0).threads == min(4, physical_cores())
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)


def test_automatic_choice_is_installed_and_says_why() -> None:
    engine = choose_engine("auto", 1)
    assert installed_engines()[engine.name] is not None
    assert engine.reason


@pytest.mark.parametrize("name", FILE_ENGINES)
def test_missing_and_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    engine = _engine(name)
    with pytest.raises(BadInput, match="does not exist"):
        engine.load(tmp_path / "face.onnx")
    (tmp_path / "face.onnx").write_bytes(b"not a network")
    with pytest.raises(BadInput, match="cannot be read"):
        engine.load(tmp_path / "face.onnx")


def test_torch_refuses_networks_that_it_does_not_know_and_weights_that_are_missing(tmp_path: Path) -> None:
    engine = _engine("torch")
    with pytest.raises(BadInput, match=r"'nose' is unknown.*face, eye"):
        engine.load(tmp_path / "nose.onnx")
    with pytest.raises(BadInput, match=r"renderer\.safetensors cannot be used"):
        engine.load(tmp_path / "implicit.onnx")


def test_engines_agree(networks: Path) -> None:
    found = {name: _engine(name).load(networks / "implicit.onnx")(crop=_crop())["points"] for name in ENGINES}
    assert found["torch"].shape == (1, 5, 2)
    assert np.ptp(found["torch"]) > 1e-3, "the random network must say something"
    for name in FILE_ENGINES:
        np.testing.assert_allclose(found[name], found["torch"], atol=1e-4)


@pytest.mark.parametrize("name", ENGINES)
def test_engines_render_alike_with_held_features(networks: Path, name: str) -> None:
    from kilocall.model.compact.compose import Composer
    from train.random_weights import random_motion, random_picture

    x_s, x_d, jacobian, interior = (t.numpy() for t in random_motion())
    picture = random_picture().numpy()
    pictures = []
    for engine in (_engine(name), _engine("torch")):
        features = engine.load(networks / "appearance.onnx")(picture=picture)
        field = engine.load(networks / "field.onnx")
        field.bind_inputs(motion_cue=features["motion_cue"], x_s=x_s)
        found = field(x_d=x_d, jacobian=jacobian)
        painter = engine.load(networks / "generator.onnx")
        composer = Composer(picture[0], features, [port.name for port in painter.inputs])
        painted = painter(**composer.move(found), x_d=x_d, interior=interior)["painted"]
        pictures.append(composer.mix(painted, found["gate"])[0].astype(int))
    assert pictures[0].shape == (256, 256, 3)
    # One grey level of rounding; a pixel that falls on the other side of a source pixel's edge may differ by more.
    difference = np.abs(pictures[0] - pictures[1])
    assert (difference > 1).mean() < 5e-3
    assert difference.mean() < 0.05


@pytest.mark.parametrize("name", ENGINES)
def test_held_inputs_are_the_networks_own(networks: Path, name: str) -> None:
    engine = _engine(name)
    first, second = engine.load(networks / "implicit.onnx"), engine.load(networks / "implicit.onnx")
    crop = _crop(1)
    first.bind_inputs(crop=crop)
    second.bind_inputs(crop=_crop(2))
    crop[:] = 0  # what the caller does later must not matter
    np.testing.assert_array_equal(first()["points"], engine.load(networks / "implicit.onnx")(crop=_crop(1))["points"])
    assert not np.array_equal(first()["points"], second()["points"])


@pytest.mark.parametrize("name", ENGINES)
def test_outputs_belong_to_the_caller(networks: Path, name: str) -> None:
    network = _engine(name).load(networks / "implicit.onnx")
    points = network(crop=_crop(1))["points"]
    kept = points.copy()
    network(crop=_crop(2))
    np.testing.assert_array_equal(points, kept)


@pytest.mark.parametrize("name", ENGINES)
def test_inputs_that_do_not_fit_are_refused(networks: Path, name: str) -> None:
    network = _engine(name).load(networks / "implicit.onnx")
    assert [(p.name, p.shape, p.dtype) for p in network.inputs] == [("crop", (1, 64, 64, 3), np.dtype(np.uint8))]
    with pytest.raises(ValueError, match="input crop is missing"):
        network()
    with pytest.raises(ValueError, match="no input 'picture'"):
        network(picture=_crop())
    with pytest.raises(ValueError, match=r"crop is float32 \[1, 64, 64, 3\], wanted is uint8"):
        network(crop=_crop().astype(np.float32))
    with pytest.raises(ValueError, match=r"crop is uint8 \[64, 64, 3\]"):
        network(crop=_crop()[0])
    network.bind_inputs(crop=_crop())
    with pytest.raises(ValueError, match="input crop is held already"):
        network(crop=_crop())


def test_compiled_networks_are_kept_by_content_and_a_damaged_cache_does_no_harm(networks: Path, tmp_path: Path) -> None:
    from kilocall.runtime.engines.openvino import OpenVinoEngine

    weights, cache = tmp_path / "weights", tmp_path / "cache"
    weights.mkdir()
    (weights / "implicit.onnx").write_bytes((networks / "implicit.onnx").read_bytes())

    def points() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return OpenVinoEngine(1, "test", cache).load(weights / "implicit.onnx")(crop=_crop())["points"]

    plain = points()
    assert not cache.exists(), "a file outside a weights folder is not worth keeping"
    (weights / "manifest.json").write_text(json.dumps({}))
    np.testing.assert_array_equal(points(), plain)
    blobs = list(cache.glob("implicit-*/*.blob"))
    assert len(blobs) == 1
    blobs[0].write_bytes(blobs[0].read_bytes()[:1000])
    np.testing.assert_array_equal(points(), plain)


def test_a_processor_without_avx2_is_told_what_openvino_lacks() -> None:
    code = (
        "import pathlib\n"
        "from kilocall.model.family import weights_folder\n"
        "from kilocall.model.engine_choice import choose_engine\n"
        "print(choose_engine('auto', 1).name)\n"
        "choose_engine('openvino', 1).load(weights_folder() / 'implicit.onnx')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        text=True,
        capture_output=True,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "SSE41", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("only x86 has AVX2")
    last = done.stderr.strip().splitlines()[-1]
    assert "BadInput: network" in last
    assert "cannot run in OpenVINO: the processor has no AVX2; choose --engine onnxruntime" in last
    assert done.stdout.strip() == ("openvino" if installed_engines()["onnxruntime"] is None else "onnxruntime")


class Counted(Engine):
    """Another engine, and how often it loaded which network."""

    def __init__(self, real: Engine, device_name: str) -> None:
        self.name, self.threads, self.reason, self.device_name = real.name, real.threads, real.reason, device_name
        self.real, self.loaded = real, list[str]()

    def load(self, model: Path) -> Network:
        self.loaded.append(model.stem)
        return self.real.load(model)


@pytest.mark.parametrize(("device_name", "loaded"), [("CPU", 2), ("a GPU", 1)])
def test_the_appearance_network_is_kept_where_loading_takes_long(device_name: str, loaded: int) -> None:
    engine = Counted(choose_engine("auto", 1), device_name)
    family = CompactFamily(weights_folder(), engine)
    picture = np.zeros((256, 256, 3), np.uint8)
    first, second = family.appearance(picture), family.appearance(picture)
    assert engine.loaded == ["appearance"] * loaded
    np.testing.assert_array_equal(first["motion_cue"], second["motion_cue"])


def test_landmarks_are_the_same_where_there_is_no_avx_512(tmp_path: Path) -> None:
    """8-bit networks saturate where there is no VNNI; that of the whole face is float, and stays it."""
    code = (
        "import sys\n"
        "import numpy as np\n"
        "from kilocall.model.family import weights_folder\n"
        "from kilocall.model.engine_factory import make_engine\n"
        "engine = make_engine('openvino', 1, 'test')\n"
        "for path in sorted(weights_folder().glob('*.onnx')):\n"
        "    engine.load(path)\n"
        "crop = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), np.uint8)\n"
        "face = engine.load(weights_folder() / 'face.onnx')(crop=crop)\n"
        "np.savez(sys.argv[1], **face)\n"
    )
    if platform.machine().lower() not in ("x86_64", "amd64") or installed_engines()["openvino"] is None:
        pytest.skip("only OpenVINO on x86 computes in AVX2 or in AVX-512; needs pip install openvino")
    found = []
    for number, held in enumerate(({}, {"ONEDNN_MAX_CPU_ISA": "AVX2"})):
        file = tmp_path / f"{number}.npz"
        env = {**os.environ, **held, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", code, file], check=True, env=env)
        with np.load(file) as stored:
            found.append(dict(stored))
    for name, value in found[0].items():
        np.testing.assert_allclose(value, found[1][name], atol=1e-4, rtol=1e-4, err_msg=name)


def test_a_gpu_engine_is_no_candidate_without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from kilocall.runtime import machine

    if sys.platform != "linux":
        pytest.skip("macOS and Windows say otherwise which adapters there are")
    monkeypatch.setattr(machine, "DRM", tmp_path)
    if not Path("/dev/dxg").exists():
        assert machine.graphics() == ()
        assert gpu_candidates() == ()
    device = tmp_path / "renderD128" / "device"
    device.mkdir(parents=True)
    (device / "uevent").write_text("DRIVER=i915\nPCI_ID=8086:46A6\n")
    assert machine.graphics()[0] == "DRIVER=i915 PCI_ID=8086:46A6"
    opencl = tmp_path / "opencl"
    monkeypatch.setattr(machine, "OPENCL_DRIVERS", opencl)
    assert not machine.intel_compute()
    opencl.mkdir()
    (opencl / "intel.icd").touch()
    assert machine.intel_compute()
    assert "openvino-gpu" in gpu_candidates()


def test_openvinos_gpu_engine_tells_what_it_needs() -> None:
    if intel_compute():
        pytest.skip("this machine may have a GPU that OpenVINO can use")
    with pytest.raises(BadInput, match=r"engine openvino-gpu finds no GPU \(.*it needs an Intel GPU"):
        choose_engine("openvino-gpu", 1)


def test_choosing_openvino_loads_no_telemetry(tmp_path: Path) -> None:
    code = (
        "import sys; from kilocall.model.engine_choice import choose_engine;"
        "assert not {'openvino', 'onnxruntime', 'torch', 'onnx'} & set(sys.modules), 'engines load when chosen';"
        "choose_engine('openvino', 1); assert 'openvino' in sys.modules;"
        "assert not any(m.split('.')[0] == 'openvino_telemetry' for m in sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert list(tmp_path.iterdir()) == [], "an identity was written to the home folder"
