from __future__ import annotations

import subprocess
import sys

import pytest

from kilocall.bench.network import BadNetwork, Direction, Side, Way, why_unavailable

WHY_NOT = why_unavailable()
needs_root = pytest.mark.skipif(WHY_NOT is not None, reason=f"no bad network: {WHY_NOT}")


def departures(way: Way, sizes: list[int], *, spacing_s: float = 0.0, seed: int = 1) -> list[float | None]:
    direction = Direction(seed, out=-1)
    direction.way = way
    times = []
    for index, size in enumerate(sizes):
        times.append(direction.departure(size, index * spacing_s))
        direction.queued += times[-1] is not None
    return times


def test_same_seed_loses_the_same_packets_whatever_else_is_set() -> None:
    plain = departures(Way(loss=0.3), [100] * 200)
    delayed = departures(Way(loss=0.3, delay_s=0.1, jitter_s=0.02), [100] * 200)
    assert [one is None for one in plain] == [one is None for one in delayed]
    assert 40 <= plain.count(None) <= 80
    assert [one is None for one in departures(Way(loss=0.3), [100] * 200, seed=2)] != [one is None for one in plain]


def test_narrow_link_sends_one_after_the_other_and_drops_what_finds_no_room() -> None:
    times = departures(Way(rate_bps=8000, queue_packets=3), [100, 200, 100, 100])
    assert times == [pytest.approx(0.1), pytest.approx(0.3), pytest.approx(0.4), None]


def test_delay_is_never_negative() -> None:
    times = departures(Way(delay_s=0.001, jitter_s=0.05), [100] * 200)
    assert all(time is not None and time >= 0 for time in times)


ECHO = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
    link.bind((sys.argv[1], 5000)); print("ready", flush=True)
    while True:
        data, there = link.recvfrom(2000); link.sendto(data, there)
"""
ASK = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
    link.settimeout(0.3); back = 0
    for number in range(20):
        link.sendto(bytes([number]) * 100, (sys.argv[1], 5000))
        try: back += link.recvfrom(2000)[0][0] == number
        except TimeoutError: pass
        if sys.argv[2:] and number == 2: break
    print(back)
"""


def ask(network: BadNetwork, *more: str) -> int:
    """How many of 20 datagrams from "a" to "b" come back; of 3 with anything in `more`."""
    command = network.inside("a", [sys.executable, "-c", ASK, network.address("b"), *more])
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def echo(network: BadNetwork, side: Side) -> subprocess.Popen[str]:
    command = network.inside(side, [sys.executable, "-c", ECHO, network.address(side)])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@needs_root
def test_datagrams_pass_until_the_link_is_cut_and_again_after_a_move() -> None:
    with BadNetwork(Way()) as network:
        there = echo(network, "b")
        try:
            assert ask(network) == 20
            counters = network.counters()
            assert counters["there"]["packets_out"] == counters["back"]["packets_in"] == 20
            # 20 of IP, 8 of UDP.
            assert counters["there"]["bytes_in"] == 20 * 128
            network.change(Way(loss=1.0))
            assert ask(network, "three") == 0
            network.change(Way())
        finally:
            end(there)
        before = network.address("b")
        assert network.move("b") != before
        there = echo(network, "b")
        try:
            assert ask(network, "three") == 3
        finally:
            end(there)
        names = list(network.namespaces.values())
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not any(name in left for name in names)
