from __future__ import annotations

import asyncio
import fractions
import re
from itertools import cycle, islice
from typing import Any

import numpy as np
import pytest
from aiortc import AudioStreamTrack
from av import AudioFrame

import kilocall.runtime.peer as peer_module
from kilocall.proto.control import MAX_MESSAGE_BYTES, Part, WantPicture
from kilocall.proto.errors import BadInput, BadPacket
from kilocall.runtime.aiortc_fixes import TurnServer
from kilocall.runtime.inbox import Inbox
from kilocall.runtime.peer import Peer
from kilocall.runtime.peer_settings import IceServer, PeerSettings
from links import connect, lose, lose_all, lose_pattern, run, two_peers

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


def test_motion_is_neither_repeated_nor_ordered_and_control_is_both() -> None:
    async def check() -> None:
        async with two_peers(LOOPBACK) as (first, _):
            motion, control = (first._channels[label] for label in ("motion", "control"))
            assert (motion.ordered, motion.maxRetransmits) == (False, 0)
            assert (control.ordered, control.maxRetransmits) == (True, None)

    run(check())


def test_states_follow_each_other() -> None:
    async def check() -> None:
        states: list[str] = []
        async with two_peers(LOOPBACK, on_state=states.append) as (first, _):
            assert first.state == "open"
        assert states == ["connecting", "open", "closed"]

    run(check())


def test_lost_motion_stays_lost_and_the_rest_arrives_at_once() -> None:
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
            assert [data[0] for data in await all_of(second.motion, len(kept))] == kept
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
        async with two_peers(LOOPBACK) as (first, second):
            motion, control = (first._channels[label] for label in ("motion", "control"))
            motion.send("text")
            motion.send(bytes(peer_module.MAX_MOTION_BYTES + 1))
            control.send("text")
            control.send(b"\x93\x09rest")
            control.send(bytes(Part(MAX_MESSAGE_BYTES, b"x")))
            control.send(bytes(Part(10, b"x")))
            control.send(bytes(Part(8, b"x")))
            first.send_control(b"good")
            assert await all_of(second.control, 1) == [b"good"]
            assert first.send_motion(b"good")
            assert await all_of(second.motion, 1) == [b"good"]
            assert second.malformed == 6
            assert second.state == "open"

    run(check())


def test_channels_that_nobody_asked_for_are_closed() -> None:
    async def check() -> None:
        async with two_peers(LOOPBACK) as (first, second):
            extra = first._connection.createDataChannel("extra")
            while extra.readyState != "closed":  # noqa: ASYNC110  # it forgets its listeners
                await asyncio.sleep(0.01)
            assert second.malformed == 1
            assert second.state == "open"

    run(check())


def test_motion_is_dropped_rather_than_queued() -> None:
    async def check() -> None:
        async with two_peers(LOOPBACK) as (first, second):

            async def stuck() -> None:
                """As when the congestion window is used up."""

            transmit = first._sctp._transmit
            first._sctp._transmit = stuck  # type: ignore[method-assign]
            taken = []
            for _ in range(40):
                taken.append(first.send_motion(bytes(40)))
                await asyncio.sleep(0)
            assert sum(taken) <= 11
            assert first.backlog_bytes <= 440
            assert first.motion_dropped == 40 - sum(taken)
            first._sctp._transmit = transmit  # type: ignore[method-assign]
            await transmit()
            assert len(await all_of(second.motion, sum(taken))) == sum(taken)

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


def test_nobody_is_contacted_by_default_and_loopback_is_not_offered() -> None:
    async def check() -> None:
        peer = Peer(PeerSettings(audio=False))
        assert (peer._ice.stun_server, peer._ice.turn_server) == (None, None)
        assert peer._addresses(["10.0.0.1"]) == ["10.0.0.1"]
        included = Peer(PeerSettings(loopback="include", audio=False))
        assert included._addresses(["10.0.0.1"]) == ["10.0.0.1", "127.0.0.1"]
        for one in (peer, included):
            await one.close()

    run(check())


def test_ice_servers_are_passed_on_and_bad_ones_refused() -> None:
    async def check() -> None:
        servers = (IceServer("stun:stun.example:3479"), IceServer("turn:turn.example?transport=tcp", "me", "word"))
        peer = Peer(PeerSettings(ice_servers=servers, relay_only=True, audio=False))
        assert peer._ice.stun_server == ("stun.example", 3479)
        assert servers[1].as_turn() == TurnServer("turn.example", 3478, "tcp", False, "me", "word")
        assert IceServer("turns:turn.example:443").as_turn() == TurnServer("turn.example", 443, "tcp", True, None, None)
        assert peer._ice.turn_server is None  # aiortc would ask the first alone
        await peer.close()
        with pytest.raises(BadInput, match="'http://x': malformed uri"):
            Peer(PeerSettings(ice_servers=(IceServer("http://x"),)))

    run(check())


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
        # Nobody takes the frames here: they must not pile up.
        track: Any = first.remote_audio
        assert track._queue.qsize() <= 100
        for peer in (first, second):
            await peer.close()

    run(check())


def test_speech_that_is_not_taken_does_not_pile_up() -> None:
    async def check() -> None:
        frames = peer_module._NewestFrames()
        for number in range(500):
            await frames.put(number)
        assert frames.qsize() == 100
        assert await frames.get() == 400

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
