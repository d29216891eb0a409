from __future__ import annotations

import asyncio
import contextlib
import fractions
import re
import socket
from itertools import cycle, islice

import numpy as np
import pytest
from aioice import ice
from aiortc import AudioStreamTrack
from av import AudioFrame

import kilocall.runtime.peer as peer_module
from kilocall.proto.control import MAX_MESSAGE_BYTES, Part, WantPicture
from kilocall.proto.errors import BadInput, BadPacket
from kilocall.runtime.aiortc_fixes import TurnServer
from kilocall.runtime.inbox import Inbox
from kilocall.runtime.peer import NewestFrames, Peer
from kilocall.runtime.peer_settings import IceServer, PeerSettings
from links import connect, delay, lose, lose_all, lose_pattern, peer_and_stranger, run, two_peers

STUN_BINDING, TURN_ALLOCATE = 1, 3  # RFC 8489, 8656
LOOPBACK = PeerSettings(loopback="only", audio=False)


async def all_of(inbox: Inbox, count: int) -> list[bytes]:
    got = [await inbox.get() for _ in range(count)]
    return [message.data for message in got if message is not None]


class Tone(AudioStreamTrack):
    """A warble, in real time, 20 ms a frame."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    async def recv(self) -> AudioFrame:
        await asyncio.sleep(0.02)
        at = np.arange(self._count * 960, (self._count + 1) * 960)
        samples = (6000 * np.sin(at / 20) * np.sin(at / 3000)).astype(np.int16)
        frame = AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, int(at[0]), fractions.Fraction(1, 48_000)
        self._count += 1
        return frame


def test_both_channels_carry_both_ways() -> None:
    async def check() -> None:
        async with two_peers(LOOPBACK) as (first, second):
            for sender, receiver in ((first, second), (second, first)):
                assert sender.send_motion(b"motion")
                assert sender.send_control(b"control")
                assert await all_of(receiver.motion, 1) == [b"motion"]
                assert await all_of(receiver.control, 1) == [b"control"]
            assert first.rtt_s is not None
            assert first.rtt_s < 0.5

    run(check())


def test_states_follow_each_other() -> None:
    async def check() -> None:
        states: list[str] = []
        async with two_peers(LOOPBACK, on_state=states.append) as (first, _):
            assert first.state == "open"
        assert states == ["connecting", "open", "closed"]

    run(check())


def test_lost_motion_is_never_repeated_and_the_rest_arrives_at_once() -> None:
    pattern = [False, False, True, False, True, False, False]

    async def check() -> None:
        async with two_peers(LOOPBACK) as (first, second):
            await asyncio.sleep(0.5)  # acknowledgements of the beginning are over
            # One datagram each, so loss is by message: an eighth would bring aiortc to report what it gave up.
            lose_pattern(first, pattern)
            for number in range(7):
                first.send_motion(bytes([number]))
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.1)
            kept = [0, 1, 3, 5, 6]
            assert len(second.motion) == len(kept)
            assert [data[0] for data in await all_of(second.motion, len(kept))] == kept
            await asyncio.sleep(1.5)  # past aiortc's retransmission timer of 1 s
            assert len(second.motion) == 0

    run(check())


def test_control_arrives_whole_and_in_order_over_a_link_that_loses_a_third() -> None:
    async def check() -> None:
        async with two_peers(LOOPBACK) as (first, second):
            lose_pattern(first, islice(cycle([False, True, False]), 60))
            for number in range(20):
                assert first.send_control(bytes([number]) * 50)
            assert [data[0] for data in await all_of(second.control, 20)] == list(range(20))

    run(check())


def test_long_message_comes_in_parts_with_motion_and_short_messages_between() -> None:
    picture = bytes(number % 251 for number in range(30_000))
    settings = PeerSettings(loopback="only", audio=False, bulk_bps=400_000)

    async def check() -> None:
        async with two_peers(settings) as (first, second):
            started = asyncio.get_running_loop().time()
            assert first.send_control(picture)
            assert first.send_control(bytes(WantPicture("0f" * 32)))
            for _ in range(5):
                assert first.send_motion(b"motion")
                await asyncio.sleep(0.02)
            await all_of(second.motion, 5)
            assert await all_of(second.control, 1) == [bytes(WantPicture("0f" * 32))]
            assert await all_of(second.control, 1) == [picture]
            # 8 KiB at once, the rest at 400 kbit/s.
            assert 0.3 < asyncio.get_running_loop().time() - started < 2
            assert second.malformed == 0

    run(check())


def test_too_long_or_too_many_messages_are_not_taken() -> None:
    async def check() -> None:
        async with two_peers(LOOPBACK) as (first, _):
            assert not first.send_control(bytes(MAX_MESSAGE_BYTES + 1))
            taken = [first.send_control(bytes(MAX_MESSAGE_BYTES)) for _ in range(4)]
            assert taken == [True, True, False, False] or taken == [True, False, False, False]

    run(check())


def test_malformed_and_oversized_messages_are_counted_and_dropped() -> None:
    async def check() -> None:
        async with peer_and_stranger(LOOPBACK) as (peer, stranger):
            stranger.motion.send("text")
            stranger.motion.send(bytes(peer_module.MAX_MOTION_BYTES + 1))
            stranger.control.send("text")
            stranger.control.send(b"\x93\x09rest")
            stranger.control.send(bytes(Part(MAX_MESSAGE_BYTES, b"x")))
            stranger.control.send(bytes(Part(10, b"x")))
            stranger.control.send(bytes(Part(8, b"x")))
            stranger.control.send(b"good")
            assert await all_of(peer.control, 1) == [b"good"]
            stranger.motion.send(b"good")
            assert await all_of(peer.motion, 1) == [b"good"]
            assert peer.malformed == 6
            assert peer.state == "open"

    run(check())


def test_channels_that_nobody_asked_for_are_closed() -> None:
    async def check() -> None:
        async with peer_and_stranger(LOOPBACK) as (peer, stranger):
            extra = stranger.connection.createDataChannel("extra")
            while extra.readyState != "closed":  # noqa: ASYNC110  # it forgets its listeners
                await asyncio.sleep(0.01)
            assert peer.malformed == 1
            assert peer.state == "open"

    run(check())


def test_motion_is_dropped_rather_than_queued() -> None:
    settings = PeerSettings(loopback="only", audio=False, inbox_messages=1000)

    async def check() -> None:
        async with two_peers(settings) as (first, second):
            delay(first, 0.4)  # nothing is acknowledged meanwhile: the congestion window is used up
            taken = []
            for _ in range(600):
                taken.append(first.send_motion(bytes(40)))
                await asyncio.sleep(0)
            assert not any(taken[sum(taken) :])
            assert settings.motion_backlog_bytes < first.backlog_bytes <= settings.motion_backlog_bytes + 40
            assert first.motion_dropped == 600 - sum(taken) > 0
            # What was taken is sent when there is room again.
            assert await all_of(second.motion, sum(taken)) == [bytes(40)] * sum(taken)

    run(check())


def test_traffic_counts_every_byte_on_both_sides_alike() -> None:
    async def check() -> None:
        async with two_peers(LOOPBACK) as (first, second):
            seen = 0

            def count(data: bytes) -> bool:
                nonlocal seen
                seen += len(data) + 28
                return False

            before = first.traffic()[0].total_bytes
            lose(first, count)
            for _ in range(10):
                first.send_motion(bytes(26))
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.6)
            sent, received = first.traffic()[0], second.traffic()[1]
            assert sent.total_bytes - before == seen
            assert sent == received
            # A message: 28 IP and UDP, 29 DTLS, 12 SCTP, 16 chunk, and 28 for 26 bytes.
            assert seen >= 10 * (28 + 85)
            assert sent.kinds["audio"].packets == sent.kinds["other"].packets == 0

    run(check())


def test_side_that_closes_is_noticed_at_once() -> None:
    async def check() -> None:
        async with two_peers(LOOPBACK) as (first, second):
            await first.close()
            assert await second.wait_closed() == "the other side has closed the connection"
            assert await second.motion.get() is None
            assert not second.send_motion(b"x")
            assert not second.send_control(b"x")

    run(check(), within_s=5)


def test_side_that_vanishes_is_noticed() -> None:
    settings = PeerSettings(loopback="only", audio=False, vanished_after_s=0.6)

    async def check() -> None:
        async with two_peers(settings) as (first, second):
            lose_all(second)
            assert await first.wait_closed() == "nothing has arrived for 0.6 s"

    run(check(), within_s=5)


def test_idle_connection_is_kept_by_checks_when_nothing_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails without the checks: aioice's own come only every 4 to 6 s."""
    monkeypatch.setattr(peer_module, "PROBE_AFTER_S", 0.2)
    settings = PeerSettings(loopback="only", audio=False, vanished_after_s=0.8)

    async def check() -> None:
        async with two_peers(settings) as (first, second):
            await asyncio.sleep(1.6)
            assert (first.state, second.state) == ("open", "open")

    run(check())


