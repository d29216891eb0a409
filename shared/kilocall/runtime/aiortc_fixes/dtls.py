"""DTLS: records that have arrived are read and are short, and a handshake survives loss quickly."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiortc.rtcdtlstransport as dtls
from OpenSSL import SSL

from kilocall.runtime.aiortc_fixes.correction import Correction, Undo, replace

__all__ = ["CORRECTIONS"]


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

    return replace(dtls.RTCDtlsTransport, _recv_next=receive_next)


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

    return replace(dtls.RTCDtlsTransport, _do_handshake=do_handshake, stop=new_stop)


CIPHERS = b"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA"


def _short_records() -> Undo:
    """Prefers ChaCha20-Poly1305, whose DTLS records are 8 bytes shorter than those of AES-GCM.

    AES-GCM sends half of its nonce with every record (RFC 5288), ChaCha20 none (RFC 7905): 29 bytes around a message
    instead of 37, which is 0.5 kbit/s of motion at 8 messages a second. The same four suites as aiortc offers, in
    another order, so that whoever lacks this one still connects. Drop with DTLS 1.3, whose records are shorter still.
    """
    original = dtls.RTCCertificate._create_ssl_context

    def create(self: dtls.RTCCertificate, srtp_profiles: list[dtls.SRTPProtectionProfile]) -> SSL.Context:
        context = original(self, srtp_profiles)
        context.set_cipher_list(CIPHERS)
        return context

    return replace(dtls.RTCCertificate, _create_ssl_context=create)


CORRECTIONS = (
    Correction("read every DTLS record", "aiortc", _drain_dtls),
    Correction("quick repeats of the handshake", "aiortc", _quick_dtls),
    Correction("short DTLS records", "aiortc", _short_records),
)
