"""The rate that a thread holds, from pictures whose times are written out or come of a model of two cores."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from kilocall.runtime.pace import LADDER, EvenSteps, Pace, frames_in_message, rungs

SECOND_US = 1_000_000


def work(
    pace: Pace,
    seconds: float,
    each_s: float | Callable[[], float],
    *,
    start_us: int = 0,
    own: float = 1.0,
    come: float = 99,
) -> list[tuple[float, float]]:
    """Pictures at the pace's rate, or at `come` a second if that is less; changes as (seconds, rate)."""
    changes: list[tuple[float, float]] = []
    at_us = float(start_us)
    while at_us < start_us + seconds * SECOND_US:
        wall_s = each_s() if callable(each_s) else each_s
        if pace.done(round(at_us + 1e6 * wall_s), wall_s, own * wall_s):
            changes.append((at_us / 1e6, pace.fps))
        at_us += max(1e6 / min(pace.fps, come), 1e6 * wall_s)
    return changes


@pytest.mark.parametrize(("fps", "expected"), [(25, LADDER), (30, (30, *LADDER)), (12, (12, 10, 8, 6, 5)), (4, (4,))])
def test_rates_to_choose_from_are_the_wanted_one_and_lower_ones(fps: float, expected: tuple[float, ...]) -> None:
    assert rungs(fps) == expected


@pytest.mark.parametrize(
    ("each_ms", "fps"), [(10, 25), (35, 25), (40, 20), (50, 15), (65, 12.5), (80, 10), (105, 8), (140, 6), (700, 5)]
)
def test_the_rate_is_the_highest_that_leaves_head_room(each_ms: float, fps: float) -> None:
    pace = Pace()
    changes = work(pace, 9, each_ms / 1000)
    assert pace.fps == fps
    assert not changes or changes[0][0] < 1.5
    assert len(changes) <= 4


def test_one_picture_that_takes_long_changes_nothing() -> None:
    pace = Pace()
    times = iter([0.02] * 40 + [0.5] + [0.02] * 40)
    assert work(pace, 3, lambda: next(times)) == []


def test_it_climbs_one_rung_in_four_seconds_when_the_load_has_gone() -> None:
    pace = Pace()
    work(pace, 3, 0.07)
    assert pace.fps == 12.5
    changes = work(pace, 20, 0.01, start_us=3 * SECOND_US)
    assert [rate for _, rate in changes] == [15, 20, 25]
    assert all(3.5 < later - sooner < 5.5 for (sooner, _), (later, _) in pairwise([(1.0, 12.5), *changes]))


def test_a_rung_that_fails_is_tried_after_longer_each_time() -> None:
    pace = Pace()
    # At 15 a second others leave room, so that 20 seem to fit; there everything takes longer, and they do not.
    changes = work(pace, 160, lambda: 0.034 if pace.fps <= 15 else 0.047)
    tries = [at for at, rate in changes if rate == 20 and at > 2]
    waits = [later - sooner for sooner, later in pairwise(tries)]
    assert len(tries) >= 4
    assert all(later > 1.6 * sooner for sooner, later in pairwise(waits))


def test_a_rate_that_is_not_used_is_not_raised() -> None:
    """Another side asks for 10: nothing is learned about 15."""
    pace = Pace()
    work(pace, 3, 0.07)
    assert work(pace, 60, 0.03, start_us=3 * SECOND_US, come=8) == []
    assert pace.fps == 12.5


def test_left_out_pictures_of_a_busy_thread_count_and_those_of_an_idle_one_do_not() -> None:
    for each_s, expected in ((0.03, 15.0), (0.01, 25.0)):
        pace = Pace()
        for number in range(60):
            pace.done(number * 80_000, each_s, each_s, left_out=1)
        assert pace.fps <= expected
        assert (pace.fps == 25) == (expected == 25)


def test_what_limits_is_told_by_the_time_on_the_processor() -> None:
    for own, expected in ((0.95, "processor"), (0.85, "processor"), (0.5, "other programs")):
        pace = Pace()
        assert pace.bound == "none"
        work(pace, 4, 0.07, own=own)
        assert pace.bound == expected


def test_threads_that_wait_for_each_other_only_at_the_higher_rate_are_no_slow_processor() -> None:
    pace = Pace()
    work(pace, 1.4, 0.07, own=0.5)
    assert pace.fps < 25
    work(pace, 2, 0.04, own=1.0, start_us=2 * SECOND_US)
    assert pace.bound == "other programs"
    # Once it has climbed without waiting, what is left to blame is the processor.
    work(pace, 5, 0.04, own=1.0, start_us=4 * SECOND_US)
    assert 12.5 < pace.fps < 25
    work(pace, 12, 0.04, own=1.0, start_us=9 * SECOND_US)
    assert pace.bound in ("processor", "none")


