from __future__ import annotations

from kilocall.call.milestones import Milestones


def test_first_picture_counts_from_the_first_pairing_and_the_first_connection() -> None:
    milestones = Milestones(1000)
    for now in (1001, 1050):
        milestones.paired(now)
    for now in (1002, 1060):
        milestones.opened(now)
    assert [milestones.picture(now) for now in (1062, 1063)] == [61, None]
    report = milestones.report(1100)
    assert (report["first_picture_ms"], report["first_picture_after_open_ms"]) == (61_000, 60_000)
    assert report["seconds"] == 100


def test_time_without_a_connection_ends_with_the_next() -> None:
    milestones = Milestones(0)
    milestones.opened(1)
    milestones.lost(10)
    milestones.lost(12)
    milestones.opened(15)
    milestones.opened(20)
    assert milestones.report(30)["reconnect_s"] == [3]


def test_phase_is_kept_where_it_or_its_reason_has_changed() -> None:
    milestones = Milestones(0)
    for at_us, (phase, reason) in enumerate([("open", ""), ("open", ""), ("lost", "a"), ("lost", "b")]):
        milestones.phase(at_us, phase, reason)
    assert [change.at_us for change in milestones.report(0)["phases"]] == [0, 2, 3]
