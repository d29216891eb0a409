"""What a connection costs while neither side moves or speaks."""

from __future__ import annotations

import time
from pathlib import Path

from kilocall.bench.call import TwoParties, empty_room
from kilocall.bench.network import SIDES


def test_idle_connection_costs_next_to_nothing(tmp_path: Path) -> None:
    room = str(empty_room(tmp_path))
    # With a layer the other side would be shown the empty room.
    options = ["--layer", "0"]
    with TwoParties(tmp_path, seconds=60, cameras=dict.fromkeys(SIDES, room), keep=False, options=options) as call:
        for party in call.parties.values():
            party.wait_for("connection is open", 30)
        time.sleep(22)
        for party in call.parties.values():
            assert party.end() == 0, party.said
        reports = [call.report(side) for side in SIDES]
    for report in reports:
        assert report.frames_sent == report.pictures == 0
        assert report.idle_out.seconds >= 8
        # 1 kbit/s is the aim, 0.53 is usual; checks come every 4 to 6 s, so that ten seconds may hold one more.
        assert 0 < report.idle_out.total <= 1.3
        assert 0 < report.idle_into.total <= 1.3
        assert report.idle_out.data <= 0.3
