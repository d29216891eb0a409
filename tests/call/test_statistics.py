"""What a call's numbers and report count, on a clock of the test's own."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from kilocall.call.call_traffic import IDLE_AFTER_S, SETTLE_S
from kilocall.call.settings import CallSettings
from kilocall.call.statistics import CallStatistics
from kilocall.proto.layer_frame import LayerFragment
from kilocall.receiver.jitter_buffer import JitterBuffer
from kilocall.receiver.layer_receiver import LayerReceiver
from kilocall.receiver.live import Rendered
from kilocall.receiver.render_rate import RenderRate
from kilocall.runtime.pace import Pace
from kilocall.runtime.traffic import KINDS, Count, Traffic
from kilocall.runtime.worker import Milliseconds

#: Frame times on the wire are known but for multiples of this.
WRAP_US = 65_536_000


class Call:
    """A call of which the test says what goes over the wire and when pictures come."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("kilocall.call.statistics.time.monotonic", lambda: self.now)
        self.sent, self.received = (Traffic({kind: Count() for kind in KINDS}) for _ in range(2))
        self.peer = SimpleNamespace(
            traffic=lambda: (self.sent, self.received),
            motion=SimpleNamespace(dropped=0),
            control=SimpleNamespace(dropped=0),
            malformed=0,
            motion_dropped=0,
        )
        self.session = SimpleNamespace(
            phase="open",
            reason="",
            same_clock=True,
            rtt_ms=20.0,
            loss=0.0,
            confirmed=None,
            malformed=0,
            remote=SimpleNamespace(face=True, face_since_us=0),
            references=SimpleNamespace(confirmed={}, own_bytes=0, held={}, sent_bytes=0),
            pictures=SimpleNamespace(sent=0, from_cache=0),
            acquaintance=SimpleNamespace(verified=False),
        )
        self.sending = SimpleNamespace(
            motion=SimpleNamespace(packets_sent=0, sent_frames=0, key_packets=0, payload_bits_per_frame=0.0),
            camera=SimpleNamespace(dropped=0),
            camera_off=False,
            frames=0,
            crop_ms=Milliseconds(),
            motion_ms=Milliseconds(),
            rate=SimpleNamespace(fps=25.0, wanted_fps=25.0, limited_by="none", pace=Pace(), frames_per_message=3),
            pictures=SimpleNamespace(source=None),
            layer=SimpleNamespace(frames=0, key_frames=0, bytes_sent=0),
        )
        self.receiving = SimpleNamespace(
            motion=SimpleNamespace(jitter=JitterBuffer()),
            rate=RenderRate(),
            render_ms=Milliseconds(),
            decode_ms=Milliseconds(),
            inbox_dropped=0,
            malformed=0,
            watched=True,
            rendered=0,
            last_time_us=0,
            speaker=SimpleNamespace(shown_hash="picture"),
            layer=LayerReceiver(),
            renderer=SimpleNamespace(layer_used=0, camera_pictures=0),
        )
        loudspeaker = SimpleNamespace(received_samples=0, heard_samples=0, level_db=None, hold_us=0, onsets_us=[])
        self.audio = SimpleNamespace(
            av_sync=SimpleNamespace(picture_us=0),
            loudspeaker=loudspeaker,
            speech=SimpleNamespace(blocks=0),
            microphone_began=[],
        )
        self.link = SimpleNamespace(peer=self.peer, address=SimpleNamespace(room="tea"), connections=1, not_proven=0)
        made: Any = CallStatistics
        self.statistics: CallStatistics = made(
            CallSettings(room="http://127.0.0.1:8400/tea#AAECAwQFBgcICQoLDA0ODw"),
            self.session,
            self.link,
            self.sending,
            self.receiving,
            self.audio,
            SimpleNamespace(steps=0),
        )

    def picture(self, captured_us: int, made_us: int, playout_us: int = 30_000) -> int:
        return self.statistics.picture(Rendered(b"", captured_us, made_us, playout_us))

    def second(self, kilobits_out: float = 0.0, packets: int = 0) -> None:
        """Passes, with so much sent."""
        self.now += 1
        self.sent.kinds["data"].bytes += round(125 * kilobits_out)
        self.sending.motion.packets_sent += packets
        self.statistics.look()


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    return Call(monkeypatch)


def test_delay_is_from_capture_to_picture_also_where_the_frames_time_has_wrapped(call: Call) -> None:
    assert call.picture(1_000_000, 1_150_000) == 150_000
    assert call.picture(WRAP_US - 50_000, WRAP_US + 100_000) == 150_000
    assert call.picture(20_000, WRAP_US + 140_000) == 120_000
    report = call.statistics.report(0.0)
    assert report.delay_p50_ms == pytest.approx(150)


