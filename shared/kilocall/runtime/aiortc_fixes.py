"""Every correction to aiortc and aioice that kilocall needs, in one place.

`apply` puts in force those of CORRECTIONS whose package has a version they were tested with; another version
gets a logged warning and the package as it is. Peer calls it; importing this module changes nothing. What can
be set on one connection alone (speech codec, loopback, counting) is a function or class below and touches no
other connection of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import fractions
import logging
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import aiortc.codecs.base
import aiortc.rtcdtlstransport as dtls
import aiortc.rtcrtpreceiver as rtp_receiver
import aiortc.rtcrtpsender as rtp_sender
import aiortc.rtcsctptransport as sctp
import numpy as np
from aioice import ice, stun
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.rtp import RtpPacket
from av import AudioFrame, AudioResampler
from av.audio.codeccontext import AudioCodecContext
from av.frame import Frame
from av.packet import Packet
from OpenSSL import SSL

from kilocall.proto.wire_cost import DELAYED_SACK_S

__all__ = [
    "CORRECTIONS",
    "SACK_DELAY_S",
    "Correction",
    "PromptVideoBuffer",
    "SilenceGate",
    "SpeechEncoder",
    "SpeechJitterBuffer",
    "apply",
    "in_force",
    "on_datagrams",
    "on_delivery",
    "set_prompt_video",
    "set_speech_decoder",
    "set_speech_encoder",
    "withdraw",
]

logger = logging.getLogger(__name__)

TESTED = {"aiortc": "1.16.", "aioice": "0.13."}
"""Beginning of the versions that each package's corrections were tested with."""

Undo = Callable[[], None]


@dataclass(frozen=True)
class Correction:
    """A change to one package that can be taken back."""

    name: str
    package: str
    put: Callable[[], Undo]
    """Puts it in force and returns how to undo that."""


_undo: dict[str, Undo] = {}


def apply() -> tuple[str, ...]:
    """Puts all corrections in force that fit the installed versions; says which are. May be called again."""
    for correction in CORRECTIONS:
        if correction.name in _undo:
            continue
        version = metadata.version(correction.package)
        if version.startswith(TESTED[correction.package]):
            _undo[correction.name] = correction.put()
        else:
            logger.warning(
                "%s %s is not the %s* that the correction %r was tested with; left as it is",
                correction.package,
                version,
                TESTED[correction.package],
                correction.name,
            )
    return in_force()


def in_force() -> tuple[str, ...]:
    """Names of the corrections that are in force."""
    return tuple(correction.name for correction in CORRECTIONS if correction.name in _undo)


def withdraw(name: str) -> None:
    """Takes one correction back; for tests, and to find out whether it is to blame."""
    if name not in _undo:
        return
    # Two may wrap the same method, so they come off in reverse and the others go back on.
    for back in reversed(list(_undo.values())):
        back()
    kept = [correction for correction in CORRECTIONS if correction.name in _undo and correction.name != name]
    _undo.clear()
    for correction in kept:
        _undo[correction.name] = correction.put()


def _replace(owner: Any, **new: Any) -> Undo:
    old = {name: getattr(owner, name) for name in new}
    for name, value in new.items():
        setattr(owner, name, value)

    def undo() -> None:
        for name, value in old.items():
            setattr(owner, name, value)

    return undo


# --- DTLS ------------------------------------------------------------------------------------------------------


def _drain_dtls() -> Undo:
    """Reads every DTLS record that has arrived, not one per datagram.

    aiortc calls SSL.recv() once for each datagram. When a datagram holds two records, or the server's last
    flight is lost and its first data overtakes the repetition, OpenSSL holds more than one record, and from
    then on each message is delivered when a later one arrives: late for good, the last ones never. Tested with
    1.16.0 over OpenSSL 4.0, DTLS 1.2. Drop when `_recv_next` reads until WantReadError.
    """
    original = dtls.RTCDtlsTransport._recv_next

    async def drain(self: dtls.RTCDtlsTransport) -> None:
        while self.encrypted and self._ssl is not None:
            try:
                data = self._ssl.recv(1500)
            except SSL.ZeroReturnError:
                raise ConnectionError from None
            except SSL.Error:
                return
            if data and self._data_receiver:
                await self._data_receiver._handle_data(data)

    async def receive_next(self: dtls.RTCDtlsTransport) -> None:
        await drain(self)  # what came during the handshake
        await original(self)
        await drain(self)

    return _replace(dtls.RTCDtlsTransport, _recv_next=receive_next)


