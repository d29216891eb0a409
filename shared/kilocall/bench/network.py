"""A bad network between two network namespaces of this machine: loss, delay, a narrow link, outages, a new address.

`tc netem` does this inside the kernel, but many kernels (containers, small virtual machines) lack it. Here each
namespace gets a TUN device, and a process of its own moves the IPv4 packets between them, within a millisecond. ICE,
DTLS, SCTP and RTP pass untouched, and so does the TCP connection to the signalling server. Needs root on Linux.

    with BadNetwork(Way(loss=0.1)) as network:
        subprocess.run(network.inside("a", ["ping", "-c", "1", network.address("b")]))
        network.change(Way(loss=1.0))
"""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import itertools
import json
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

__all__ = ["BadNetwork", "Direction", "Side", "Way", "why_unavailable"]

Side = Literal["a", "b"]
SIDES: Final[tuple[Side, Side]] = ("a", "b")

CLONE_NEWNET: Final = 0x40000000
TUNSETIFF: Final = 0x400454CA
IFF_TUN_NO_PI: Final = 0x1001
DEVICE: Final = "call0"
MTU: Final = 1500
READY_WITHIN_S: Final = 10.0


@dataclass(frozen=True)
class Way:
    """One direction of the link."""

    loss: float = 0.0
    """Probability that a packet is lost, 0..1."""
    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Standard deviation of the delay."""
    rate_bps: float = 0.0
    """Bits a second, IP headers counted; 0: as many as come."""
    queue_packets: int = 100
    """How many packets wait for a narrow link; more are dropped."""


def why_unavailable() -> str | None:
    """Why this machine cannot have a bad network; None when it can."""
    if sys.platform != "linux":
        return "network namespaces are a matter of Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "the program ip (iproute2) is missing"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "/dev/net/tun is missing"
    name = f"kilocall{os.getpid()}t"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"a network namespace cannot be made: {made.stderr.strip()[:200]}"
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return None


class BadNetwork:
    """Two namespaces, "a" and "b", joined by one link; a context manager. Raises OSError when it cannot be made."""

    _numbers = itertools.count()

    def __init__(self, there: Way, back: Way | None = None, *, seed: int = 1) -> None:
        number = next(self._numbers)
        self.namespaces: dict[Side, str] = {side: f"kilocall{os.getpid()}{side}{number}" for side in SIDES}
        self._hosts: dict[Side, int] = {"a": 1, "b": 2}
        self._ways = (there, back or there)
        self._seed = seed
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="kilocall_network_")
        try:
            for side, name in self.namespaces.items():
                _run(["ip", "netns", "add", name])
                _run(self.inside(side, ["ip", "link", "set", "lo", "up"]))
            self._write()
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), str(self._config)], stdin=subprocess.DEVNULL
            )
            self._wait(self._config.with_suffix(".ready"))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Takes everything away again."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        for name in self.namespaces.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def address(self, side: Side) -> str:
        """The side's IPv4 address."""
        return f"10.77.0.{self._hosts[side]}"

    @property
    def meeting_host(self) -> str:
        """Where a signalling server listens; it lives with "a"."""
        return self.address("a")

    def inside(self, place: Side | Literal["meeting"], command: Sequence[str]) -> list[str]:
        """`command` as it must be started to run in the namespace of a side, or of the signalling server."""
        return ["ip", "netns", "exec", self.namespaces["a" if place == "meeting" else place], *command]

    def change(self, there: Way, back: Way | None = None) -> None:
        """Another kind of network from now on; packets under way arrive as they would have."""
        self._ways = (there, back or there)
        self._write()
        self._ask(signal.SIGHUP)

    def move(self, side: Side) -> str:
        """Gives the side another address and takes the old one away; returns the new one."""
        old = self.address(side)
        self._hosts[side] += 10
        _run(self.inside(side, ["ip", "address", "del", f"{old}/24", "dev", DEVICE]))
        _run(self.inside(side, ["ip", "address", "add", f"{self.address(side)}/24", "dev", DEVICE]))
        return self.address(side)

    def counters(self) -> dict[str, dict[str, int]]:
        """Packets and bytes that came in, went out and were dropped, by way: "there" (from a to b) and "back"."""
        stats = self._config.with_suffix(".stats")
        stats.unlink(missing_ok=True)
        self._ask(signal.SIGUSR1)
        self._wait(stats)
        counters: dict[str, dict[str, int]] = json.loads(stats.read_text())
        return counters

    @property
    def _config(self) -> Path:
        assert self._folder is not None, "the network is not open"
        return Path(self._folder.name) / "network.json"

    def _ask(self, number: signal.Signals) -> None:
        assert self._process is not None, "the network is not open"
        self._process.send_signal(number)

    def _write(self) -> None:
        there, back = self._ways
        config = {
            "seed": self._seed,
            "namespaces": list(self.namespaces.values()),
            "addresses": [self.address(side) for side in SIDES],
            "there": asdict(there),
            "back": asdict(back),
        }
        _write(self._config, config)

    def _wait(self, file: Path) -> None:
        until = time.monotonic() + READY_WITHIN_S
        while not file.exists():
            if self._process is None or self._process.poll() is not None or time.monotonic() > until:
                raise OSError("the process that carries the packets did not start or has ended")
            time.sleep(0.01)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()[:300]}")


