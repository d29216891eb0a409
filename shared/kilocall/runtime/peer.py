"""One WebRTC connection to the other party: motion, control messages and speech, counted byte by byte.

A Peer lives for one connection. After a change of network, or when the other side vanished, make a new one
through the same room; what a session must keep (source pictures, encoder state) belongs above it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Literal

from aioice import ice
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.exceptions import InvalidStateError

from kilocall.proto.control import MAX_MESSAGE_BYTES, MAX_PART_BYTES
from kilocall.proto.errors import BadInput, BadPacket
from kilocall.proto.limits import MAX_PAYLOAD_BYTES
from kilocall.proto.motion_packet import HEADER_BYTES
from kilocall.runtime import aiortc_fixes
from kilocall.runtime.clock import now_us
from kilocall.runtime.inbox import Inbox, Message
from kilocall.runtime.long_messages import Assembly, PartsQueue, is_part
from kilocall.runtime.peer_settings import PeerSettings
from kilocall.runtime.traffic import Traffic

__all__ = ["MAX_SDP_BYTES", "NewestFrames", "Peer", "PeerState", "own_addresses"]

logger = logging.getLogger(__name__)

MAX_SDP_BYTES = 16 << 10
MAX_MOTION_BYTES = MAX_PAYLOAD_BYTES + HEADER_BYTES + 2
MOTION_ID, CONTROL_ID = 0, 1
"""Data channel ids, agreed beforehand: that saves their announcement and the wait for it."""
WATCH_S = 0.25
PROBE_AFTER_S = 5.5
#: So much of long messages may be on its way at a time: motion must fit in beside, also while nothing is acknowledged.
BULK_FLIGHT_BYTES = 2200
CLOSE_WITHIN_S = 5.0

PeerState = Literal["new", "connecting", "open", "closed"]


def own_addresses() -> frozenset[str]:
    """Addresses of this machine that others may reach it at."""
    return frozenset(ice.get_host_addresses(use_ipv4=True, use_ipv6=True))


class NewestFrames(asyncio.Queue[Any]):
    """Replaces the endless queue between aiortc's decoder and the track: drops the oldest beyond 2 s."""

    MOST = 100

    async def put(self, item: Any) -> None:
        while self.qsize() >= self.MOST:
            self.get_nowait()
        self.put_nowait(item)


