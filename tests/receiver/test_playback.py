"""The stream's clock, seeking by key packets, and a thread that nobody waits for in vain."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kilocall.proto.errors import BadInput
from kilocall.receiver.playback import FrameCursor, Playback, PlaybackState, Playhead, Shown
from kilocall.receiver.render import View

FRAME_US = 40_000


class Clock:
    """Microseconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


class Watched:
    """A running playback and what it showed."""

    def __init__(self, replay_stream: Any) -> None:
        self.clock = Clock()
        self.pictures: queue.Queue[Shown] = queue.Queue()
        self.states: queue.Queue[PlaybackState] = queue.Queue()
        self.playback = Playback(replay_stream, on_shown=self.pictures.put, on_state=self.states.put, clock=self.clock)
        self.playback.start()

    def next(self) -> Shown:
        return self.pictures.get(timeout=5)

    def advance(self, by_us: int) -> None:
        """Once all commands so far are fulfilled, time passes and the thread looks at the clock."""
        self.playback.ask(lambda: None).result(5)
        self.clock.now += by_us
        self.playback.ask(lambda: None).result(5)


@pytest.fixture
def watched(replay_stream: Any) -> Iterator[Watched]:
    watched = Watched(replay_stream)
    yield watched
    watched.playback.close()


def test_stream_time_follows_the_clock_at_the_chosen_speed() -> None:
    head = Playhead(10_000_000)
    head.play(1_000_000)
    assert head.position(3_000_000) == 2_000_000
    head.set_speed(0.5, 3_000_000)
    assert head.position(5_000_000) == 3_000_000
    assert head.wait_s(4_000_000, 5_000_000) == 2.0


def test_pause_holds_the_place_and_play_goes_on_from_it() -> None:
    head = Playhead(10_000_000)
    head.play(0)
    head.pause(2_000_000)
    assert head.position(9_000_000) == 2_000_000
    assert head.wait_s(3_000_000, 9_000_000) is None
    head.play(9_000_000)
    assert head.position(9_500_000) == 2_500_000


def test_the_end_stops_or_begins_again() -> None:
    head = Playhead(1_000_000)
    head.play(0)
    assert not head.turn_at_end(999_999)
    assert head.turn_at_end(1_000_000)
    assert not head.playing
    assert head.position(2_000_000) == 1_000_000
    head.play(2_000_000)
    assert head.position(2_000_000) == 0
    head.loop = True
    assert head.turn_at_end(3_000_000)
    assert head.playing
    assert head.position(3_100_000) == 100_000


@pytest.mark.parametrize("speed", [0.0, -1.0, 100.0, float("nan")])
def test_a_speed_out_of_range_is_refused(speed: float) -> None:
    with pytest.raises(BadInput, match=r"allowed is 0\.1 to 4"):
        Playhead(1).set_speed(speed, 0)


def test_the_cursor_gives_the_frame_on_screen_at_a_time(replay_stream: Any) -> None:
    cursor = FrameCursor(replay_stream)
    seen = [cursor.at(us) for us in (0, FRAME_US - 1, FRAME_US, 10 * FRAME_US + 5, 10**9)]
    assert [round(motion.motion.translation[0]) for motion in seen if motion] == [0, 0, 1, 10, 59]
    assert cursor.next_us is None


def test_going_on_never_starts_anew_and_going_back_starts_at_the_key_packet(replay_stream: Any) -> None:
    cursor = FrameCursor(replay_stream)
    for us in range(0, 2_400_000, FRAME_US):
        cursor.at(us)
    assert replay_stream.starts == [0]
    cursor.at(1_900_000)
    assert replay_stream.starts == [0, 1_200_000]
    cursor.at(100_000)
    assert replay_stream.starts == [0, 1_200_000, 0]


