"""One WebRTC connection to the other party: motion, control messages and speech, counted byte by byte.

A Peer lives for one connection. After a change of network, or when the other side vanished, make a new one
through the same room; what a session must keep (source pictures, encoder state) belongs above it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from aioice.ice import get_host_addresses
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
from aiortc.rtcicetransport import parse_stun_turn_uri

from kilocall.proto.control import MAX_MESSAGE_BYTES, MAX_PART_BYTES, Part, parse_control
from kilocall.proto.errors import BadInput, BadPacket
from kilocall.proto.limits import MAX_PAYLOAD_BYTES
from kilocall.proto.motion_packet import HEADER_BYTES
from kilocall.runtime import aiortc_fixes

__all__ = [
    "MAX_SDP_BYTES",
    "Count",
    "IceServer",
    "Inbox",
    "Message",
    "Peer",
    "PeerSettings",
    "PeerState",
    "Traffic",
    "own_addresses",
]

logger = logging.getLogger(__name__)

MAX_SDP_BYTES = 16 << 10
MAX_MOTION_BYTES = MAX_PAYLOAD_BYTES + HEADER_BYTES + 2
MOTION_ID, CONTROL_ID = 0, 1
"""Data channel ids, agreed beforehand: that saves their announcement and the wait for it."""
KINDS = ("data", "audio", "rtcp", "stun", "other")
"""What a datagram carries: DTLS (motion, control and their acknowledgements), RTP, RTCP, ICE."""
WATCH_S = 0.25
PROBE_AFTER_S = 5.5
BULK_BURST_BYTES = 8192
#: So much of them may be on its way at a time: motion must fit in beside it, also while nothing is acknowledged.
BULK_FLIGHT_BYTES = 2200
CLOSE_WITHIN_S = 5.0

PeerState = Literal["new", "connecting", "open", "closed"]


@dataclass(frozen=True)
class IceServer:
    """A STUN or TURN server, for example `stun:host:3478` or `turn:host:3478?transport=udp`."""

    url: str
    username: str | None = None
    credential: str | None = None


@dataclass(frozen=True)
class PeerSettings:
    """What a connection is made with."""

    ice_servers: tuple[IceServer, ...] = ()
    """None by default: then nobody but the other party is ever contacted."""
    relay_only: bool = False
    """Only through the TURN server, so that the other party does not learn this machine's address."""
    loopback: Literal["exclude", "include", "only"] = "exclude"
    """Whether 127.0.0.1 is offered; for two parties on one machine."""
    audio: bool = True
    """Whether there is a speech track each way; both sides must agree."""
    audio_bitrate_bps: int = 12_000
    audio_packet_ms: int = 60
    connect_timeout_s: float = 15.0
    vanished_after_s: float = 9.0
    """A connection on which nothing at all arrives for so long is given up."""
    motion_backlog_bytes: int = 400
    """Motion is dropped while more than this waits to be sent."""
    bulk_bps: int = 48_000
    """Most that messages of several parts (pictures) take, after a first burst of 8 KiB."""
    inbox_messages: int = 64


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
    def total_packets(self) -> int:
        return sum(count.packets for count in self.kinds.values())

    @property
    def total_bytes(self) -> int:
        return sum(count.bytes for count in self.kinds.values())

    def add(self, data: bytes, addr: tuple[Any, ...]) -> None:
        count = self.kinds[_kind(data)]
        count.packets += 1
        count.bytes += len(data) + (48 if ":" in addr[0] else 28)

    def copy(self) -> Traffic:
        return Traffic({kind: Count(count.packets, count.bytes) for kind, count in self.kinds.items()})


def own_addresses() -> frozenset[str]:
    """Addresses of this machine that others may reach it at."""
    return frozenset(get_host_addresses(use_ipv4=True, use_ipv6=True))


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


@dataclass(frozen=True)
class Message:
    data: bytes
    arrived_us: int