FLIGHT_REPEATS_S = (0.25, 0.25, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0)
"""Waits before a handshake flight that brought no answer is sent again."""
FLIGHT_DATAGRAMS = 3
APPLICATION_DATA = 23


class _Flight:
    """The datagrams sent last in a DTLS handshake, sent again until something new comes."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._send, self._recv = transport._send, transport._recv
        self._datagrams: list[bytes] = []
        self._answered = True
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Future[None] | None = None
        transport._send, transport._recv = self.send, self.receive

    async def send(self, data: bytes) -> None:
        if self._answered:
            self._datagrams.clear()
        self._answered = False
        self._datagrams = [*self._datagrams, data][-FLIGHT_DATAGRAMS:]
        self._arm(0)
        await self._send(data)

    async def receive(self) -> bytes:
        data: bytes = await self._recv()
        self._answered = True
        if data[:1] == bytes([APPLICATION_DATA]):
            self.end()  # the other side has all it needs
        return data

    def release(self) -> None:
        """What is sent from now on belongs to no flight."""
        self._transport._send = self._send

    def end(self) -> None:
        self.release()
        self._transport._recv = self._recv
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _arm(self, repeat: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if repeat < len(FLIGHT_REPEATS_S):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(FLIGHT_REPEATS_S[repeat], self._expired, repeat)

    def _expired(self, repeat: int) -> None:
        self._arm(repeat + 1)
        self._task = asyncio.ensure_future(self._repeat())

    async def _repeat(self) -> None:
        with contextlib.suppress(ConnectionError):  # closed meanwhile: nobody waits for it
            for data in self._datagrams:
                await self._send(data)


def _quick_dtls() -> Undo:
    """Sends a flight of the DTLS handshake again every 0.25 s, later every second.

    OpenSSL's timer begins at 1 s and doubles, and pyOpenSSL has no way to set it: at 10 % loss one handshake in
    three took more than a second longer. The same datagrams go out again, so that one that had arrived is dropped
    as a replay; the last flight of the handshake is repeated until application data comes, because its sender has
    no timer of its own and its receiver's is the slow one. Costs nothing where nothing is lost and the round trip
    is below 0.25 s. Drop when the timer can be set.
    """
    handshake, stop = dtls.RTCDtlsTransport._do_handshake, dtls.RTCDtlsTransport.stop

    async def do_handshake(self: dtls.RTCDtlsTransport) -> None:
        flight = self.__dict__["_kilocall_flight"] = _Flight(self.transport)
        try:
            await handshake(self)
        finally:
            flight.release()
            if not self.encrypted or self._role == "client":
                flight.end()  # a client's last flight has been answered

    async def new_stop(self: dtls.RTCDtlsTransport) -> None:
        flight: _Flight | None = self.__dict__.get("_kilocall_flight")
        if flight is not None:
            flight.end()
        await stop(self)

    return _replace(dtls.RTCDtlsTransport, _do_handshake=do_handshake, stop=new_stop)


# --- SCTP ------------------------------------------------------------------------------------------------------

USER_DATA_BYTES = 1100


def _small_packets() -> Undo:
    """Limits a DATA chunk to 1100 bytes.

    aiortc fills SCTP packets to 1189 bytes: with DTLS, UDP and a tunnel's headers that is over 1280, and where
    path MTU discovery is broken such packets vanish and the picture never arrives. 1100 makes IP packets of
    1193 bytes (1213 on IPv6), measured. Drop once aiortc probes the path's MTU.
    """
    return _replace(sctp, USERDATA_MAX_LENGTH=USER_DATA_BYTES)


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

    return _replace(sctp.RTCSctpTransport, _receive_data_chunk=receive)


SACK_DELAY_S = DELAYED_SACK_S
"""Longest wait before received DATA is acknowledged; RFC 9260 allows up to 0.5, the RTO's minimum is 1 s."""
SACK_GAP_S = 0.1
"""The same while a chunk is missing."""
SACK_RELIABLE_S = 0.1
"""The same while a reliable chunk waits to be acknowledged: its sender repeats it otherwise."""
SACK_RIDE_AFTER_S = 0.15
SACK_EVERY = 8
BULK_BYTES = 400
BULK_EVERY = 2