def test_a_far_jump_skips_to_a_key_packet(write_stream: Callable[..., Path], replay_stream: Any) -> None:
    long = type(replay_stream)(write_stream(packets=100))
    cursor = FrameCursor(long)
    cursor.at(0)
    found = cursor.at(11_000_000)
    assert found is not None
    assert found.time_us == 11_000_000
    assert long.starts == [0, 10_800_000]


def test_every_frame_is_shown_when_there_is_time(watched: Watched) -> None:
    assert watched.next().frame == 1
    watched.playback.play()
    for number in range(2, 11):
        watched.advance(FRAME_US)
        shown = watched.next()
        assert (shown.frame, shown.time_us) == (number, (number - 1) * FRAME_US)
        assert shown.bits_per_frame == 8 * 12 / 3
        assert shown.rgb[0, 0, 0] == number - 1


def test_a_late_model_loses_frames_and_no_time(watched: Watched) -> None:
    watched.next()
    watched.playback.play()
    watched.advance(7 * FRAME_US)
    assert watched.next().frame == 8
    assert watched.pictures.empty()


def test_the_head_turns_while_it_stands_still(watched: Watched) -> None:
    assert watched.next().rgb[0, 0, 0] == 0
    watched.playback.set_view(View(yaw=30))
    turned = watched.next()
    assert (turned.frame, turned.rgb[0, 0, 0]) == (1, 30)
    assert watched.playback.state.view == View(yaw=30)


def test_another_source_is_shown_and_keeps_the_view(watched: Watched) -> None:
    watched.next()
    watched.playback.set_view(View(yaw=5))
    watched.next()
    watched.playback.show(lambda: np.full((32, 32, 3), 100, np.uint8), "anna.jpg").result(5)
    assert watched.next().rgb[0, 0, 0] == 105
    state = watched.playback.state
    assert (state.source, state.relative, state.source_number) == ("anna.jpg", True, 1)
    assert state.pictures == 1


def test_a_picture_without_a_face_changes_nothing(watched: Watched) -> None:
    watched.next()
    with pytest.raises(BadInput, match="no face"):
        watched.playback.show(lambda: np.zeros((32, 32, 3), np.uint8), "wall.jpg").result(5)
    state = watched.playback.state
    assert (state.source, state.relative, state.source_number) == (None, False, 0)
    assert watched.playback.alive


def test_nothing_is_rendered_while_nobody_watches(watched: Watched, replay_stream: Any) -> None:
    watched.next()
    watched.playback.play()
    watched.playback.watch(False)
    before = len(replay_stream.renderer.rendered)
    watched.advance(10 * FRAME_US)
    assert len(replay_stream.renderer.rendered) == before
    watched.playback.watch(True)
    watched.playback.play()
    watched.advance(FRAME_US)
    assert watched.next().frame <= 3


def test_a_broken_model_is_reported_and_nobody_waits(watched: Watched, replay_stream: Any) -> None:
    watched.next()
    replay_stream.renderer.fails = True
    watched.playback.set_view(View(yaw=1))
    until = time.monotonic() + 5
    while watched.playback.alive:
        assert time.monotonic() < until
        time.sleep(0.001)
    assert watched.playback.state.problem == "RuntimeError: the model broke"
    assert watched.playback.ask(lambda: 1).cancelled()


def test_closing_cancels_what_was_not_done(replay_stream: Any) -> None:
    watched = Watched(replay_stream)
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        go_on.wait(5)

    watched.playback.ask(hold)
    assert inside.wait(5)
    never = watched.playback.ask(lambda: 1)
    closing = threading.Thread(target=watched.playback.close)
    closing.start()
    while not watched.playback.ask(lambda: None).cancelled():  # until it closes
        time.sleep(0.001)
    go_on.set()
    closing.join(5)
    assert never.cancelled()
    assert not watched.playback.alive


def test_a_stream_without_frames_is_refused(write_stream: Callable[..., Path], replay_stream: Any) -> None:
    with pytest.raises(BadInput, match="no complete motion packet"):
        Playback(type(replay_stream)(write_stream(packets=0)), on_shown=lambda shown: None)