def test_nobody_who_answers_is_waited_for_only_so_long() -> None:
    async def check() -> None:
        peer = Peer(PeerSettings(loopback="only", audio=False, connect_timeout_s=0.2))
        await peer.offer()
        assert not await peer.wait_open()
        assert peer.closed_because == "no connection within 0.2 s"
        await peer.close()

    run(check())


@pytest.mark.parametrize("audio", [True, False])
@pytest.mark.parametrize(
    "text", ["", "v=0", "m=audio 9 UDP/TLS/RTP/SAVPF\r\n", "m=application 9 UDP/DTLS/SCTP x", "v=0\r\n" * 4000]
)
def test_descriptions_that_cannot_be_used_are_refused_with_a_reason(text: str, audio: bool) -> None:
    async def check() -> None:
        offering, answering = (Peer(PeerSettings(loopback="only", audio=audio)) for _ in range(2))
        await offering.offer()
        with pytest.raises(BadPacket, match="peer's answer"):
            await offering.accept(text)
        with pytest.raises(BadPacket, match="peer's offer"):
            await answering.answer(text)
        for peer in (offering, answering):
            await peer.close()

    run(check())


def test_description_holds_its_candidates_and_no_more_than_needed() -> None:
    async def check() -> None:
        peer = Peer(PeerSettings(loopback="only"))
        text = await peer.offer()
        assert re.findall(r"a=candidate:\S+ 1 udp \d+ (\S+)", text) == ["127.0.0.1"] * 2
        assert "a=extmap" not in text
        assert set(re.findall(r"a=rtpmap:\d+ (\S+)", text)) == {"opus/48000/2"}
        assert len(text) < 4000
        with pytest.raises(BadInput, match="once"):
            await peer.offer()
        await peer.close()

    run(check())


