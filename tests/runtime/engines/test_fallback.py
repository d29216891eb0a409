from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from kilocall.model.engine_factory import make_engine
from kilocall.model.family import weights_folder
from kilocall.proto.errors import BadInput
from kilocall.runtime.engine import Array, Engine, Network, Port
from kilocall.runtime.engines.fallback import FallbackEngine, difference

MODEL = weights_folder() / "implicit.onnx"


class BadDriver(Engine):
    """OpenVINO as if behind a driver that fails at one step, or moves every point by `off`."""

    name = "webgpu"
    device_name = "a bad GPU"

    def __init__(self, fails: Literal["load", "hold", "run", "never"] = "never", off: float = 0.0) -> None:
        self.threads, self.reason, self.fails, self.off = 1, "test", fails, off
        self.real = make_engine("openvino", 1, "test")

    def load(self, model: Path) -> Network:
        if self.fails == "load":
            raise RuntimeError("device lost\nand more")
        return _BadNetwork(self, self.real.load(model))


class _BadNetwork:
    def __init__(self, driver: BadDriver, real: Network) -> None:
        self.driver, self.real, self.runs = driver, real, 0

    @property
    def inputs(self) -> tuple[Port, ...]:
        return self.real.inputs

    def bind_inputs(self, **inputs: Array) -> None:
        if self.driver.fails == "hold":
            raise RuntimeError("device lost")
        self.real.bind_inputs(**inputs)

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        made = self.real(**inputs)
        self.runs += 1
        if self.driver.fails == "run" and self.runs > 1:
            raise RuntimeError("device lost")
        return {name: (value + np.float32(self.driver.off)).astype(value.dtype) for name, value in made.items()}


def _guarded(driver: BadDriver) -> tuple[FallbackEngine, list[str]]:
    told: list[str] = []
    on_cpu = driver.real
    return FallbackEngine(driver, lambda: on_cpu, lambda: on_cpu, told.append), told


def _crop(seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)


def test_a_driver_that_works_goes_on() -> None:
    driver = BadDriver()
    engine, told = _guarded(driver)
    network = engine.load(MODEL)
    for seed in range(3):
        np.testing.assert_array_equal(
            network(crop=_crop(seed))["points"], driver.real.load(MODEL)(crop=_crop(seed))["points"]
        )
    assert (engine.name, engine.device_name, told) == ("webgpu", "a bad GPU", [])


def test_a_network_that_does_not_load_runs_on_the_cpu() -> None:
    engine, told = _guarded(BadDriver("load"))
    assert engine.load(MODEL)(crop=_crop())["points"].shape == (1, 5, 2)
    assert told == ["implicit.onnx does not load: device lost; openvino goes on"]
    assert (engine.name, engine.device_name) == ("openvino", "CPU")


def test_a_file_that_no_engine_reads_is_not_the_drivers_fault(tmp_path: Path) -> None:
    engine, told = _guarded(BadDriver())
    with pytest.raises(BadInput, match="does not exist"):
        engine.load(tmp_path / "face.onnx")
    assert told == []
    assert engine.name == "webgpu"


def test_a_driver_that_fails_later_loses_no_answer_and_all_networks_leave_it() -> None:
    driver = BadDriver("run")
    engine, told = _guarded(driver)
    first, second = engine.load(MODEL), engine.load(MODEL)
    second.bind_inputs(crop=_crop(2))
    wanted = driver.real.load(MODEL)
    for seed in (0, 1):
        np.testing.assert_array_equal(first(crop=_crop(seed))["points"], wanted(crop=_crop(seed))["points"])
    assert told == ["implicit.onnx does not run: device lost; openvino goes on"]
    np.testing.assert_array_equal(second()["points"], wanted(crop=_crop(2))["points"])
    np.testing.assert_array_equal(engine.load(MODEL)(crop=_crop())["points"], wanted(crop=_crop())["points"])
    assert len(told) == 1


def test_a_driver_that_fails_to_hold_an_input_is_left_with_it_held() -> None:
    engine, told = _guarded(BadDriver("hold"))
    network = engine.load(MODEL)
    network.bind_inputs(crop=_crop())
    assert network()["points"].shape == (1, 5, 2)
    assert len(told) == 1


@pytest.mark.parametrize(("pixels", "left"), [(0.05, False), (0.2, True), (float("nan"), True)])
def test_points_that_are_a_tenth_of_a_pixel_off_are_wrong_numbers(pixels: float, left: bool) -> None:
    driver = BadDriver(off=pixels * 2 / 64)  # the network sees 64x64 pixels
    engine, told = _guarded(driver)
    found = engine.load(MODEL)(crop=_crop())["points"]
    assert bool(told) == left
    if left:
        assert "implicit.onnx gives other numbers than the CPU: points by" in told[0]
        np.testing.assert_array_equal(found, driver.real.load(MODEL)(crop=_crop())["points"])


def test_inputs_that_do_not_fit_are_no_fault_of_the_driver() -> None:
    engine, told = _guarded(BadDriver())
    with pytest.raises(ValueError, match="input crop is missing"):
        engine.load(MODEL)()
    assert told == []


def test_pictures_may_differ_by_two_grey_levels_in_the_mean() -> None:
    grey = np.full((1, 8, 8, 3), 100, np.uint8)
    assert difference({"picture": grey + 2}, {"picture": grey}) is None
    assert difference({"picture": grey + 3}, {"picture": grey}) == (
        "picture by 3.0 grey levels in the mean, allowed are 2"
    )
    assert difference({}, {"picture": grey}) == "picture is missing or of another shape"


def test_a_gpu_given_up_is_said_once_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from kilocall.model import engine_choice as engines

    monkeypatch.setattr(engines, "given_up", {})
    monkeypatch.setattr(engines, "check_settings", lambda name, threads: None)
    with caplog.at_level(logging.WARNING, "kilocall"):
        engines.give_up("webgpu", "device lost")
        engines.give_up("webgpu", "device lost")
    assert [r.getMessage() for r in caplog.records] == ["engine webgpu is given up: device lost"]
    chosen = engines.choose_engine("webgpu", 1)
    assert chosen.name in ("openvino", "onnxruntime")
    assert chosen.reason == "webgpu was given up: device lost"
    assert "webgpu" not in engines.gpu_candidates()
