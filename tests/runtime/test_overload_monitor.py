"""What people are told of a computer that is too slow, from counters written out here."""

from __future__ import annotations

from typing import Literal

from kilocall.runtime.overload_monitor import OverloadMonitor


def monitor_of(verb: Literal["shows", "sends"], family: str, fps: float) -> OverloadMonitor:
    return OverloadMonitor(verb, family, fps, light="compact-256")


def looked(monitor: OverloadMonitor, seconds: range, due_fps: float, made_fps: float, each_ms: float) -> list[str]:
    """One look a second."""
    return [monitor.look(s * 1_000_000, due_fps * s, int(made_fps * s), each_ms) for s in seconds]


def test_slow_family_is_named_with_both_rates_and_what_helps() -> None:
    texts = looked(monitor_of("shows", "facevid2vid", 25), range(31), 25, 0.2, 5000)
    assert texts[-1] == (
        "this computer shows 0.2 of 25 pictures a second with facevid2vid; compact-256 is made for computers without "
        "a GPU: start both sides without --family"
    )


def test_default_family_is_not_advised_against_itself() -> None:
    texts = looked(monitor_of("sends", "compact-256", 25), range(11), 25, 12, 80)
    assert texts[-1] == "this computer sends 12 of 25 pictures a second: its processor makes no more"


def test_other_programs_are_blamed_only_when_they_have_the_processor() -> None:
    monitor = monitor_of("shows", "compact-256", 25)
    for s in range(11):
        monitor.look(s * 1_000_000, 25.0 * s, 12 * s, 80, "other programs")
    assert monitor.text == "this computer shows 12 of 25 pictures a second: other programs are keeping it busy"
    assert "its processor" in monitor.look(11_000_000, 275, 132, 80, "processor")


def test_nothing_is_said_while_all_are_made() -> None:
    assert set(looked(monitor_of("shows", "facevid2vid", 25), range(60), 25, 24.5, 36)) == {""}


def test_few_pictures_for_another_reason_are_not_blamed_on_the_computer() -> None:
    # A renderer that takes 10 ms is idle three quarters of the time: frames came late, or were lost.
    assert set(looked(monitor_of("shows", "compact-256", 25), range(60), 25, 5, 10)) == {""}


def test_it_is_told_until_nearly_all_are_made_again() -> None:
    monitor = monitor_of("shows", "liveportrait", 25)
    assert looked(monitor, range(11), 20, 10, 100)[-1]

    def later(made_fps: float) -> str:
        text = ""
        start = 100
        monitor.reset()
        monitor.text = "slow"
        for s in range(20):
            text = monitor.look((start + s) * 1_000_000, 20.0 * s, int(made_fps * s), 48)
        return text

    assert "16 of 20" in later(16)
    assert later(18) == ""


def test_a_new_connection_and_a_pause_begin_anew() -> None:
    monitor = monitor_of("shows", "facevid2vid", 25)
    assert looked(monitor, range(11), 25, 1, 1000)[-1]
    assert monitor.look(11_000_000, 3, 11, 1000) == ""  # the counter of a new jitter buffer
    assert looked(monitor, range(12, 22), 25, 1, 1000)[-1]
    monitor.reset()
    assert monitor.text == ""


def test_one_picture_that_takes_long_is_told_at_once() -> None:
    assert "0.04 of 25 pictures a second" in monitor_of("shows", "liveportrait", 25).look(0, 3, 1, 26_000)
    assert monitor_of("shows", "liveportrait", 25).look(0, 3, 1, 500) == ""