def test_on_another_clock_the_delay_is_what_is_waited_here_and_half_the_way_there_and_back(call: Call) -> None:
    call.session.same_clock = False
    assert call.picture(0, 5_000_000, playout_us=40_000) == 50_000
    assert call.statistics.report(0.0).delay_p50_ms is None


def test_the_first_picture_counts_from_when_two_were_there_and_from_the_connection(call: Call) -> None:
    call.statistics.paired()
    call.now += 0.25
    call.statistics.opened()
    call.now += 0.5
    call.picture(0, 100_000)
    call.now += 5
    call.picture(40_000, 140_000)
    report = call.statistics.report(0.0)
    assert report.first_picture_ms == pytest.approx(750)
    assert report.first_picture_after_open_ms == pytest.approx(500)


def test_a_pause_without_a_face_is_no_gap(call: Call) -> None:
    for made_us in (100_000, 140_000):
        call.picture(made_us - 100_000, made_us)
    call.session.remote.face_since_us = 9_000_000
    call.picture(8_960_000, 9_060_000)
    assert call.statistics.report(0.0).longest_gap_ms == pytest.approx(60)
    call.picture(9_100_000, 9_360_000)
    assert call.statistics.report(0.0).longest_gap_ms == pytest.approx(300)


def test_traffic_is_steady_once_the_pictures_have_gone_over(call: Call) -> None:
    call.statistics.opened()
    call.second(80, packets=25)  # pictures going over
    call.session.confirmed = "picture"
    call.picture(0, 100_000)
    for _ in range(round(SETTLE_S) + 1):
        call.second(40, packets=25)
    for _ in range(4):
        call.second(10, packets=25)
    report = call.statistics.report(0.0)
    assert report.steady_out.seconds == pytest.approx(4)
    assert report.steady_out.data == pytest.approx(10)
    assert report.out.seconds == pytest.approx(8)
    assert report.out.total == pytest.approx((80 + 3 * 40 + 4 * 10) / 8)
    assert call.statistics.numbers["out_kbps"] == 10


def test_a_connection_is_idle_some_seconds_after_the_last_motion(call: Call) -> None:
    call.statistics.opened()
    call.second(10, packets=25)
    for _ in range(round(IDLE_AFTER_S) + 3):
        call.second(0.5)
    assert call.statistics.report(0.0).idle_out.seconds == pytest.approx(3)
    call.second(10, packets=1)
    call.second(0.5)
    assert call.statistics.report(0.0).idle_out.seconds == pytest.approx(3)


def test_another_connection_counts_from_nothing_and_tells_how_long_there_was_none(call: Call) -> None:
    call.statistics.opened()
    call.second(10, packets=25)
    call.statistics.lost()
    call.now += 1.5
    for traffic in (call.sent, call.received):
        traffic.kinds = {kind: Count() for kind in KINDS}
    call.statistics.opened()
    call.second(6, packets=25)
    report = call.statistics.report(0.0)
    assert report.reconnect_s == [pytest.approx(1.5)]
    assert report.out.data * report.out.seconds == pytest.approx(16)
    assert report.out.seconds == pytest.approx(2)  # the pause is nobody's


def test_rates_are_of_the_last_second_and_refusals_are_added_up_from_where_they_happen(call: Call) -> None:
    call.statistics.opened()
    call.sending.motion.sent_frames = 10
    call.picture(0, 100_000)
    call.second(8, packets=10)
    call.sending.motion.sent_frames = 34
    for number in range(12):
        call.picture(number * 80_000, number * 80_000 + 100_000)
    call.receiving.malformed, call.peer.malformed, call.session.malformed = 1, 2, 4
    call.receiving.inbox_dropped, call.peer.motion.dropped, call.peer.control.dropped = 8, 16, 32
    call.second(8, packets=10)
    numbers = call.statistics.numbers
    assert (numbers["fps_out"], numbers["fps_in"], numbers["delay_ms"]) == (24, 12, 100)
    assert (numbers["dropped"]["malformed"], numbers["dropped"]["inbox"]) == (7, 56)


def test_what_the_video_layer_refuses_is_in_the_report(call: Call) -> None:
    layer = call.receiving.layer
    start = LayerFragment(number=1, time_ms=0, key=True, index=0, last=False, data=b"a")
    for fragment in (start, replace(start, data=b"b"), replace(start, index=1, last=True)):
        assert not list(layer.push(fragment, 0))
    counts = call.statistics.report(0.0).layer
    # A piece that contradicts another one of its frame, and the whole frame, which is no AV1.
    assert (counts.refused, counts.decoded, counts.missing) == (2, 0, 0)


def test_a_phase_is_told_once_each_time_that_it_changes(call: Call) -> None:
    for phase in ("connecting", "connecting", "open", "away", "open"):
        call.session.phase = phase
        call.statistics.phase()
    assert [change.phase for change in call.statistics.report(0.0).phases] == ["connecting", "open", "away", "open"]
