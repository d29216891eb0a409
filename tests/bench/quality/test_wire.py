"""Wire costs by hand, and against what really crosses the loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCRtpSender
from aiortc.codecs.vpx import VpxPayloadDescriptor
from aiortc.mediastreams import MediaStreamError

from kilocall.bench.ffmpeg import find_ffmpeg
from kilocall.bench.quality.codecs import RatePoint, code_video, named, split_unit
from kilocall.bench.quality.wire import (
    data_channel_flow,
    packet_bytes,
    picture_messages,
    rtp_flow,
    rtp_payloads,
)
from kilocall.proto.wire_cost import SACK_BYTES, message_bytes
from kilocall.runtime.peer import Peer
from kilocall.runtime.peer_settings import PeerSettings
from links import run, two_peers


def test_small_parts_share_a_packet_and_a_large_one_is_cut() -> None:
    assert rtp_payloads([300], "h264") == [300]
    assert rtp_payloads([20, 5, 300], "h264") == [1 + 3 * 2 + 325]
    assert rtp_payloads([20, 5, 300], "hevc") == [2 + 3 * 2 + 325]
    # 2300 bytes without their header of 1: two pieces, each with 2 bytes of headers; parameter sets go before.
    assert rtp_payloads([20, 5, 2301], "h264") == [1 + 2 * 2 + 25, 1152, 1152]
    assert rtp_payloads([2302], "vvc") == [1153, 1153]
    assert rtp_payloads([2400], "vp8") == [804, 804, 804]
    assert rtp_payloads([100], "vp9") == [103]
    # The first OBU states its length in one byte, the last needs not; a byte of aggregation header.
    assert rtp_payloads([11, 90], "av1") == [1 + 12 + 90]
    assert rtp_payloads([200, 90], "av1") == [1 + 202 + 90]


@pytest.mark.parametrize("format", ["h264", "hevc", "vvc", "vp8", "vp9", "av1"])
def test_no_payload_is_too_large_and_no_byte_is_lost(format: str) -> None:
    for size in (1, 1159, 1160, 1161, 1163, 2316, 5000, 66_000):
        payloads = rtp_payloads([size], format)  # type: ignore[arg-type]
        assert max(payloads) <= 1160
        assert sum(payloads) >= size


def test_descriptor_is_as_large_as_that_of_vp8_with_a_picture_number() -> None:
    descriptor = VpxPayloadDescriptor(partition_start=1, partition_id=0, picture_id=300)
    assert rtp_payloads([100], "vp8") == [100 + len(bytes(descriptor))]


def test_steady_rate_leaves_the_key_frame_out() -> None:
    flow = rtp_flow([[5000], *[[100]] * 24], 1.0, "h264")
    assert flow.first_packets == 5
    # 28 IP and UDP, 12 RTP, 10 of SRTP; fragments carry 2 more and the header of 1 is theirs.
    assert flow.first_bytes == 4999 + 5 * (2 + 50)
    assert flow.steady_bps == pytest.approx(25 * 8 * 150)


def test_motion_is_acknowledged_after_a_while_or_so_many_messages() -> None:
    slow = data_channel_flow([24] * 80, 0, 10.0)
    assert slow.steady_bps == 8 * 80 * message_bytes(24) / 10
    assert slow.back_bps == 8 * SACK_BYTES * 2.5
    fast = data_channel_flow([24] * 250, 0, 10.0)
    assert fast.back_bps == pytest.approx(8 * SACK_BYTES * 250 / 8 / 10)


def test_source_picture_travels_in_parts() -> None:
    sizes = picture_messages(6000)
    assert len(sizes) == 7  # 6000 bytes and its description, at most 1000 in a part
    assert 6000 < sum(sizes) < 6200
    assert data_channel_flow([], 6000, 10.0).first_bytes == sum(map(message_bytes, sizes)) + 4 * SACK_BYTES


def test_layers_first_frame_is_part_of_the_first_picture_and_its_rest_of_the_messages() -> None:
    alone, with_it = (
        data_channel_flow([24] * 80, 6000, 10.0),
        data_channel_flow([24] * 79 + [96], 6000, 10.0, [900, 60]),
    )
    # In messages that go anyway it takes its bytes, 6 before a piece of 128 or more and 5 before a shorter one.
    assert with_it.first_bytes - alone.first_bytes == 906 + 65
    assert with_it.steady_bps - alone.steady_bps == pytest.approx(8 * 72 / 10)
    assert (with_it.first_packets, with_it.back_bps) == (alone.first_packets, alone.back_bps)


class _Capture:
    """IPv4 packets of UDP on the loopback: (IP length, UDP payload). Others may use it too, so ports are named."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        self.socket.bind(("lo", 0x0800))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.setblocking(False)

    def read(self, ports: set[int]) -> list[tuple[int, bytes]]:
        """Everything seen since the last call that was sent from one of `ports`."""
        found: list[tuple[int, bytes]] = []
        while True:
            try:
                data, address = self.socket.recvfrom(65_536)
            except BlockingIOError:
                return found
            head = 4 * (data[0] & 15)
            # The loopback shows each packet going and coming; one of them is enough.
            ours = data[9] == socket.IPPROTO_UDP and int.from_bytes(data[head : head + 2]) in ports
            if address[2] != socket.PACKET_OUTGOING and ours:
                length = int.from_bytes(data[2:4])
                found.append((length, data[head + 8 : length]))