class Inbox:
    """Received messages, at most so many messages and bytes; the oldest are dropped and counted."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._messages: deque[Message] = deque()
        self._bytes = 0
        self._closed = False
        self._arrived = asyncio.Event()
        self.received = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Message) -> None:
        self.received += 1
        self._messages.append(message)
        self._bytes += len(message.data)
        while len(self._messages) > self._most or self._bytes > self._most_bytes:
            self._bytes -= len(self._messages.popleft().data)
            self.dropped += 1
        self._arrived.set()

    def close(self) -> None:
        self._closed = True
        self._arrived.set()

    async def get(self) -> Message | None:
        """The next message; None once the connection is closed and everything has been read."""
        while not self._messages:
            if self._closed:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        message = self._messages.popleft()
        self._bytes -= len(message.data)
        return message


class _NewestFrames(asyncio.Queue[Any]):
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
        clock_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
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
        self._bulk: deque[bytes] = deque()
        self._bulk_bytes = 0
        self._bulk_waiting = asyncio.Event()
        self._assembly = bytearray()
        self._assembly_left = 0

        self._connection = self._make_connection()
        # Audio first: the first section's transport is the one that all share.
        self._encoder = aiortc_fixes.SpeechEncoder(self.settings.audio_bitrate_bps, self.settings.audio_packet_ms)
        self._sender: RTCRtpSender | None = None
        if self.settings.audio:
            transceiver = self._connection.addTransceiver("audio", direction="sendrecv")
            opus = [
                codec
                for codec in RTCRtpSender.getCapabilities("audio").codecs
                if codec.mimeType.lower() == "audio/opus"
            ]
            transceiver.setCodecPreferences(opus)
            self._sender = transceiver.sender
            aiortc_fixes.set_speech_encoder(transceiver.sender, self._encoder)
            aiortc_fixes.set_speech_decoder(transceiver.receiver)
            self.set_audio(audio)
        self._channels = {
            "motion": self._make_channel("motion", MOTION_ID, ordered=False, most_retransmits=0),
            "control": self._make_channel("control", CONTROL_ID, ordered=True, most_retransmits=None),
        }
        transport = self._connection.sctp
        assert transport is not None  # made with the first channel
        self._sctp = transport
        self._ice = transport.transport.transport._connection
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
        if len(data) > MAX_MESSAGE_BYTES or self._bulk_bytes + len(data) > 2 * MAX_MESSAGE_BYTES:
            return False
        for part in Part.split(data):
            self._bulk.append(bytes(part))
            self._bulk_bytes += len(self._bulk[-1])
        self._bulk_waiting.set()
        return True

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

    # Below: aiortc's side of it

    def _waiting(self, stream: int) -> int:
        """Bytes of a channel that SCTP may not send yet."""
        return sum(len(chunk.user_data) for chunk in self._sctp._outbound_queue if chunk.stream_id == stream)

    def _make_connection(self) -> RTCPeerConnection:
        settings = self.settings
        for server in settings.ice_servers:
            try:
                parse_stun_turn_uri(server.url)
            except ValueError as error:
                raise BadInput(f"ICE server {server.url!r}: {error}; allowed are stun:host and turn:host") from None
        servers = [
            RTCIceServer(urls=server.url, username=server.username, credential=server.credential)
            for server in settings.ice_servers
        ]
        policy = RTCIceTransportPolicy.RELAY if settings.relay_only else RTCIceTransportPolicy.ALL
        configuration = RTCConfiguration(
            iceServers=servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE, iceTransportPolicy=policy
        )
        return RTCPeerConnection(configuration)

    def _make_channel(self, label: str, number: int, *, ordered: bool, most_retransmits: int | None) -> RTCDataChannel:
        channel = self._connection.createDataChannel(
            label, ordered=ordered, maxRetransmits=most_retransmits, negotiated=True, id=number
        )
        channel.on("message", lambda data: self._message(label, data))
        channel.on("open", self._channel_opened)
        return channel

    def _addresses(self, own: list[str]) -> list[str]:
        loopback = self.settings.loopback
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
        return str(self._connection.localDescription.sdp)

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
        self._bulk.clear()
        self._bulk_waiting.set()
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
            self._own(self._pump(), "pump")
            self._own(self._probe(), "probe")

    def _unasked_channel(self, channel: RTCDataChannel) -> None:
        self.malformed += 1
        channel.close()

    def _track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio" and self.remote_audio is None:
            track._queue = _NewestFrames()  # type: ignore[attr-defined]
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
        elif data[:2] == b"\x93\x09":  # an array that begins with Part.TYPE
            self._part(data)
        else:
            self.control.put(Message(data, self._clock_us()))

    def _part(self, data: bytes) -> None:
        try:
            part = parse_control(data)
            assert isinstance(part, Part)
            size = len(part.data) + part.left
            if size != self._assembly_left and (self._assembly or size > MAX_MESSAGE_BYTES):
                raise BadPacket(f"part leaves {size} bytes, not {self._assembly_left}")
        except BadPacket:
            self.malformed += 1
            self._assembly.clear()
            self._assembly_left = 0
            return
        self._assembly += part.data
        self._assembly_left = part.left
        if not part.left:
            self.control.put(Message(bytes(self._assembly), self._clock_us()))
            self._assembly.clear()

    async def _pump(self) -> None:
        """Hands on the parts of long messages, one when the one before has left, at the rate allowed."""
        tokens, then = float(BULK_BURST_BYTES), time.monotonic()
        while self.state == "open":
            if not self._bulk:
                self._bulk_waiting.clear()
                await self._bulk_waiting.wait()
                continue
            now = time.monotonic()
            tokens = min(BULK_BURST_BYTES, tokens + (now - then) * self.settings.bulk_bps / 8)
            then = now
            size = len(self._bulk[0])
            if tokens < size or self.backlog_bytes or self._sctp._flight_size > BULK_FLIGHT_BYTES:
                await asyncio.sleep(0.01)
                continue
            tokens -= size
            self._bulk_bytes -= size
            self._send("control", self._bulk.popleft())
            await asyncio.sleep(0)

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