@dataclass
class _Pending:
    """What has been received since a transport's last SACK."""

    chunks: int = 0
    bulk: int = 0
    reliable: int = 0
    sent_at: float = -math.inf
    timer: asyncio.TimerHandle | None = None
    due: float = math.inf
    task: asyncio.Task[None] | None = None
    capture: bool = False
    captured: sctp.SackChunk | None = None


class _Bundle(sctp.Chunk):
    """Two chunks in one SCTP packet; only ever serialised."""

    def __init__(self, first: sctp.Chunk, second: sctp.Chunk) -> None:
        super().__init__()
        self.first, self.second = first, second

    def __bytes__(self) -> bytes:
        return bytes(self.first) + bytes(self.second)


def _delayed_sack() -> Undo:
    """Acknowledges several received chunks at once, inside a packet that goes out anyway where there is one.

    aiortc answers every DATA chunk with a SACK of its own, 93 bytes for 20 of motion. Here a SACK waits up to
    0.4 s, or 0.1 s while a chunk is missing or a reliable one has come; after 0.15 s, or at once then, it rides in
    front of the next DATA chunk, for 16 bytes. It does not wait after eight chunks and after every second long
    one, as RFC 9260 asks for bulk data. Measured at 25 fps, three frames a message: 6.2 kbit/s without, 1.6 alone,
    0.5 where both sides send; 0.2 s would be 3.7 alone.

    The round trips that aiortc measures include the other side's delay and vary little, so that its RTO sinks
    to their very mean, and its timer then gives messages up that have arrived: it is kept one delay above the
    mean. Drop when aiortc delays and bundles SACKs.
    """
    cls = sctp.RTCSctpTransport
    receive_data, send_sack, send_chunk = cls._receive_data_chunk, cls._send_sack, cls._send_chunk
    update_rto = cls._update_rto

    def pending(self: sctp.RTCSctpTransport) -> _Pending:
        state: _Pending | None = self.__dict__.get("_kilocall_pending")
        if state is None:
            state = self.__dict__["_kilocall_pending"] = _Pending()
        return state

    def wait_s(self: sctp.RTCSctpTransport, state: _Pending) -> float:
        """How long a SACK may wait."""
        damaged = bool(self._sack_misordered or self._sack_duplicates)
        if self._association_state != self.State.ESTABLISHED or state.chunks >= SACK_EVERY:
            return 0
        if state.bulk >= BULK_EVERY or (state.bulk and damaged):
            return 0
        return SACK_GAP_S if damaged else SACK_RELIABLE_S if state.reliable else SACK_DELAY_S

    def sent(state: _Pending) -> None:
        state.chunks = state.bulk = state.reliable = 0
        state.sent_at = asyncio.get_running_loop().time()
        if state.timer is not None:
            state.timer.cancel()
            state.timer = None
            state.due = math.inf

    async def new_receive_data(self: sctp.RTCSctpTransport, chunk: sctp.DataChunk) -> None:
        state = pending(self)
        state.chunks += 1
        state.bulk += len(chunk.user_data) > BULK_BYTES
        state.reliable += not chunk.flags & sctp.SCTP_DATA_UNORDERED
        await receive_data(self, chunk)

    async def now(self: sctp.RTCSctpTransport) -> None:
        try:
            if self._sack_needed and self._association_state == self.State.ESTABLISHED:
                sent(pending(self))
                await send_sack(self)
        except ConnectionError:
            pass  # closed meanwhile: nobody waits for it

    def expired(self: sctp.RTCSctpTransport) -> None:
        state = pending(self)
        state.timer, state.due = None, math.inf
        state.task = asyncio.ensure_future(now(self))

    async def new_send_sack(self: sctp.RTCSctpTransport) -> None:
        state = pending(self)
        wait = wait_s(self, state)
        if wait:
            loop = asyncio.get_running_loop()
            if loop.time() + wait < state.due:
                if state.timer is not None:
                    state.timer.cancel()
                state.due = loop.time() + wait
                state.timer = loop.call_at(state.due, expired, self)
            return
        sent(state)
        await send_sack(self)

    async def new_send_chunk(self: sctp.RTCSctpTransport, chunk: sctp.Chunk) -> None:
        state = pending(self)
        if state.capture and isinstance(chunk, sctp.SackChunk):
            state.captured = chunk
            return
        if (
            isinstance(chunk, sctp.DataChunk)
            and self._sack_needed
            and self._association_state == self.State.ESTABLISHED
            and len(chunk.user_data) <= BULK_BYTES
            and (
                self._sack_misordered
                or state.reliable
                or asyncio.get_running_loop().time() - state.sent_at >= SACK_RIDE_AFTER_S
            )
        ):
            state.capture = True
            try:
                await send_sack(self)  # runs through without waiting: its chunk is caught above
            finally:
                state.capture = False
            if state.captured is not None:
                chunk, state.captured = _Bundle(state.captured, chunk), None
                sent(state)
        await send_chunk(self, chunk)

    def new_update_rto(self: sctp.RTCSctpTransport, R: float) -> None:  # noqa: N803  # aiortc's name
        update_rto(self, R)
        if self._srtt is not None:
            self._rto = max(self._rto, min(self._srtt + SACK_DELAY_S, sctp.SCTP_RTO_MAX))

    return _replace(
        cls,
        _receive_data_chunk=new_receive_data,
        _send_sack=new_send_sack,
        _send_chunk=new_send_chunk,
        _update_rto=new_update_rto,
    )


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

    return _replace(cls, _t1_start=t1_start, _t1_expired=t1_expired, _receive_chunk=new_receive_chunk)


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


