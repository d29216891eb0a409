"""Counts the bytes between two processes of this machine from outside both."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Final

__all__ = ["WireCount"]

EVERY_PROTOCOL: Final = 3  # ETH_P_ALL
TIMESTAMPS: Final = 35  # SO_TIMESTAMPNS


class WireCount:
    """Counts the bytes between ports of two processes on the loopback, from outside both. Needs root (Linux)."""

    def __init__(self, first: set[int], second: set[int]) -> None:
        self._first, self._second = first, second
        self.packets: list[tuple[float, bool, int]] = []
        """(wall clock in seconds, from first to second, bytes with all headers from IP on)"""
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(EVERY_PROTOCOL))
        self._socket.bind(("lo", EVERY_PROTOCOL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.setsockopt(socket.SOL_SOCKET, TIMESTAMPS, 1)
        self._socket.settimeout(0.2)
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended = True
        self._thread.join()
        self._socket.close()

    def kbps(self, from_s: float, to_s: float) -> tuple[float, float]:
        """From first to second and back, between two moments of the wall clock."""
        bits = [0, 0]
        for when, forth, count in self.packets:
            if from_s <= when < to_s:
                bits[not forth] += 8 * count
        return bits[0] / 1000 / (to_s - from_s), bits[1] / 1000 / (to_s - from_s)

    def _run(self) -> None:
        while not self._ended:
            try:
                data, more, _, address = self._socket.recvmsg(65_536, 64)
            except TimeoutError:
                continue
            # The kernel's time: this thread may be late.
            stamps = [stamp for level, kind, stamp in more if (level, kind) == (socket.SOL_SOCKET, TIMESTAMPS)]
            seconds, nanoseconds = struct.unpack("@ll", stamps[0])
            now = seconds + 1e-9 * nanoseconds
            # The loopback shows each packet going and coming: one of them is enough.
            udp = None if address[2] == socket.PACKET_OUTGOING else _udp(data)
            if udp is None:
                continue
            source, target, count = udp
            if source in self._first and target in self._second:
                self.packets.append((now, True, count))
            elif source in self._second and target in self._first:
                self.packets.append((now, False, count))


def _udp(packet: bytes) -> tuple[int, int, int] | None:
    """Source port, target port and length of an IP packet; None when it is no UDP."""
    version = packet[0] >> 4
    head = 4 * (packet[0] & 15) if version == 4 else 40
    if len(packet) < head + 8 or packet[9 if version == 4 else 6] != socket.IPPROTO_UDP:
        return None
    count = int.from_bytes(packet[2:4]) if version == 4 else 40 + int.from_bytes(packet[4:6])
    return int.from_bytes(packet[head : head + 2]), int.from_bytes(packet[head + 2 : head + 4]), count