def _write(file: Path, content: object) -> None:
    partial = file.with_suffix(".part")
    partial.write_text(json.dumps(content))
    partial.replace(file)


# --- The process that carries the packets ------------------------------------------------------------------------


def _open_tun(namespace: str, address: str) -> int:
    """A TUN device inside a namespace; its descriptor works here."""
    import fcntl  # not on Windows, where the rest of the bench can be used

    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(there, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter network namespace {namespace}")
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN_NO_PI))
        _run(["ip", "address", "add", f"{address}/24", "dev", DEVICE])
        _run(["ip", "link", "set", DEVICE, "up", "mtu", str(MTU)])
        return tun
    finally:
        libc.setns(home, CLONE_NEWNET)
        os.close(home)
        os.close(there)


class Direction:
    """One direction: its settings, its random numbers, its counters."""

    def __init__(self, seed: int, out: int) -> None:
        self.out = out
        self.way = Way()
        self.queued = 0
        self.counters = {"packets_in": 0, "bytes_in": 0, "packets_out": 0, "bytes_out": 0, "lost": 0, "no_room": 0}
        self._random = random.Random(seed)
        self._busy_until = 0.0

    def departure(self, size: int, now: float) -> float | None:
        """When a packet of `size` bytes arrives at the other end; None when it does not."""
        self.counters["packets_in"] += 1
        self.counters["bytes_in"] += size
        # Drawn for every packet, so that the same seed loses the same ones whatever else is set.
        lost, wobble = self._random.random() < self.way.loss, self._random.gauss(0, 1)
        if lost:
            self.counters["lost"] += 1
            return None
        if self.way.rate_bps:
            if self.queued >= self.way.queue_packets:
                self.counters["no_room"] += 1
                return None
            self._busy_until = now = max(self._busy_until, now) + size * 8 / self.way.rate_bps
        return now + max(0.0, self.way.delay_s + self.way.jitter_s * wobble)


def _carry(config_file: Path) -> None:
    config: dict[str, Any] = json.loads(config_file.read_text())
    first, second = (
        _open_tun(namespace, address)
        for namespace, address in zip(config["namespaces"], config["addresses"], strict=True)
    )
    there = Direction(config["seed"] * 10, out=second)
    back = Direction(config["seed"] * 10 + 1, out=first)

    def reload(*_: object) -> None:
        fresh = json.loads(config_file.read_text())
        there.way, back.way = Way(**fresh["there"]), Way(**fresh["back"])

    def tell(*_: object) -> None:
        _write(config_file.with_suffix(".stats"), {"there": there.counters, "back": back.counters})

    reload()
    signal.signal(signal.SIGHUP, reload)
    signal.signal(signal.SIGUSR1, tell)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    _write(config_file.with_suffix(".ready"), {})
    _forward({first: there, second: back})


def _forward(directions: dict[int, Direction]) -> None:
    poll = select.epoll()
    for tun in directions:
        poll.register(tun, select.EPOLLIN)
    waiting: list[tuple[float, int, Direction, bytes]] = []
    numbers = itertools.count()
    while True:
        wait_s = -1.0 if not waiting else max(0.0, waiting[0][0] - time.monotonic())
        for tun, _ in poll.poll(wait_s):
            direction = directions[tun]
            for packet in _packets(tun):
                arrives = direction.departure(len(packet), time.monotonic())
                if arrives is not None:
                    direction.queued += 1
                    heapq.heappush(waiting, (arrives, next(numbers), direction, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, direction, packet = heapq.heappop(waiting)
            direction.queued -= 1
            with contextlib.suppress(OSError):  # the device is gone: so is the packet
                os.write(direction.out, packet)
                direction.counters["packets_out"] += 1
                direction.counters["bytes_out"] += len(packet)


def _packets(tun: int) -> list[bytes]:
    """The IPv4 packets that are there; IPv6 is only neighbours being looked for."""
    packets: list[bytes] = []
    with contextlib.suppress(BlockingIOError):
        while len(packets) < 64:
            packet = os.read(tun, 2048)
            if packet[0] >> 4 == 4:
                packets.append(packet)
    return packets


if __name__ == "__main__":
    _carry(Path(sys.argv[1]))