@dataclass
class _Repeats:
    """When each reliable chunk that is not acknowledged yet was sent last, and how often; by TSN."""

    sent: dict[int, tuple[float, int]] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Future[None] | None = None


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

    def state_of(self: sctp.RTCSctpTransport) -> _Repeats:
        state: _Repeats | None = self.__dict__.get("_kilocall_repeats")
        if state is None:
            state = self.__dict__["_kilocall_repeats"] = _Repeats()
        return state

    def waiting(self: sctp.RTCSctpTransport) -> list[sctp.DataChunk]:
        return [
            chunk
            for chunk in self._sent_queue
            if chunk._max_retransmits is None and not (chunk._acked or chunk._abandoned)
        ]

    def wait_s(self: sctp.RTCSctpTransport, times: int) -> float:
        base = max(REPEAT_LEAST_S, (self._srtt or 0.0) + REPEAT_MARGIN_S)
        grown = max(base, min(base * REPEAT_GROWTH**times, REPEAT_MOST_S))
        return grown + 8 * self._flight_size / REPEAT_BPS

    def arm(self: sctp.RTCSctpTransport) -> None:
        state, chunks = state_of(self), waiting(self)
        now = asyncio.get_running_loop().time()
        counts = {chunk.tsn: chunk._sent_count for chunk in chunks}
        # Whatever else may have sent a chunk again, its time counts from then.
        state.sent = {
            tsn: known if (known := state.sent.get(tsn)) is not None and known[1] == count else (now, count)
            for tsn, count in counts.items()
        }
        if state.timer is not None:
            state.timer.cancel()
            state.timer = None
        if state.sent and self._association_state == self.State.ESTABLISHED:
            due = min(at + wait_s(self, count - 1) for at, count in state.sent.values())
            state.timer = asyncio.get_running_loop().call_later(max(0.01, due - now), expired, self)

    def expired(self: sctp.RTCSctpTransport) -> None:
        state = state_of(self)
        state.timer = None
        now = asyncio.get_running_loop().time()
        for chunk in waiting(self):
            at, count = state.sent.get(chunk.tsn, (now, chunk._sent_count))
            if now - at >= wait_s(self, count - 1) - 0.01 and not chunk._retransmit:
                chunk._retransmit = True
                self._flight_size_decrease(chunk)
        state.task = asyncio.ensure_future(again(self))

    async def again(self: sctp.RTCSctpTransport) -> None:
        with contextlib.suppress(ConnectionError):
            await self._transmit()

    async def new_transmit(self: sctp.RTCSctpTransport) -> None:
        await transmit(self)
        arm(self)

    def new_set_state(self: sctp.RTCSctpTransport, state: Any) -> None:
        set_state(self, state)
        repeats: _Repeats | None = self.__dict__.get("_kilocall_repeats")
        if state == self.State.CLOSED and repeats is not None and repeats.timer is not None:
            repeats.timer.cancel()
            repeats.timer = None

    return _replace(cls, _transmit=new_transmit, _set_state=new_set_state)


