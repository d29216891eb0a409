"""A call of two processes behind NATs that cannot reach each other, through a real coturn."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from call.nats import PUBLIC, ROUTERS, TURN_PORT, BehindNats, make_certificate, why_no_nats
from kilocall.bench.call import TwoParties
from kilocall.bench.network import Side

WHY_NOT = why_no_nats()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=f"no NATs: {WHY_NOT}")

TURN_SECRET = "0123456789abcdef0123456789abcdef"
ORDERS: Final[tuple[tuple[Side, Side], ...]] = (("a", "b"), ("b", "a"))
SERVE = ("--turn-url", f"turn:{PUBLIC}:{TURN_PORT}")
#: Sends from port 5000 to port 5000 of the address, which opens the own router to answers, and prints what comes in.
KNOCK = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
    ours.bind(("", 5000)); ours.settimeout(0.2)
    for _ in range(10):
        ours.sendto(b"knock", (sys.argv[1], 5000))
        try: print(ours.recvfrom(100))
        except TimeoutError: pass
"""


@pytest.fixture
def homes() -> Iterator[BehindNats]:
    with BehindNats({"TURN_SECRET": TURN_SECRET}) as network:
        yield network


def check_call(
    homes: BehindNats, cameras: dict[Side, str], folder: Path, *, serve: Sequence[str], options: Sequence[str]
) -> None:
    """Both see each other, and nothing goes from one router to the other."""
    with TwoParties(
        folder, seconds=60, network=homes, serve=serve, options=options, cameras=cameras, keep=False
    ) as call:
        call.until_seen()
        time.sleep(3)
        codes = {side: party.end() for side, party in call.parties.items()}
        assert codes == {"a": 0, "b": 0}, {side: party.said for side, party in call.parties.items()}
        for side in call.parties:
            assert call.report(side).pictures > 3
    assert homes.packets_between() == 0


def test_two_behind_nats_see_each_other_through_the_signalling_servers_turn_server_alone(
    homes: BehindNats, cameras: dict[Side, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURN_SECRET", TURN_SECRET)
    check_call(homes, cameras, tmp_path, serve=SERVE, options=("--relay-only",))


def test_where_udp_does_not_pass_they_see_each_other_over_tls(
    cameras: dict[Side, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("TURN_SECRET", TURN_SECRET)
    monkeypatch.setenv("SSL_CERT_FILE", certificate["TURN_CERT"])
    serve = (*SERVE, "--turn-url", f"turns:{PUBLIC}:443")
    with BehindNats({"TURN_SECRET": TURN_SECRET, "TURN_TLS_PORT": "443", **certificate}, only_tcp=True) as homes:
        check_call(homes, cameras, tmp_path / "call", serve=serve, options=())


def test_two_who_send_to_each_other_at_once_do_not_get_through(homes: BehindNats) -> None:
    """Else the test above would show nothing."""
    both = [
        subprocess.Popen(
            homes.inside(side, [sys.executable, "-c", KNOCK, ROUTERS[other]]), stdout=subprocess.PIPE, text=True
        )
        for side, other in ORDERS
    ]
    assert [process.communicate(timeout=20)[0] for process in both] == ["", ""]
    assert homes.packets_between() >= 20  # and each router's refusals