def own_candidates(description: str) -> dict[str, str]:
    """Kind of each address that a description names."""
    return dict(re.findall(r"a=candidate:\S+ 1 udp \d+ (\S+) \d+ typ (\w+)", description))


def test_loopback_is_offered_only_where_the_settings_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.2"])  # as if it were the LAN's

    async def check() -> None:
        offered = {}
        for loopback in ("exclude", "include", "only"):
            peer = Peer(PeerSettings(loopback=loopback, audio=False))
            offered[loopback] = own_candidates(await peer.offer())
            await peer.close()
        lan, own = {"127.0.0.2": "host"}, {"127.0.0.1": "host"}
        assert offered == {"exclude": lan, "include": lan | own, "only": own}

    run(check())


def test_nobody_is_contacted_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def look_up(name: str) -> str:
        asked.append(name)
        raise OSError("there is no network")

    # aiortc asks a public STUN server unless told otherwise, and the first that it needs is its address.
    monkeypatch.setattr(socket, "gethostbyname", look_up)

    async def check() -> None:
        named = (IceServer("stun:stun.example:3479"),)
        for servers, wanted in (((), []), (named, ["stun.example"])):
            peer = Peer(PeerSettings(ice_servers=servers, loopback="only", audio=False))
            await peer.offer()
            assert asked == wanted
            await peer.close()

    run(check())