def _delivery() -> Undo:
    """Tells whoever asked by `on_delivery` which messages the other side has acknowledged.

    SACKs say what arrived, so the motion encoder needs no acknowledgements of its own, 97 bytes each. aiortc
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

    return _replace(sctp.RTCSctpTransport, _receive_sack_chunk=receive)


def on_delivery(transport: sctp.RTCSctpTransport, told: Callable[[int, bytes], None]) -> None:
    """Calls `told(stream id, message)` for every message of one packet that the other side has acknowledged."""
    transport.__dict__["_kilocall_delivered"] = told


# --- RTCP ------------------------------------------------------------------------------------------------------


class _SlowRandom:
    """Stands in for the `random` module where aiortc waits `0.5 + random.random()` seconds between reports."""

    @staticmethod
    def random() -> float:
        return 2.0 + 5.0 * float(np.random.default_rng().random())


def _slow_rtcp() -> Undo:
    """RTCP reports every 2.5 to 7.5 seconds, the least that RFC 3550 asks for, instead of every second.

    They cost 1.0 kbit/s each way even when nobody speaks, measured, and 0.2 now. Nothing here reads them.
    Drop when aiortc scales the interval with the bandwidth.
    """
    undo_sender = _replace(rtp_sender, random=_SlowRandom)
    undo_receiver = _replace(rtp_receiver, random=_SlowRandom)

    def undo() -> None:
        undo_sender()
        undo_receiver()

    return undo


# --- ICE -------------------------------------------------------------------------------------------------------

CONSENT_REPEATS = 2


def _patient_consent() -> Undo:
    """Waits 3.5 s, with two repetitions, for the answer to a consent check.

    aioice waits 0.5 s and asks once, and closes after six failures in a row. So every connection with a round
    trip above 0.5 s (a slow link with a full queue is enough) ended after 33 s, measured, and at 30 % loss one
    check in two failed. Nothing is sent more often while answers come in time. Drop when aioice repeats consent
    checks as RFC 7675 allows.
    """
    original = ice.StunProtocol.request

    async def request(
        self: ice.StunProtocol,
        request: Any,
        addr: tuple[str, int],
        integrity_key: bytes | None = None,
        retransmissions: int | None = None,
    ) -> Any:
        repeats = CONSENT_REPEATS if retransmissions == 0 else retransmissions
        return await original(self, request, addr, integrity_key=integrity_key, retransmissions=repeats)

    return _replace(ice.StunProtocol, request=request)


CHECK_REPEATS_S = (0.15, 0.15, 0.2, 0.2, 0.3, 0.3, 0.5, 0.5, 1.0)
"""Waits before a connectivity check is sent again; the last one for all that follow."""
CHECKS = 20
"""So many in all: 13 s."""


def _quick_checks() -> Undo:
    """Repeats an unanswered connectivity check after 0.15 s, later ones after up to 1 s, for 13 s.

    aioice waits 0.5, 1, 2 s and so on. A check and its answer are one packet each, so that at 10 % loss one in five
    comes to nothing and at 30 % one in two, and a call that could begin after 0.1 s begins after 0.6 to 2. RFC 8445
    asks for 0.5 s where many checks run at once; two parties with a few addresses each have few. Drop when the
    timer can be set.
    """
    first, retry = stun.Transaction.__init__, stun.Transaction._Transaction__retry  # type: ignore[attr-defined]

    def init(
        self: stun.Transaction,
        request: stun.Message,
        addr: tuple[str, int],
        protocol: Any,
        retransmissions: int | None = None,
        **more: Any,
    ) -> None:
        self.__dict__["_kilocall_quick"] = retransmissions is None
        first(self, request, addr, protocol, CHECKS - 1 if retransmissions is None else retransmissions, **more)

    def new_retry(self: stun.Transaction) -> None:
        if self.__dict__.get("_kilocall_quick"):
            tries: int = self._Transaction__tries  # type: ignore[attr-defined]
            wait_s = CHECK_REPEATS_S[min(tries, len(CHECK_REPEATS_S) - 1)]
            self._Transaction__timeout_delay = wait_s  # type: ignore[attr-defined]
        retry(self)

    return _replace(stun.Transaction, __init__=init, _Transaction__retry=new_retry)


CORRECTIONS = (
    Correction("read every DTLS record", "aiortc", _drain_dtls),
    Correction("quick repeats of the handshake", "aiortc", _quick_dtls),
    Correction("packets that fit a 1280-byte MTU", "aiortc", _small_packets),
    Correction("bounded receive window", "aiortc", _bounded_window),
    Correction("delayed acknowledgements", "aiortc", _delayed_sack),
    Correction("quick setup", "aiortc", _quick_setup),
    Correction("quick repeats of reliable messages", "aiortc", _quick_repeats),
    Correction("told of delivery", "aiortc", _delivery),
    Correction("slow RTCP", "aiortc", _slow_rtcp),
    Correction("patient consent checks", "aioice", _patient_consent),
    Correction("quick connectivity checks", "aioice", _quick_checks),
)


# --- Speech ----------------------------------------------------------------------------------------------------

SAMPLE_RATE = 48_000
PACKET_MS = (20, 40, 60, 120)


class SilenceGate:
    """Says whether a block of speech is worth sending: discontinuous transmission.

    FFmpeg's libopus encoder has no switch for the codec's own DTX (tried with PyAV 18.1), so this one compares
    the block's level with a noise floor that falls at once and rises slowly. Word ends are kept by a hang-over,
    and one block every 2 s still goes out, so that the other side hears the room: 0.3 kbit/s.
    """

    OVER_FLOOR_DB = 9.0
    FLOOR_DB = (-75.0, -45.0)
    """Nothing above -36 dB is ever taken for silence."""
    FIRST_FLOOR_DB = -60.0
    RISE_DB_PER_S = 1.0
    HANG_OVER_MS = 240
    REFRESH_MS = 2000

    def __init__(self) -> None:
        self._floor_db = self.FIRST_FLOOR_DB
        self._hang_ms = 0
        self._silent_ms = 0

    def is_worth_sending(self, level_db: float, block_ms: int) -> bool:
        """For the next block, `block_ms` long with an RMS of `level_db` dB below full scale."""
        low, high = self.FLOOR_DB
        rising = self._floor_db + self.RISE_DB_PER_S * block_ms / 1000
        self._floor_db = min(max(min(level_db, rising), low), high)
        if level_db > self._floor_db + self.OVER_FLOOR_DB:
            self._hang_ms = self.HANG_OVER_MS
        else:
            self._hang_ms = max(0, self._hang_ms - block_ms)
        if self._hang_ms > 0:
            self._silent_ms = 0
            return True
        self._silent_ms += block_ms
        if self._silent_ms >= self.REFRESH_MS:
            self._silent_ms = 0
            return True
        return False


class SpeechEncoder(aiortc.codecs.base.Encoder):
    """Opus for speech: mono, 6 to 16 kbit/s, 60 ms packets, nothing in silence.

    aiortc's encoder is fixed at 96 kbit/s stereo in 20 ms packets, 168 kbit/s on the wire whether anyone speaks
    or not. `bitrate_bps` and `packet_ms` may be changed at any time and hold from the next packet on.
    """

    def __init__(self, bitrate_bps: int = 12_000, packet_ms: int = 60, *, dtx: bool = True) -> None:
        if packet_ms not in PACKET_MS:
            raise ValueError(f"packet_ms is {packet_ms}, allowed are {', '.join(map(str, PACKET_MS))}")
        self.bitrate_bps = bitrate_bps
        self.packet_ms = packet_ms
        self.dtx = dtx
        self._made_for: tuple[int, int] | None = None
        self._codec: AudioCodecContext
        self._resampler: AudioResampler
        self._gate = SilenceGate()
        self._samples = 0

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """At most one packet of a frame that is no longer than a packet, with its RTP time in samples."""
        if not isinstance(frame, AudioFrame):
            raise TypeError(f"speech encoder takes audio frames, not {type(frame).__name__}")
        if self._made_for != (self.bitrate_bps, self.packet_ms):
            self._make()
        packets: list[bytes] = []
        time = self._samples
        for block in self._resampler.resample(frame):
            begin = self._samples
            self._samples += block.samples
            if self.dtx and not self._gate.is_worth_sending(_level_db(block), self.packet_ms):
                continue
            block.pts = begin
            time = begin
            packets = [bytes(packet) for packet in self._codec.encode(block)] or packets
        return packets, time

    def pack(self, packet: Packet[Any]) -> tuple[list[bytes], int]:
        """A packet that is Opus already."""
        return [bytes(packet)], int(packet.pts or 0)

    def _make(self) -> None:
        self._made_for = (self.bitrate_bps, self.packet_ms)
        codec = AudioCodecContext.create("libopus", "w")
        codec.bit_rate = self.bitrate_bps
        codec.format = "s16"
        codec.layout = "mono"
        codec.sample_rate = SAMPLE_RATE
        codec.time_base = fractions.Fraction(1, SAMPLE_RATE)
        codec.options = {"application": "voip", "frame_duration": str(self.packet_ms), "vbr": "on"}
        self._codec = codec
        size = SAMPLE_RATE * self.packet_ms // 1000
        self._resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE, frame_size=size)


def _level_db(block: AudioFrame) -> float:
    samples = block.to_ndarray().astype(np.float32) / 32768
    return 10 * math.log10(float(np.mean(samples * samples)) + 1e-10)


class SpeechJitterBuffer(JitterBuffer):
    """Hands on each speech packet as it comes, in order, and never waits for one that is missing.

    aiortc's buffer holds four packets back, 240 ms here, waits for a lost one until sixteen have come, and stays
    fourteen packets late from then on, measured: one loss makes speech 840 ms late for good. A packet is a whole
    Opus frame, and what smooths the arrival times is the page that plays it, so nothing is held here.
    """

    def __init__(self) -> None:
        super().__init__(capacity=16)
        self._last: int | None = None

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        ahead = 1 if self._last is None else (packet.sequence_number - self._last) & 0xFFFF
        # More than 1000 back is no late packet but a sender that began again.
        if ahead == 0 or ahead > 0x10000 - 1000:
            return False, None
        self._last = packet.sequence_number
        data: bytes = packet._data  # type: ignore[attr-defined]  # set by RTCRtpReceiver
        return False, JitterFrame(data=data, timestamp=packet.timestamp)


class PromptVideoBuffer(JitterBuffer):
    """Hands on a picture with its last packet, which RTP marks.

    aiortc's buffer knows a picture to be whole only by the first packet of the next one: a camera of 25 frames a second
    is 40 ms late, and one of 15 is 67. Drop when aiortc reads the marker.
    """

    def __init__(self) -> None:
        super().__init__(capacity=512, is_video=True)
        self._handed_on: int | None = None

    def _remove_frame(self, sequence_number: int) -> JitterFrame | None:
        packets: list[RtpPacket] = []
        assert self._origin is not None  # set by the first packet
        # What comes after the marker with the same time is padding, and no picture of its own.
        while (first := self._packets[self._origin % self.capacity]) and first.timestamp == self._handed_on:
            self.remove(1)
        for count in range(self.capacity):
            packet = self._packets[(self._origin + count) % self.capacity]
            if packet is None or (packets and packet.timestamp != packets[0].timestamp):
                break
            packets.append(packet)
            if packet.marker:
                data = b"".join(part._data for part in packets)  # type: ignore[attr-defined]  # set by RTCRtpReceiver
                self.remove(len(packets))
                self._handed_on = packet.timestamp
                return JitterFrame(data=data, timestamp=packet.timestamp)
        return super()._remove_frame(sequence_number)


def set_prompt_video(receiver: rtp_receiver.RTCRtpReceiver) -> None:
    """Makes one receiver hand on each picture as soon as it is whole; before it starts."""
    receiver._RTCRtpReceiver__jitter_buffer = PromptVideoBuffer()  # type: ignore[attr-defined]


def set_speech_encoder(sender: rtp_sender.RTCRtpSender, encoder: SpeechEncoder) -> None:
    """Makes one sender use `encoder`; before it starts."""
    sender._RTCRtpSender__encoder = encoder  # type: ignore[attr-defined]


def set_speech_decoder(receiver: rtp_receiver.RTCRtpReceiver) -> None:
    """Makes one receiver hand on speech packets as they come; before it starts."""
    receiver._RTCRtpReceiver__jitter_buffer = SpeechJitterBuffer()  # type: ignore[attr-defined]


# --- Datagrams -------------------------------------------------------------------------------------------------

Datagram = Callable[[bytes, tuple[Any, ...]], None]


def on_datagrams(
    connection: ice.Connection,
    *,
    sent: Datagram,
    received: Datagram,
    addresses: Callable[[list[str]], list[str]] = lambda own: own,
) -> None:
    """Calls `sent` and `received` with every datagram of `connection` and its address, STUN included.

    `addresses` may change the list of the machine's own addresses to offer, to which aioice never adds
    127.0.0.1. To be called before candidates are gathered; the queries of a STUN or TURN server while
    gathering are not seen.
    """
    gather = connection.get_component_candidates

    async def gather_and_watch(component: int, own: list[str]) -> list[Any]:
        found = await gather(component, addresses(own))
        for protocol in connection._protocols:
            _watch(protocol, sent, received)
        return found

    def get_component_candidates(*, component: int, addresses: list[str]) -> Coroutine[Any, Any, list[Any]]:
        return gather_and_watch(component, addresses)

    connection.get_component_candidates = get_component_candidates  # type: ignore[assignment,method-assign]


def _watch(protocol: Any, sent: Datagram, received: Datagram) -> None:
    datagram_received, send_data, send_stun = protocol.datagram_received, protocol.send_data, protocol.send_stun

    def new_datagram_received(data: bytes, addr: tuple[Any, ...]) -> None:
        received(data, addr)
        datagram_received(data, addr)

    async def new_send_data(data: bytes, addr: tuple[str, int]) -> None:
        sent(data, addr)
        await send_data(data, addr)

    def new_send_stun(message: Any, addr: tuple[str, int]) -> None:
        sent(bytes(message), addr)
        send_stun(message, addr)

    protocol.datagram_received = new_datagram_received
    protocol.send_data = new_send_data
    protocol.send_stun = new_send_stun