def _ports(peer: Peer) -> set[int]:
    return {protocol.transport.get_extra_info("sockname")[1] for protocol in peer.endpoints}


@pytest.fixture
def capture() -> Iterator[_Capture]:
    if not hasattr(socket, "AF_PACKET"):
        pytest.skip("packets are captured on Linux only")
    try:
        made = _Capture()
    except PermissionError:
        pytest.skip("capturing packets needs root")
    yield made
    made.socket.close()


def test_motion_on_the_wire_is_what_a_capture_shows(capture: _Capture) -> None:
    sizes = [11, 12, 13, 24, 25, 26, 40, 63] * 3
    ports: list[set[int]] = []

    async def send() -> None:
        async with two_peers(PeerSettings(loopback="only", audio=False)) as (first, second):
            ports.extend((_ports(first), _ports(second)))
            await asyncio.sleep(1.0)  # the handshake's last words
            capture.read(set())
            for size in sizes:
                assert first.send_motion(bytes(size))
                await asyncio.sleep(0.04)
            await asyncio.sleep(1.0)
            assert second.motion.received == len(sizes)

    run(send())
    # DTLS begins with a byte of 20 to 63 (RFC 7983); the two directions are told apart by their length alone here,
    # because reading empties the capture: an acknowledgement has SACK_BYTES, a message more.
    seen = [length for length, data in capture.read(ports[0] | ports[1]) if 20 <= data[0] < 64]
    forward = [length for length in seen if length > SACK_BYTES]
    back = [length for length in seen if length <= SACK_BYTES]
    expected = [message_bytes(size) for size in sizes]
    assert forward[: len(expected)] == expected
    flow = data_channel_flow(sizes, 0, 0.04 * len(sizes))
    assert 8 * sum(expected) / (0.04 * len(sizes)) == pytest.approx(flow.steady_bps)
    # Acknowledged in groups: at least once, and no oftener than a slow machine's timers make of every eighth.
    assert 1 <= len(back) <= len(sizes) // 2
    assert back[0] == SACK_BYTES


class _Coded(MediaStreamTrack):
    """Coded pictures as a video track; aiortc packs them as they are."""

    kind = "video"

    def __init__(self, units: list[bytes]) -> None:
        super().__init__()
        self._units = list(enumerate(units))
        self.done = asyncio.Event()

    async def recv(self) -> av.Packet[Any]:
        await asyncio.sleep(0.01)
        if not self._units:
            self.done.set()
            raise MediaStreamError
        number, data = self._units.pop(0)
        packet = av.Packet(data)
        packet.pts, packet.time_base = number * 3600, Fraction(1, 90_000)
        return packet


def test_h264_on_the_wire_is_what_a_capture_shows(capture: _Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 255, (16, 16, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    frames = np.stack([np.roll(noise, 3 * number, 1) for number in range(12)])
    coded = code_video(frames, 25, named("x264-live"), RatePoint(20), find_ffmpeg())
    units = list(coded.packets)
    ports: set[int] = set()

    async def send() -> None:
        first, second = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
        track = _Coded(units)
        first.addTrack(track)
        transceiver = first.getTransceivers()[0]
        # Packetisation mode 1, as all browsers use it: pictures may be cut and parts put together.
        codecs = [
            codec
            for codec in RTCRtpSender.getCapabilities("video").codecs
            if codec.mimeType == "video/H264" and codec.parameters.get("packetization-mode") == "1"
        ]
        transceiver.setCodecPreferences(codecs)
        await first.setLocalDescription(await first.createOffer())
        await second.setRemoteDescription(first.localDescription)
        await second.setLocalDescription(await second.createAnswer())
        await first.setRemoteDescription(second.localDescription)
        for line in first.localDescription.sdp.splitlines():
            if line.startswith("a=candidate:"):
                ports.add(int(line.split()[5]))
        await asyncio.wait_for(track.done.wait(), 15)
        await asyncio.sleep(0.2)
        await first.close()
        await second.close()

    capture.read(set())
    run(send(), within_s=30)
    # RTP is 128 to 191, and RTCP within that has a second byte of 192 to 223 (RFC 5761).
    rtp = [(n, data) for n, data in capture.read(ports) if 128 <= data[0] < 192 and not 192 <= data[1] < 224]
    # All packets have the same header extensions, and these state their length in the clear.
    (extension,) = {4 + 4 * int.from_bytes(data[14:16]) if data[0] & 16 else 0 for _, data in rtp}
    # aiortc cuts at 1300 and prefers AES-GCM, whose tag has 16 bytes.
    payloads = [rtp_payloads([len(part) for part in split_unit(unit, "h264")], "h264", 1300) for unit in units]
    assert max(map(len, payloads)) > 1
    assert [n for n, _ in rtp] == [
        packet_bytes(size, extension=extension, tag=16) for unit in payloads for size in unit
    ]
