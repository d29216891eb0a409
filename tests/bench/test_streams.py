from __future__ import annotations

import json
import time

import pytest

from kilocall.bench.streams import Stream, in_real_time, largest, measure_streams
from kilocall.cli import run
from kilocall.proto.errors import BadInput


@pytest.mark.parametrize("most", [1, 2, 3, 7, 8, 100])
def test_largest_number_is_found_with_few_trials(most: int) -> None:
    for bound in range(most + 3):
        tried: list[int] = []

        def holds(count: int, bound: int = bound, tried: list[int] = tried) -> bool:
            tried.append(count)
            return count <= bound

        assert largest(holds, most) == min(bound, most)
        assert len(tried) == len(set(tried)) <= 2 * most.bit_length()
        assert max(tried) <= most


def test_both_sides_are_measured() -> None:
    # A frame a second is idleness, on a loaded machine too.
    slow = measure_streams(2, ("openvino",), fps=1, seconds=3)
    assert [(one.side, one.at_once, one.tried) for one in slow.speeds] == [("receiver", 2, 2), ("sender", 2, 2)]
    assert all(one.fps_alone > 1 and one.first_s > 0 and one.memory_mb is not None for one in slow.speeds)


def test_a_stream_that_is_late_in_the_end_does_not_hold() -> None:
    quick = Stream([lambda: None] * 3)
    slow = Stream([lambda: time.sleep(0.5)] * 3)
    assert in_real_time([quick, quick], 2)
    assert not in_real_time([quick, slow], 20)
    # Late once, but not in the end.
    waits = iter((0.6, 0.0, 0.0, 0.0))
    assert in_real_time([Stream([lambda: time.sleep(next(waits))] * 4)], 2)


def test_command_prints_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "speed", "--streams", "1", "--engine", "openvino", "--threads", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["side"] for one in found["speeds"]] == ["receiver", "sender"]
    assert all(0 <= one["at_once"] <= 1 for one in found["speeds"])


def test_a_stream_too_slow_for_real_time_is_measured_on_a_few_frames() -> None:
    done: list[float] = []

    def step() -> None:
        time.sleep(0.1)
        done.append(time.perf_counter())

    fps, frames = Stream([step] * 50).alone(0.05)
    assert len(done) == frames == 3
    assert 0 < fps <= 10
    quick = Stream([lambda: None] * 50)
    assert quick.alone(60)[1] == 50


@pytest.mark.parametrize(("most", "fps"), [(0, 25), (1000, 25), (1, 0.5), (1, 100)])
def test_settings_that_make_no_sense_are_refused(most: int, fps: float) -> None:
    with pytest.raises(BadInput, match="allowed are"):
        measure_streams(most, fps=fps)