@pytest.mark.parametrize("cpu_ms", [12, 25, 35, 50, 70])
def test_four_threads_on_two_cores_come_to_rest(cpu_ms: float) -> None:
    """Both parties of a call: each sender's rate is the lower of its own and what the other's receiver holds."""
    random = np.random.default_rng(1)
    senders, receivers = [Pace(), Pace()], [Pace(), Pace()]
    due_us = [0.0] * 4
    changes: list[float] = []
    now_us = 0
    while now_us < 300 * SECOND_US:
        rates = [min(senders[side].fps, receivers[1 - side].fps) for side in (0, 1)]
        # So many seconds of work a second on two cores; what is too much makes everything take longer.
        load = sum(2 * rate * cpu_ms / 1000 for rate in rates) / 2
        for place, pace in enumerate((*senders, *receivers)):
            rate = rates[place % 2] if place < 2 else rates[1 - place % 2]
            if now_us >= due_us[place]:
                wall_s = cpu_ms / 1000 * max(1.0, load, 0.5 + load) * random.uniform(0.9, 1.2)
                due_us[place] = max(due_us[place] + 1e6 / rate, now_us - 50_000 + 1e6 * wall_s)
                if pace.done(now_us, wall_s, cpu_ms / 1000):
                    changes.append(now_us / 1e6)
        now_us += 10_000
    assert sum(at > 150 for at in changes) <= 6
    used = [min(senders[side].fps, receivers[1 - side].fps) for side in (0, 1)]
    # Two cores make so many pictures of this kind for all four, and a good part of them is made.
    possible = min(25.0, 2 / (4 * cpu_ms / 1000))
    assert all(rate >= min(5.0, 0.5 * possible) for rate in used)


def spacings(camera_ms: float, fps: float, jitter_ms: float = 0.0) -> np.ndarray:
    """Milliseconds between the frames taken in 20 s, without the first second."""
    random = np.random.default_rng(2)
    steps = EvenSteps()
    count = int(20_000 / camera_ms)
    times = [round(1000 * (n * camera_ms + random.uniform(-jitter_ms, jitter_ms))) for n in range(count)]
    taken = [time_us for time_us in times if steps.take(time_us, fps)]
    return np.diff([time_us / 1000 for time_us in taken if time_us > 1_000_000])


@pytest.mark.parametrize(
    ("fps", "allowed"),
    [(25, {40}), (20, {40, 80}), (15, {80, 40}), (12.5, {80}), (10, {80, 120}), (8, {120, 160}), (5, {200})],
)
def test_every_rate_is_as_even_as_the_camera_allows(fps: float, allowed: set[int]) -> None:
    found = spacings(40, fps)
    assert set(found.round().astype(int)) <= allowed
    assert 1000 / found.mean() == pytest.approx(fps, rel=0.01)  # a step more or less


@pytest.mark.parametrize("fps", [20, 15, 12.5, 10, 8, 6, 5])
def test_no_step_is_missed_or_doubled_when_the_camera_trembles(fps: float) -> None:
    found = spacings(40, fps, jitter_ms=4)
    assert 1000 / found.mean() == pytest.approx(fps, rel=0.01)  # a step more or less
    assert np.abs(found - 1000 / fps).max() < 50


def test_half_the_frames_of_a_trembling_camera_are_every_second_one() -> None:
    assert spacings(40, 12.5, jitter_ms=5).std() < 5


def test_left_out_steps_are_counted_but_not_over_a_pause() -> None:
    steps = EvenSteps()
    taken = [(steps.take(ms * 1000, 12.5), steps.left_out) for ms in (0, 80, 240, 480, 9000)]
    assert taken == [(True, 0), (True, 0), (True, 1), (True, 2), (True, 0)]


def test_a_clock_that_begins_anew_is_followed() -> None:
    steps = EvenSteps()
    assert [steps.take(ms * 1000, 12.5) for ms in (90_000, 90_080, 0, 40, 80)] == [True, True, True, False, True]


@pytest.mark.parametrize(
    ("planned", "planned_fps", "fps", "expected"),
    [(3, 25, 25, 3), (3, 25, 20, 2), (3, 25, 12.5, 2), (3, 25, 10, 1), (3, 25, 5, 1), (6, 25, 12.5, 3), (4, 12, 25, 4)],
)
def test_messages_hold_fewer_frames_at_lower_rates(planned: int, planned_fps: float, fps: float, expected: int) -> None:
    assert frames_in_message(planned, planned_fps, fps) == expected


@pytest.mark.parametrize("fps", LADDER)
@pytest.mark.parametrize("planned", range(1, 9))
def test_no_frame_waits_longer_for_others_than_planned_and_half_a_period(fps: float, planned: int) -> None:
    frames = frames_in_message(planned, 25, fps)
    assert (frames - 1) / fps <= (planned - 1) / 25 + 0.02 + 1e-9
    assert fps / frames <= 1.2 * 25 / planned + 1e-9 or frames == 1
