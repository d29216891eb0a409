"""Two ends of a DTLS connection in memory, peers that say little, and aiortc's inside.

aiortc has no public way to what the corrections correct: all that the tests beside this file reach into is here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import aiortc.rtcsctptransport as sctp
from aiortc import RTCCertificate
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtp import RtpPacket

from kilocall.runtime.peer_settings import PeerSettings

QUIET = PeerSettings(loopback="only", audio=False)


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


def listen(end: RTCDtlsTransport) -> Messages:
    """What arrives at it from now on."""
    messages = Messages()
    end._register_data_receiver(messages)
    return messages


async def send(end: RTCDtlsTransport, message: bytes) -> None:
    await end._send_data(message)


def know_only_aes(end: RTCDtlsTransport) -> None:
    certificate = end._RTCDtlsTransport__local_certificate  # type: ignore[attr-defined]
    create = certificate._create_ssl_context

    def aes_alone(*arguments: Any, **named: Any) -> Any:
        context = create(*arguments, **named)
        context.set_cipher_list(b"ECDHE-ECDSA-AES128-GCM-SHA256")
        return context

    certificate._create_ssl_context = aes_alone


class Association(sctp.RTCSctpTransport):
    """One side of an SCTP association, whose packets are given to `leave`."""

    def __init__(self, leave: Callable[[bytes], None] = lambda data: None) -> None:
        end = RTCDtlsTransport(Wire("controlling"), [RTCCertificate.generateCertificate()])  # type: ignore[arg-type]

        async def send_data(data: bytes) -> None:
            leave(data)

        end._send_data = send_data  # type: ignore[method-assign]
        super().__init__(end)

    async def arrive(self, packet: bytes) -> None:
        await self._handle_data(packet)

    @property
    def established(self) -> bool:
        return self._association_state == self.State.ESTABLISHED

    @property
    def received_up_to(self) -> int | None:
        """TSN of the last packet before the first that is missing."""
        return self._last_received_tsn

    async def take_init(self, tag: int, first_tsn: int) -> None:
        """INIT of the other side."""
        init = sctp.InitChunk()
        init.initiate_tag, init.advertised_rwnd, init.outbound_streams = tag, 1 << 20, 16
        init.inbound_streams, init.initial_tsn = 16, first_tsn
        self._remote_port = 5000
        await self._receive_chunk(init)

    async def take_data(self, tsn: int, data: bytes, flags: int = 0) -> None:
        """DATA of the other side, on stream 0."""
        chunk = sctp.DataChunk(flags=flags)
        chunk.tsn, chunk.user_data = tsn, data
        if self._last_received_tsn is None:
            self._last_received_tsn = tsn - 1
        await self._receive_data_chunk(chunk)

    @property
    def held_bytes(self) -> int:
        """Of messages on stream 0 that are not whole."""
        return sum(len(chunk.user_data) for chunk in self._inbound_streams[0].reassembly)

    def timer_after(self, round_trips_s: Iterable[float]) -> float:
        """Seconds of the retransmission timer after such round trips."""
        for seconds in round_trips_s:
            self._update_rto(seconds)
        return self._rto


def received_rtp(data: bytes, *, sequence_number: int, timestamp: int, marker: int = 0) -> RtpPacket:
    """As RTCRtpReceiver hands it on: the codec's header is taken off."""
    packet = RtpPacket(sequence_number=sequence_number, timestamp=timestamp, marker=marker)
    packet._data = data  # type: ignore[attr-defined]
    return packet
