"""The bench of the signalling server, on few parties."""

from __future__ import annotations

import pytest

from kilocall.bench.meeting import measure_meeting
from kilocall.call.signalling_http import raise_open_files
from kilocall.proto.errors import BadInput


def test_what_is_measured_was_done() -> None:
    told: list[tuple[int, int | None]] = []
    report = measure_meeting(50, 20, progress=lambda done, total: told.append((done, total)))
    assert (report.joins, report.held, report.instances, report.redis) == (50, 20, 1, False)
    assert report.joins_per_second > 5
    assert 0 < report.join_p50_ms <= report.join_p95_ms
    assert 0 < report.signal_p50_ms <= report.signal_p95_ms
    assert told[-1] == (10, 10)


@pytest.mark.skipif(raise_open_files() is None, reason="this system has no such limit")
def test_more_than_the_system_allows_is_refused() -> None:
    with pytest.raises(BadInput, match="lets one process open"):
        measure_meeting(10, 1 << 40)
