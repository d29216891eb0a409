"""Two ends of a DTLS connection in memory, and peers that say little or send fast."""

from __future__ import annotations

import asyncio
from typing import Any

from aiortc import RTCCertificate
from aiortc.rtcdtlstransport import RTCDtlsTransport

from kilocall.runtime.peer_settings import PeerSettings

QUIET = PeerSettings(loopback="only", audio=False)
FAST = PeerSettings(loopback="only", audio=False, bulk_bps=100_000_000)


class Wire:
    """An ICE transport between two DTLS transports, in memory."""

    def __init__(self, role: str) -> None:
        self.role, self.state = role, "completed"
        self.arrived: asyncio.Queue[bytes] = asyncio.Queue()
        self.other: Wire
        self.held: list[bytes] | None = None
        self.lost: set[int] = set()
        self.count = -1

    async def _send(self, data: bytes) -> None:
        self.count += 1
        if self.count in self.lost:
            return
        if self.held is None:
            await self.other.arrived.put(data)
        else:
            self.held.append(data)

    async def _recv(self) -> bytes:
        return await self.arrived.get()


class Messages:
    def __init__(self) -> None:
        self.got: list[bytes] = []

    async def _handle_data(self, data: bytes) -> None:
        self.got.append(data)


def two_ends() -> tuple[tuple[Wire, Wire], list[RTCDtlsTransport], list[Any]]:
    """DTLS server and client, and what each must know of the other."""
    wires = Wire("controlling"), Wire("controlled")
    wires[0].other, wires[1].other = wires[1], wires[0]
    ends = [RTCDtlsTransport(wire, [RTCCertificate.generateCertificate()]) for wire in wires]  # type: ignore[arg-type]
    return wires, ends, [end.getLocalParameters() for end in reversed(ends)]
