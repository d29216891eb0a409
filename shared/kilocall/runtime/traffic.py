"""Counts what a connection puts on the wire, by kind of datagram."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["KINDS", "Count", "Traffic"]

KINDS = ("data", "audio", "rtcp", "stun", "other")
"""What a datagram carries: DTLS (motion, control and their acknowledgements), RTP, RTCP, ICE."""


@dataclass
class Count:
    """Datagrams and their bytes, IP and UDP headers included."""

    packets: int = 0
    bytes: int = 0


@dataclass
class Traffic:
    """What went over the wire in one direction since the connection was made."""

    kinds: dict[str, Count] = field(default_factory=lambda: {kind: Count() for kind in KINDS})

    @property
    def total_bytes(self) -> int:
        return sum(count.bytes for count in self.kinds.values())

    def add(self, data: bytes, addr: tuple[Any, ...]) -> None:
        count = self.kinds[_kind(data)]
        count.packets += 1
        count.bytes += len(data) + (48 if ":" in addr[0] else 28)

    def copy(self) -> Traffic:
        return Traffic({kind: Count(count.packets, count.bytes) for kind, count in self.kinds.items()})


def _kind(data: bytes) -> str:
    # RFC 7983 tells them apart by the first byte, RFC 5761 RTP from RTCP by the second.
    first = data[0] if data else 255
    if first < 4:
        return "stun"
    if 20 <= first < 64:
        return "data"
    if 128 <= first < 192 and len(data) > 1:
        return "rtcp" if 192 <= data[1] < 224 else "audio"
    return "other"
