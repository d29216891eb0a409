from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from kilocall.bench.soak import Look, ProcessSoak, SoakReport, growth, measure_soak


def looks(memory: list[float], process: str = "a") -> list[Look]:
    """One a minute."""
    return [
        Look(seconds=60.0 * minute, process=process, memory_mib=value, threads=9, open_files=20)
        for minute, value in enumerate(memory)
    ]


def test_what_comes_before_the_warm_up_does_not_count() -> None:
    found = growth(looks([100.0, 200, 300, 400, *[500.0] * 16]))
    assert found is not None
    assert found.mib_per_hour == pytest.approx(0, abs=1e-6)
    assert found.verdict == "flat"


def test_a_leak_grows() -> None:
    found = growth(looks([500 + minute for minute in range(20)]))
    assert found is not None
    assert found.mib_per_hour == pytest.approx(60)
    assert found.verdict == "grows"


def test_shrinking_is_flat() -> None:
    found = growth(looks([500.0 - minute for minute in range(20)]))
    assert found is not None
    assert found.verdict == "flat"


def test_uneven_memory_is_no_proof() -> None:
    found = growth(looks([500 + 20 * (minute % 2) for minute in range(12)]))
    assert found is not None
    assert found.error_mib_per_hour > 100
    assert found.verdict == "unclear"


def test_few_looks_tell_nothing() -> None:
    assert growth(looks([500.0] * 8)) is None
    assert growth(looks([500.0] * 9)) is not None


@pytest.mark.parametrize(
    ("memories", "verdict"),
    [
        ({"a": [500.0] * 20, "b": [400.0] * 20}, "flat"),
        ({"a": [500.0] * 20, "b": [400.0 + minute for minute in range(20)]}, "grows"),
        ({"a": [500.0] * 20, "b": [400.0 + 20 * (minute % 2) for minute in range(20)]}, "unclear"),
        ({"a": [500.0] * 20, "b": [400.0] * 3}, "too short"),
    ],
)
def test_one_process_decides_for_all(memories: dict[str, list[float]], verdict: str) -> None:
    of = {name: looks(memory, name) for name, memory in memories.items()}
    report = SoakReport(
        date="2026-01-01",
        cores=2,
        minutes=20,
        options=[],
        processes={name: ProcessSoak(growth=growth(mine), looks=mine) for name, mine in of.items()},
        calls={},
    )
    assert report.verdict == verdict
    assert "MiB an hour" in report.sentence or "too short" in report.sentence


@pytest.mark.slow
def test_short_soak_looks_at_every_process(astronaut_clip: Path, drawing_clip: Path, tmp_path: Path) -> None:
    # What is there is not made again.
    for clip in (astronaut_clip, drawing_clip):
        shutil.copy(clip, tmp_path)
    seen: list[int] = []
    report = measure_soak(0.2, tmp_path, every_s=4, progress=lambda done, of: seen.append(done))
    assert SoakReport.model_validate_json((tmp_path / "report.json").read_text()) == report
    assert set(report.processes) == {"meeting", "a", "a: children", "b", "b: children"}
    for name, process in report.processes.items():
        assert [round(look.seconds) for look in process.looks] == [0, 4, 8, 12]
        # The children decode pictures; Pillow alone takes more than this.
        assert all(look.memory_mib > 10 and look.threads >= 1 and look.open_files >= 3 for look in process.looks), name
    for side in ("a", "b"):
        last = report.processes[side].looks[-1]
        assert last.delay_p50_ms is not None
        assert last.delay_p95_ms is not None
        assert 0 < last.delay_p50_ms <= last.delay_p95_ms
        assert last.fps_in is not None
        assert last.fps_in > 0
    with (tmp_path / "soak.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 5
    assert {row["process"] for row in rows} == set(report.processes)
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")
    assert report.verdict == "too short"
    assert seen == sorted(seen)
