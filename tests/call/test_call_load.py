from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from kilocall.call.call_load import CallLoad
from kilocall.receiver.jitter_buffer import JitterBuffer
from kilocall.receiver.render_rate import RenderRate
from kilocall.runtime.pace import Pace
from kilocall.runtime.worker import Milliseconds


def looked(seconds: int, *, camera_off: bool = False, opened: bool = True) -> tuple[CallLoad, list[str]]:
    """After so many seconds in which every second frame was sent, at 90 ms each; what was told."""
    sending = SimpleNamespace(
        camera_off=camera_off,
        frames=0,
        crop_ms=Milliseconds(),
        motion_ms=Milliseconds(),
        rate=SimpleNamespace(wanted_fps=25.0, pace=Pace()),
    )
    sending.crop_ms.add(0.09)
    receiving = SimpleNamespace(
        watched=True,
        rendered=0,
        last_time_us=0,
        render_ms=Milliseconds(),
        rate=RenderRate(),
        motion=SimpleNamespace(jitter=JitterBuffer()),
        speaker=SimpleNamespace(shown_hash=None),
    )
    made: Any = CallLoad
    load: CallLoad = made(sending, receiving, family="compact-256", fps=25.0)
    told: list[str] = []
    for second in range(seconds):
        sending.frames += 12
        told += load.look(second, 1.0, opened=opened)
    return load, told


def test_a_thread_that_does_not_make_what_it_should_is_told_of_once() -> None:
    load, told = looked(60)
    assert told == load.remarks
    assert len(told) == 1
    assert load.sends.text
    assert not load.receives.text


def test_nothing_is_asked_of_it_without_a_connection_or_with_the_camera_off() -> None:
    assert looked(60, opened=False)[1] == []
    assert looked(60, camera_off=True)[1] == []
