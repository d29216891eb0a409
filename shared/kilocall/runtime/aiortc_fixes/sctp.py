"""SCTP: packets that fit, bounded memory, quick setup and repeats, and word of what was delivered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import aiortc.rtcsctptransport as sctp

from kilocall.runtime.aiortc_fixes.correction import Correction, Undo, replace

__all__ = ["CORRECTIONS", "on_delivery"]

USER_DATA_BYTES = 1100


def _small_packets() -> Undo:
    """Limits a DATA chunk to 1100 bytes.

    aiortc fills SCTP packets to 1189 bytes: with DTLS, UDP and a tunnel's headers that is over 1280, and where
    path MTU discovery is broken such packets vanish and the picture never arrives. 1100 makes IP packets of
    1185 bytes (1205 on IPv6), measured. Drop once aiortc probes the path's MTU.
    """
    return replace(sctp, USERDATA_MAX_LENGTH=USER_DATA_BYTES)


def _bounded_window() -> Undo:
    """Drops DATA beyond the receive window that was announced, 1 MiB.

    aiortc announces a window and takes whatever comes: a peer that never ends a message fills the memory
    (measured: 4 MiB of fragments held, growing on). A well-behaved sender never gets here. Drop when aiortc
    checks the window itself.
    """
    original = sctp.RTCSctpTransport._receive_data_chunk

    async def receive(self: sctp.RTCSctpTransport, chunk: sctp.DataChunk) -> None:
        if len(chunk.user_data) <= self._advertised_rwnd:
            await original(self, chunk)

    return replace(sctp.RTCSctpTransport, _receive_data_chunk=receive)


SETUP_REPEATS_S = (0.25, 0.25, 0.25, 0.5, 0.5, 0.5, 1.0)
"""Waits before INIT and COOKIE ECHO are sent again; the last one for all that follow."""
SETUPS = 16
"""So many in all: 12 s."""


def _quick_setup() -> Undo:
    """Repeats INIT and COOKIE ECHO after 0.25 s, later ones after up to 1 s.

    aiortc waits 3 s, so that one lost packet of the four that make an association costs more than all the rest of
    connecting together. Its repeated INIT bears the other side's tag once that is known, where RFC 9260 section
    8.5.1 asks for zero, so that it is dropped: when both sides' INIT ACKs are lost, they never connect. And it
    takes an INIT that comes once more for a new association: it forgets what it has received, and nothing is
    acknowledged any more. So here the tag is zero, and an INIT of the other side that we know is only answered.
    Drop when aiortc does so and its timer follows the round trip.
    """
    cls = sctp.RTCSctpTransport
    receive_chunk = cls._receive_chunk
    kept = (
        "_last_received_tsn",
        "_reconfig_response_seq",
        "_ssthresh",
        "_inbound_streams_count",
        "_outbound_streams_count",
    )

    def wait_s(failures: int) -> float:
        return SETUP_REPEATS_S[min(failures, len(SETUP_REPEATS_S) - 1)]

    def t1_start(self: sctp.RTCSctpTransport, chunk: sctp.Chunk) -> None:
        assert self._t1_handle is None
        self._t1_chunk = chunk
        self._t1_failures = 0
        self._t1_handle = asyncio.get_running_loop().call_later(wait_s(0), self._t1_expired)

    def t1_expired(self: sctp.RTCSctpTransport) -> None:
        self._t1_failures += 1
        self._t1_handle = None
        chunk = self._t1_chunk
        if self._t1_failures >= SETUPS or chunk is None:
            self._set_state(self.State.CLOSED)
            return
        self.__dict__["_kilocall_setup"] = asyncio.ensure_future(_send_again(self, chunk))
        self._t1_handle = asyncio.get_running_loop().call_later(wait_s(self._t1_failures), self._t1_expired)

    async def new_receive_chunk(self: sctp.RTCSctpTransport, chunk: sctp.Chunk) -> None:
        before: dict[str, Any] = {}
        if isinstance(chunk, sctp.InitChunk) and chunk.initiate_tag == self._remote_verification_tag:
            before = {name: getattr(self, name) for name in kept}
        await receive_chunk(self, chunk)
        for name, value in before.items():
            setattr(self, name, value)

    return replace(cls, _t1_start=t1_start, _t1_expired=t1_expired, _receive_chunk=new_receive_chunk)


async def _send_again(transport: sctp.RTCSctpTransport, chunk: sctp.Chunk) -> None:
    with contextlib.suppress(ConnectionError):  # closed meanwhile: nobody waits for it
        if isinstance(chunk, sctp.InitChunk):
            assert transport._remote_port is not None  # known before the first INIT
            data = sctp.serialize_packet(transport._local_port, transport._remote_port, 0, chunk)
            await transport.transport._send_data(data)
        else:
            await transport._send_chunk(chunk)


REPEAT_LEAST_S = 0.35
REPEAT_MARGIN_S = 0.2
REPEAT_GROWTH = 1.5
REPEAT_MOST_S = 1.2
REPEAT_BPS = 48_000


class _Repeats:
    """Of one association: when each reliable chunk that is not acknowledged yet goes again."""

    def __init__(self, transport: sctp.RTCSctpTransport) -> None:
        self._transport = transport
        self._sent: dict[int, tuple[float, int]] = {}  # by TSN: when it was sent last, and how often
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Future[None] | None = None

    @staticmethod
    def of(transport: sctp.RTCSctpTransport) -> _Repeats:
        repeats: _Repeats | None = transport.__dict__.get("_kilocall_repeats")
        if repeats is None:
            repeats = transport.__dict__["_kilocall_repeats"] = _Repeats(transport)
        return repeats

    def arm(self) -> None:
        """Sets the timer for what is waiting now."""
        now = asyncio.get_running_loop().time()
        counts = {chunk.tsn: chunk._sent_count for chunk in self._waiting()}
        # Whatever else may have sent a chunk again, its time counts from then.
        self._sent = {
            tsn: known if (known := self._sent.get(tsn)) is not None and known[1] == count else (now, count)
            for tsn, count in counts.items()
        }
        self.stop()
        if self._sent and self._transport._association_state == self._transport.State.ESTABLISHED:
            due = min(at + self._wait_s(count - 1) for at, count in self._sent.values())
            self._timer = asyncio.get_running_loop().call_later(max(0.01, due - now), self._expired)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _waiting(self) -> list[sctp.DataChunk]:
        return [
            chunk
            for chunk in self._transport._sent_queue
            if chunk._max_retransmits is None and not (chunk._acked or chunk._abandoned)
        ]

    def _wait_s(self, times: int) -> float:
        base = max(REPEAT_LEAST_S, (self._transport._srtt or 0.0) + REPEAT_MARGIN_S)
        grown = max(base, min(base * REPEAT_GROWTH**times, REPEAT_MOST_S))
        return grown + 8 * self._transport._flight_size / REPEAT_BPS

    def _expired(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for chunk in self._waiting():
            at, count = self._sent.get(chunk.tsn, (now, chunk._sent_count))
            if now - at >= self._wait_s(count - 1) - 0.01 and not chunk._retransmit:
                chunk._retransmit = True
                self._transport._flight_size_decrease(chunk)
        self._task = asyncio.ensure_future(self._again())

    async def _again(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self._transport._transmit()


def _quick_repeats() -> Undo:
    """Sends a reliable chunk again when it was not acknowledged 0.2 s after a round trip, 0.35 s at least.

    aiortc waits for three later acknowledgements that miss it, which never come after the last message of a
    burst, or for its timer: 3 s at first, then 1 s at least. Hello, offers and pieces of the source picture are
    just such messages, and at 10 % loss the first picture came 2 to 4 s late. Each further time waits half as
    long again, 1.2 s at most; what lies in flight is given the time that 48 kbit/s need for it, so that a narrow
    link is not filled with repetitions. Motion is never repeated. Drop when aiortc has tail loss probes.
    """
    cls = sctp.RTCSctpTransport
    transmit, set_state = cls._transmit, cls._set_state

    async def new_transmit(self: sctp.RTCSctpTransport) -> None:
        await transmit(self)
        _Repeats.of(self).arm()

    def new_set_state(self: sctp.RTCSctpTransport, state: Any) -> None:
        set_state(self, state)
        if state == self.State.CLOSED:
            _Repeats.of(self).stop()

    return replace(cls, _transmit=new_transmit, _set_state=new_set_state)


LEAST_WINDOW = 8
"""Packets that may be on their way at any time."""


def _room_for_motion() -> Undo:
    """Keeps a congestion window of eight packets, of which a Peer fills three at most with pieces of pictures.

    aiortc begins with three and goes down to one when its timer goes off, as RFC 9260 asks for bulk data. Pieces of a
    picture fill that, and while they are not acknowledged motion waits: after an outage of 2 s until they are sent
    again, 0.8 to 0.9 s more, measured. How much is sent is for the rate control and `bulk_bps` to say, which know more
    than this window. Drop when aiortc lets unreliable messages pass.
    """
    transmit = sctp.RTCSctpTransport._transmit

    async def new_transmit(self: sctp.RTCSctpTransport) -> None:
        self._cwnd = max(self._cwnd, LEAST_WINDOW * sctp.USERDATA_MAX_LENGTH)
        await transmit(self)

    return replace(sctp.RTCSctpTransport, _transmit=new_transmit)


def _delivery() -> Undo:
    """Tells whoever asked by `on_delivery` which messages the other side has acknowledged.

    SACKs say what arrived, so the motion encoder needs no acknowledgements of its own, 89 bytes each. aiortc
    keeps that to itself. Drop when it has a way to ask.
    """
    original = sctp.RTCSctpTransport._receive_sack_chunk
    whole = sctp.SCTP_DATA_FIRST_FRAG | sctp.SCTP_DATA_LAST_FRAG

    async def receive(self: sctp.RTCSctpTransport, chunk: sctp.SackChunk) -> None:
        told: Callable[[int, bytes], None] | None = self.__dict__.get("_kilocall_delivered")
        if told is None:
            await original(self, chunk)
            return
        waiting = [(data, data._acked) for data in self._sent_queue]
        await original(self, chunk)
        after = set(map(id, self._sent_queue))
        for data, acked_before in waiting:
            # Whatever has left the queue without having been given up was covered by the cumulative TSN.
            acked = data._acked or (id(data) not in after and not data._abandoned)
            if acked and not acked_before and data.flags & whole == whole:
                told(data.stream_id, data.user_data)

    return replace(sctp.RTCSctpTransport, _receive_sack_chunk=receive)


def on_delivery(transport: sctp.RTCSctpTransport, told: Callable[[int, bytes], None]) -> None:
    """Calls `told(stream id, message)` for every message of one packet that the other side has acknowledged."""
    transport.__dict__["_kilocall_delivered"] = told


CORRECTIONS = (
    Correction("packets that fit a 1280-byte MTU", "aiortc", _small_packets),
    Correction("bounded receive window", "aiortc", _bounded_window),
    Correction("quick setup", "aiortc", _quick_setup),
    Correction("quick repeats of reliable messages", "aiortc", _quick_repeats),
    Correction("room for motion", "aiortc", _room_for_motion),
    Correction("told of delivery", "aiortc", _delivery),
)
