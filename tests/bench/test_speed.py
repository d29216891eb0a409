from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict

import pytest

from kilocall.bench.speed import StageTime, frames_per_second, measure_speed, timed
from kilocall.proto.errors import BadInput


def test_every_run_is_timed_after_a_warm_up() -> None:
    calls: list[int] = []
    times = timed(lambda: calls.append(1), 7)
    assert len(times) == 7
    assert len(calls) == 12
    assert (times >= 0).all()


@pytest.mark.slow
def test_speed_is_measured_for_every_stage_and_compared_with_torch() -> None:
    seen: list[tuple[int, int | None]] = []
    report = measure_speed(("openvino",), (1,), runs=2, progress=lambda done, total: seen.append((done, total)))
    (engine,) = report.engines
    assert (engine.engine, engine.threads) == ("openvino", 1)
    stages = {s.stage: s for s in engine.stages}
    assert set(stages) >= {"face", "second look", "eyes", "mouth", "implicit points", "appearance"}
    assert set(stages) >= {"motion field", "generator", "moving and mixing"}
    assert stages["moving on"].kind == "moved on"
    assert engine.receiver_fps < engine.moving_on_fps < frames_per_second(engine.stages, "moved on")
    assert set(stages) >= {"cutting", "alignment", "motion fit"}
    assert all(0 < s.median_ms <= s.p95_ms for s in engine.stages)
    with_torch = importlib.util.find_spec("torch") is not None
    assert (stages["generator"].times_torch is not None) == with_torch
    assert stages["motion fit"].times_torch is None
    assert engine.sender_fps == frames_per_second(engine.stages, "sender")
    assert seen == [(0, 1), (1, 1)]
    assert json.loads(json.dumps(asdict(report)))["engines"][0]["engine"] == "openvino"


def test_few_frames_need_the_second_look_and_a_source_picture_is_no_frame() -> None:
    stages = [
        StageTime("face", "sender", 6.0, 7.0, None),
        StageTime("second look", "sender", 8.0, 9.0, None),
        StageTime("appearance", "once", 50.0, 50.0, None),
        StageTime("generator", "receiver", 20.0, 25.0, None),
    ]
    assert frames_per_second(stages, "sender") == pytest.approx(1000 / 8.96)  # 6 ms and .37 of 8
    assert frames_per_second(stages, "receiver") == 50


@pytest.mark.parametrize(("engines", "threads", "runs"), [(("abacus",), (), 1), ((), (99,), 1), ((), (), 0)])
def test_settings_that_make_no_sense_are_refused(engines: tuple[str, ...], threads: tuple[int, ...], runs: int) -> None:
    with pytest.raises(BadInput):
        measure_speed(engines, threads, runs=runs)