class Peer:
    """A connection to one other party. To be made and used on the event loop's thread.

        offering side:  text = await peer.offer();  ... ;  await peer.accept(answer)
        other side:     text = await peer.answer(offer)

    Offers and answers hold all candidates (no trickling). `motion` and `control` hold what arrives; messages that
    are too long, of text or in disorder are counted in `malformed` and dropped. `on_state` is called with each
    new state. Raises BadInput for settings that cannot be used.
    """

    def __init__(
        self,
        settings: PeerSettings | None = None,
        *,
        audio: MediaStreamTrack | None = None,
        on_state: Callable[[PeerState], None] | None = None,
        on_delivered: Callable[[bytes], None] | None = None,
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        aiortc_fixes.apply()
        self.settings = settings or PeerSettings()
        self.state: PeerState = "new"
        self.closed_because = ""
        """Why it is closed: for people."""
        self.motion = Inbox(self.settings.inbox_messages, 1 << 20)
        self.control = Inbox(self.settings.inbox_messages, 4 * MAX_MESSAGE_BYTES)
        self.remote_audio: MediaStreamTrack | None = None
        """The other side's speech, once its description is known."""
        self.malformed = 0
        self.motion_dropped = 0
        """Motion messages that were not sent because earlier ones still waited."""
        self.rtt_s: float | None = None
        """Round trip of the last ICE check."""
        self._on_state, self._on_delivered, self._clock_us = on_state, on_delivered, clock_us
        self._sent, self._received = Traffic(), Traffic()
        self._heard_at = time.monotonic()
        self._began_at = time.monotonic()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._probing = False
        self._parts = PartsQueue(self.settings.bulk_bps)
        self._assembly = Assembly()

        self._connection = self._make_connection()
        # Audio first: the first section's transport is the one that all share.
        self._encoder = aiortc_fixes.SpeechEncoder(self.settings.audio_bitrate_bps, self.settings.audio_packet_ms)
        self._sender = self._add_speech(audio) if self.settings.audio else None
        self._channels = {
            "motion": self._make_channel("motion", MOTION_ID, ordered=False, most_retransmits=0),
            "control": self._make_channel("control", CONTROL_ID, ordered=True, most_retransmits=None),
        }
        transport = self._connection.sctp
        assert transport is not None  # made with the first channel
        self._sctp = transport
        self._ice = transport.transport.transport._connection
        relays = [server.as_turn() for server in self.settings.ice_servers if server.relays]
        aiortc_fixes.use_relays(self._ice, relays, hide_address=self.settings.relay_only)
        aiortc_fixes.on_datagrams(
            self._ice, sent=self._sent.add, received=self._count_received, addresses=self._addresses
        )
        aiortc_fixes.on_delivery(transport, self._delivered)
        self._connection.on("connectionstatechange", self._connection_changed)
        self._connection.on("track", self._track)
        self._connection.on("datachannel", self._unasked_channel)

    # Describing the connection

    async def offer(self) -> str:
        """This side's SDP, to be answered."""
        self._begin()
        description = await self._connection.createOffer()
        return await self._set_local(description)

    async def answer(self, offer: str) -> str:
        """This side's SDP for the other side's. Raises BadPacket for one that cannot be used."""
        self._begin()
        await self._set_remote(offer, "offer")
        try:
            return await self._set_local(await self._connection.createAnswer())
        except Exception as error:  # what aiortc's parser let through, see _set_remote
            raise BadPacket(f"peer's offer cannot be answered: {type(error).__name__} {error}"[:300]) from None

    async def accept(self, answer: str) -> None:
        """Takes the answer to this side's offer. Raises BadPacket for one that cannot be used."""
        await self._set_remote(answer, "answer")

    async def wait_open(self) -> bool:
        """Waits until messages can be sent; False when it came to nothing, see `closed_because`."""
        while self.state in ("new", "connecting"):
            self._changed.clear()
            await self._changed.wait()
        return self.state == "open"

    async def wait_closed(self) -> str:
        """Waits for the end and returns `closed_because`."""
        while self.state != "closed":
            self._changed.clear()
            await self._changed.wait()
        return self.closed_because

    async def close(self, because: str = "closed on this side") -> None:
        """Ends the connection and waits until its sockets are closed. May be called again."""
        self._finish(because)
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_WITHIN_S)

    # Sending

    def send_motion(self, data: bytes) -> bool:
        """Sends one motion packet, unless earlier ones still wait: then it is dropped, and False returned."""
        waiting = self._waiting(MOTION_ID) + self._channels["motion"].bufferedAmount
        if self.state != "open" or waiting > self.settings.motion_backlog_bytes:
            self.motion_dropped += 1
            return False
        return self._send("motion", data)

    def send_control(self, data: bytes) -> bool:
        """Sends one control message; False when not open or too much is waiting.

        One longer than MAX_PART_BYTES goes in parts, at most `bulk_bps`, with motion and shorter messages in
        between: those overtake it.
        """
        if self.state != "open":
            return False
        if len(data) <= MAX_PART_BYTES:
            return self._send("control", data)
        return self._parts.add(data)

    def set_audio(self, track: MediaStreamTrack | None) -> None:
        """Sends `track` as speech from now on; None: nothing."""
        if self._sender is None:
            raise BadInput("this connection was made without audio")
        self._sender.replaceTrack(track)

    def set_speech(self, *, bitrate_bps: int, packet_ms: int | None = None) -> None:
        """Changes the speech encoder from its next packet on; 6000 to 64000 bit/s, 20, 40, 60 or 120 ms."""
        if not 6000 <= bitrate_bps <= 64_000:
            raise BadInput(f"speech bit rate is {bitrate_bps}, allowed are 6000 to 64000")
        if packet_ms is not None:
            if packet_ms not in aiortc_fixes.PACKET_MS:
                raise BadInput(f"speech packet_ms is {packet_ms}, allowed are 20, 40, 60, 120")
            self._encoder.packet_ms = packet_ms
        self._encoder.bitrate_bps = bitrate_bps

    @property
    def backlog_bytes(self) -> int:
        """Bytes of messages that wait on this machine to be sent; parts not yet handed on are not counted."""
        buffered = sum(channel.bufferedAmount for channel in self._channels.values())
        return buffered + self._waiting(MOTION_ID) + self._waiting(CONTROL_ID)

    # Watching

    def traffic(self) -> tuple[Traffic, Traffic]:
        """Copies of what was sent and received so far; behind a TURN relay without its own framing."""
        return self._sent.copy(), self._received.copy()

    @property
    def silent_s(self) -> float:
        """How long nothing at all has arrived."""
        return time.monotonic() - self._heard_at

    @property
    def local_address(self) -> str | None:
        """This machine's address that the connection uses; None before there is one, or through a relay."""
        for pair in self._ice._nominated.values():
            return None if pair.local_candidate.type == "relay" else str(pair.local_addr[0])
        return None

    @property
    def endpoints(self) -> tuple[ice.StunProtocol, ...]:
        """What sends and receives its datagrams, one for each own candidate; none before there are candidates."""
        return tuple(self._ice._protocols)

    # Below: aiortc's side of it

    def _waiting(self, stream: int) -> int:
        """Bytes of a channel that SCTP may not send yet."""
        return sum(len(chunk.user_data) for chunk in self._sctp._outbound_queue if chunk.stream_id == stream)

    def _make_connection(self) -> RTCPeerConnection:
        settings = self.settings
        for server in settings.ice_servers:
            server.check()
        # Of TURN servers aiortc would take the first alone.
        servers = [RTCIceServer(urls=server.url) for server in settings.ice_servers if not server.relays]
        policy = RTCIceTransportPolicy.RELAY if settings.relay_only else RTCIceTransportPolicy.ALL
        configuration = RTCConfiguration(
            iceServers=servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE, iceTransportPolicy=policy
        )
        return RTCPeerConnection(configuration)

    def _add_speech(self, track: MediaStreamTrack | None) -> RTCRtpSender:
        """Speech both ways, of Opus alone and with this package's encoder and decoder."""
        transceiver = self._connection.addTransceiver("audio", direction="sendrecv")
        opus = [
            codec for codec in RTCRtpSender.getCapabilities("audio").codecs if codec.mimeType.lower() == "audio/opus"
        ]
        transceiver.setCodecPreferences(opus)
        aiortc_fixes.set_speech_encoder(transceiver.sender, self._encoder)
        aiortc_fixes.set_speech_decoder(transceiver.receiver)
        transceiver.sender.replaceTrack(track)
        return transceiver.sender

    def _make_channel(self, label: str, number: int, *, ordered: bool, most_retransmits: int | None) -> RTCDataChannel:
        channel = self._connection.createDataChannel(
            label, ordered=ordered, maxRetransmits=most_retransmits, negotiated=True, id=number
        )
        channel.on("message", lambda data: self._message(label, data))
        channel.on("open", self._channel_opened)
        return channel

    def _addresses(self, own: list[str]) -> list[str]:
        loopback = self.settings.loopback
        if self.settings.relay_only:
            return []  # not the loopback's either: nothing but the relay is to be used
        return own if loopback == "exclude" else [*own, "127.0.0.1"] if loopback == "include" else ["127.0.0.1"]

    def _begin(self) -> None:
        if self.state != "new":
            raise BadInput(f"connection is {self.state}; an offer or answer is made once")
        self._began_at = self._heard_at = time.monotonic()
        self._set_state("connecting")
        self._own(self._watch(), "watch")

    async def _set_local(self, description: RTCSessionDescription) -> str:
        # Without header extensions each audio packet is 8 bytes shorter: 1 kbit/s at 60 ms.
        lines = [line for line in description.sdp.splitlines() if not line.startswith("a=extmap:")]
        plain = RTCSessionDescription(sdp="\r\n".join(lines) + "\r\n", type=description.type)
        await self._connection.setLocalDescription(plain)
        made = str(self._connection.localDescription.sdp).splitlines()
        # One fingerprint, the one that is compared (proto/trust.py); aiortc writes it with two longer hashes as well.
        spare = ("a=fingerprint:sha-384 ", "a=fingerprint:sha-512 ")
        return "".join(f"{line}\r\n" for line in made if not line.startswith(spare))

    async def _set_remote(self, text: str, kind: Literal["offer", "answer"]) -> None:
        if len(text) > MAX_SDP_BYTES:
            raise BadPacket(f"peer's {kind} is {len(text)} characters, most is {MAX_SDP_BYTES}")
        if "m=application" not in text:
            raise BadPacket(f"peer's {kind} has no section for data channels")
        try:
            await self._connection.setRemoteDescription(RTCSessionDescription(sdp=text, type=kind))
        # aiortc's parser meets bad SDP with almost any exception: KeyError, AssertionError, ValueError...
        except Exception as error:
            raise BadPacket(f"peer's {kind} cannot be used: {type(error).__name__} {error}"[:300]) from None

    def _own(self, coroutine: Any, name: str) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(coroutine)
        self._tasks.add(task)

        def done(_: object) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and task.exception() is not None:
                logger.error("peer's task %s ended", name, exc_info=task.exception())

        task.add_done_callback(done)

    def _set_state(self, state: PeerState) -> None:
        self.state = state
        self._changed.set()
        if self._on_state is not None:
            self._on_state(state)

    def _finish(self, because: str) -> None:
        if self.state == "closed":
            return
        self.closed_because = because
        self.motion.close()
        self.control.close()
        self._parts.clear()
        self._set_state("closed")
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        self._own(self._connection.close(), "close")

    def _connection_changed(self) -> None:
        state = self._connection.connectionState
        if state == "failed":
            self._finish("the two sides cannot reach each other")
        elif state == "closed":
            self._finish("the other side has closed the connection")

    def _channel_opened(self) -> None:
        if self.state == "connecting" and all(c.readyState == "open" for c in self._channels.values()):
            self._set_state("open")
            pump = self._parts.pump(
                lambda part: self._send("control", part),
                may_send=lambda: not self.backlog_bytes and self._sctp._flight_size <= BULK_FLIGHT_BYTES,
                is_open=lambda: self.state == "open",
            )
            self._own(pump, "pump")
            self._own(self._probe(), "probe")

    def _unasked_channel(self, channel: RTCDataChannel) -> None:
        self.malformed += 1
        channel.close()

    def _track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio" and self.remote_audio is None:
            track._queue = NewestFrames()  # type: ignore[attr-defined]
            self.remote_audio = track

    def _count_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._heard_at = time.monotonic()
        self._received.add(data, addr)

    def _delivered(self, stream: int, data: bytes) -> None:
        if stream == MOTION_ID and self._on_delivered is not None:
            self._on_delivered(data)

    def _send(self, label: str, data: bytes) -> bool:
        try:
            self._channels[label].send(data)
        except (InvalidStateError, ValueError):  # closing, or longer than the other side takes
            return False
        return True

    def _message(self, label: str, data: bytes | str) -> None:
        most = MAX_MOTION_BYTES if label == "motion" else MAX_MESSAGE_BYTES
        if self.state == "closed":
            return
        if isinstance(data, str) or len(data) > most:
            self.malformed += 1
        elif label == "motion":
            self.motion.put(Message(data, self._clock_us()))
        elif is_part(data):
            self._part(data)
        else:
            self.control.put(Message(data, self._clock_us()))

    def _part(self, data: bytes) -> None:
        try:
            whole = self._assembly.add(data)
        except BadPacket:
            self.malformed += 1
            return
        if whole is not None:
            self.control.put(Message(whole, self._clock_us()))

    async def _watch(self) -> None:
        """Notices a connection that never opens and another side that has vanished."""
        settings = self.settings
        while self.state != "closed":
            await asyncio.sleep(WATCH_S)
            if self.state == "connecting":
                if time.monotonic() - self._began_at > settings.connect_timeout_s:
                    self._finish(f"no connection within {settings.connect_timeout_s:g} s")
            elif self.state == "open":
                if self.silent_s > settings.vanished_after_s:
                    self._finish(f"nothing has arrived for {settings.vanished_after_s:g} s")
                elif self.silent_s > PROBE_AFTER_S and not self._probing:
                    # On an idle connection a check comes every 4 to 6 s; one lost must not look like the end.
                    self._own(self._probe(), "probe")

    async def _probe(self) -> None:
        """One ICE check beside aioice's own every 5 s: any answer is a sign of life and a round trip time."""
        self._probing = True
        try:
            for pair in list(self._ice._nominated.values()):
                began = time.monotonic()
                password = self._ice.remote_password
                request = self._ice.build_request(pair, nominate=False)
                if password is not None:
                    await pair.protocol.request(
                        request, pair.remote_addr, integrity_key=password.encode(), retransmissions=0
                    )
                    self.rtt_s = time.monotonic() - began
        except Exception as error:  # a transaction that fails in any way is no answer
            logger.debug("probe: %s", error)
        finally:
            self._probing = False