def test_every_ice_server_is_asked() -> None:
    """aiortc would ask the first TURN server alone."""

    async def check() -> None:
        with contextlib.ExitStack() as sockets:
            servers = [sockets.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(3)]
            ports = []
            for server in servers:
                server.bind(("127.0.0.1", 0))
                server.setblocking(False)
                ports.append(server.getsockname()[1])
            stun, *turns = ports
            named = (
                IceServer(f"stun:127.0.0.1:{stun}"),
                *(IceServer(f"turn:127.0.0.1:{port}", "me", "word") for port in turns),
            )
            peer = Peer(PeerSettings(ice_servers=named, loopback="only", audio=False))
            offering = asyncio.ensure_future(peer.offer())  # would wait for the answers
            heard = [await asyncio.get_running_loop().sock_recv(server, 2048) for server in servers]
            assert [int.from_bytes(data[:2], "big") for data in heard] == [STUN_BINDING, TURN_ALLOCATE, TURN_ALLOCATE]
            offering.cancel()
            await asyncio.wait([offering])
            await peer.close()

    run(check())


def test_turn_addresses_are_read_and_bad_ones_refused() -> None:
    server = IceServer("turn:turn.example?transport=tcp", "me", "word")
    assert server.as_turn() == TurnServer("turn.example", 3478, "tcp", False, "me", "word")
    assert IceServer("turns:turn.example:443").as_turn() == TurnServer("turn.example", 443, "tcp", True, None, None)
    with pytest.raises(BadInput, match="'http://x': malformed uri"):
        Peer(PeerSettings(ice_servers=(IceServer("http://x"),)))


def test_speech_is_heard_both_ways_within_25_kbit_s() -> None:
    settings = PeerSettings(loopback="only", audio_bitrate_bps=8000)

    async def check() -> None:
        first, second = Peer(settings, audio=Tone()), Peer(settings, audio=Tone())
        await connect(first, second)
        for peer in (first, second):
            assert peer.remote_audio is not None
            loudest = 0
            for _ in range(8):
                frame = await peer.remote_audio.recv()
                assert isinstance(frame, AudioFrame)
                assert frame.sample_rate == 48_000
                loudest = max(loudest, int(np.max(np.abs(frame.to_ndarray()))))
            assert loudest > 1000
        before = first.traffic()[0].kinds["audio"]
        await asyncio.sleep(1.2)
        after = first.traffic()[0].kinds["audio"]
        assert 5 <= after.packets - before.packets <= 24  # 20 where the machine keeps up
        assert (after.bytes - before.bytes) * 8 / 1.2 < 25_000
        first.set_speech(bitrate_bps=6000, packet_ms=120)
        with pytest.raises(BadInput, match="bit rate is 5"):
            first.set_speech(bitrate_bps=5)
        for peer in (first, second):
            await peer.close()

    run(check())


def test_of_speech_that_is_not_taken_the_newest_is_kept() -> None:
    async def check() -> None:
        frames = NewestFrames()
        for number in range(500):
            await frames.put(number)
        assert frames.qsize() == 100
        assert await frames.get() == 400

    run(check())


def test_track_that_nobody_takes_from_does_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NewestFrames, "MOST", 4)

    async def check() -> None:
        first, second = Peer(PeerSettings(loopback="only")), Peer(PeerSettings(loopback="only"), audio=Tone())
        await connect(first, second)
        track = first.remote_audio
        assert track is not None
        await track.recv()
        await asyncio.sleep(1.2)
        waiting = 0
        with contextlib.suppress(TimeoutError):
            while waiting < 15:  # a frame comes every 60 ms: 20 would be there
                await asyncio.wait_for(track.recv(), 0.01)
                waiting += 1
        assert 3 <= waiting <= 8  # some come meanwhile
        for peer in (first, second):
            await peer.close()

    run(check())


def test_new_connection_follows_a_lost_one_at_once() -> None:
    async def check() -> None:
        async with two_peers(LOOPBACK) as (first, second):
            lose_all(first)
            lose_all(second)
            started = asyncio.get_running_loop().time()
            async with two_peers(LOOPBACK) as (again, back):
                assert again.send_motion(b"x")
                assert await all_of(back.motion, 1) == [b"x"]
                assert asyncio.get_running_loop().time() - started < 3

    run(check())
