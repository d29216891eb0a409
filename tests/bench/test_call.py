from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kilocall.bench.call import CallBenchReport, Link, Shown, longest_gap_ms, measure_call, slope
from kilocall.bench.network import SIDES
from kilocall.call.report import Sample
from kilocall.proto.errors import BadInput


def samples(memory: list[float]) -> list[Sample]:
    return [
        Sample(seconds=10.0 * n, memory_mib=value, delay_ms=None if n % 2 else 100.0, out_kbps=9, fps_in=25)
        for n, value in enumerate(memory)
    ]


def test_slope_is_growth_an_hour_after_the_warm_up() -> None:
    grown = slope(samples([100.0 + 50 * (n < 6) + n for n in range(40)]), lambda sample: sample.memory_mib)
    assert grown is not None
    # One in 10 s, whatever the first minute was like.
    assert list(grown) == pytest.approx([360, 107])
    still = slope(samples([100.0] * 40), lambda sample: sample.delay_ms)
    assert still is not None
    assert list(still) == pytest.approx([0, 100], abs=1e-6)
    assert slope(samples([100.0] * 10), lambda sample: sample.memory_mib) is None


def test_longest_gap_counts_from_the_beginning_to_the_end() -> None:
    shown = [Shown(0, at) for at in (1_000_000, 1_040_000, 1_200_000)]
    assert longest_gap_ms(shown, 1_000_000, 1_250_000) == 160
    assert longest_gap_ms(shown, 500_000, 1_250_000) == 500
    assert longest_gap_ms([], 0, 1_000_000) == 1000


def test_bad_network_is_refused_where_there_can_be_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("kilocall.bench.call.why_unavailable", lambda: "network namespaces need root")
    with pytest.raises(BadInput, match="need root"):
        measure_call(1, tmp_path / "out", Link(loss=0.1))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_short_call_gives_numbers_of_both_parties(astronaut_clip: Path, drawing_clip: Path, tmp_path: Path) -> None:
    # What is there is not made again.
    for clip in (astronaut_clip, drawing_clip):
        shutil.copy(clip, tmp_path)
    seen: list[int] = []
    report = measure_call(0.12, tmp_path, Link(), progress=lambda done, of: seen.append(done))
    assert CallBenchReport.model_validate_json((tmp_path / "report.json").read_text()) == report
    for side in SIDES:
        party = report.parties[side]
        assert party.call.pictures > 0
        assert party.call.delay_p50_ms is not None
        assert party.memory_percent_per_hour is None  # too short for one
    assert (tmp_path / "call.png").read_bytes().startswith(b"\x89PNG")
    assert seen == sorted(seen)
