from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handshakes import shaken
from kilocall.control.rate_control import Plan, RateControl
from kilocall.control.session import Session
from kilocall.proto.control import (
    Bye,
    CameraState,
    ControlMessage,
    FaceState,
    HavePicture,
    Hello,
    LayerReport,
    MediaState,
    PictureRate,
    ReceiverReport,
    ReferenceOffer,
    ReferencePiece,
    Reveal,
    SourcePicture,
    WantPicture,
    parse_control,
)
from kilocall.proto.motion_packet import MotionPacket
from meeting import SECRET

A, B = "0f" * 32, "a5" * 32
HELLO = Hello("compact-256", A, B, 25_000, 1000, 256)
MINE, THEIRS = SourcePicture("webp", b"mine"), SourcePicture("avif", b"theirs")


class Side:
    """A session whose threads are lists and whose other side is this test."""

    def __init__(self, hello: Hello = HELLO, cache: Path | None = None) -> None:
        self.now_us = 1_000_000_000
        self.acknowledged: list[int] = []
        self.confirmed: list[str] = []
        self.plans: list[Plan] = []
        self.prepared: list[tuple[str, bytes]] = []
        self.used: list[tuple[str, int]] = []
        self.files: list[tuple[str, bytes]] = []
        self.referred: list[tuple[str, str, bytes]] = []
        self.forgotten = 0
        self.limits: list[float] = []
        self.expected: list[float] = []
        self.layer_reports: list[LayerReport] = []
        self.camera_taken = 0
        self.camera_shown: list[tuple[bool, int]] = []
        self.said: list[ControlMessage] = []
        self.references_held: list[str] = []
        self.rate = RateControl()
        self.session = Session(
            self,
            self,
            rate=self.rate,
            clock_us=lambda: self.now_us,
            link_name=SECRET.name,
            cache=cache,
            on_reference=self.references_held.append,
        )
        self.session.introduce(hello)

    def acknowledge(self, sequence: int) -> None:
        self.acknowledged.append(sequence)

    def confirm(self, picture_hash: str) -> None:
        self.confirmed.append(picture_hash)

    def follow(self, plan: Plan) -> None:
        self.plans.append(plan)

    def ask_layer(self, report: LayerReport) -> None:
        self.layer_reports.append(report)

    def take_camera(self) -> None:
        self.camera_taken += 1

    def show_camera(self, shown: bool, from_us: int) -> None:
        self.camera_shown.append((shown, from_us))

    def limit(self, fps: float) -> None:
        self.limits.append(fps)

    def expect(self, fps: float) -> None:
        self.expected.append(fps)

    def prepare(self, picture_hash: str, data: bytes) -> None:
        self.prepared.append((picture_hash, data))

    def use(self, picture_hash: str, from_us: int) -> None:
        self.used.append((picture_hash, from_us))

    def adapt(self, file_hash: str, data: bytes) -> None:
        self.files.append((file_hash, data))

    def refer(self, base_hash: str, picture_hash: str, data: bytes) -> None:
        self.referred.append((base_hash, picture_hash, data))

    def forget(self) -> None:
        self.forgotten += 1

    def send(self, data: bytes) -> bool:
        self.said.append(parse_control(data))
        return True

    def open(self) -> None:
        mine, self.theirs = shaken()
        self.mine = mine
        self.session.opened(self.send, mine)

    def hear(self, *messages: ControlMessage) -> None:
        for message in messages:
            self.session.control(bytes(message), self.now_us)

    def take_said(self) -> list[ControlMessage]:
        said, self.said = self.said, []
        return said


def meet(*, cache: Path | None = None) -> Side:
    """A session that has been greeted and has offered its picture."""
    side = Side(cache=cache)
    side.session.own_source(MINE)
    side.open()
    side.hear(HELLO)
    side.take_said()
    return side


def test_first_words_are_hello_and_the_offer_of_the_picture() -> None:
    side = Side()
    side.session.own_source(MINE)
    side.session.own_face(True, 5)
    assert side.said == []
    side.open()
    assert side.said == [HELLO, Reveal(side.mine.nonce), MINE.offer(), FaceState(True, 5)]


def test_what_can_be_shown_is_told_now_and_on_every_connection() -> None:
    side = meet()
    side.session.own_rate(12.5)
    assert side.take_said() == [PictureRate(12_500)]
    side.session.closed("lost", "")
    side.session.own_rate(10)
    assert side.take_said() == []
    side.open()
    assert PictureRate(10_000) in side.take_said()


def test_what_the_other_side_can_show_limits_what_is_sent_and_its_camera_what_is_expected() -> None:
    side = meet()
    side.hear(PictureRate(12_500))
    assert side.limits == [12.5]
    assert side.expected == [25.0]


def test_who_takes_a_layer_says_that_a_camera_can_be_shown_and_is_told_from_which_frame_on() -> None:
    side = Side()
    side.session.take_layer(24_000)
    side.open()
    assert CameraState(False, 0) in side.said
    side.hear(HELLO)
    assert not side.session.remote.takes_camera
    side.hear(CameraState(False, 0), CameraState(True, 7_000_000))
    assert side.camera_taken == 1
    assert side.camera_shown == [(False, 0), (True, 7_000_000)]
    assert side.session.remote.takes_camera
    side.session.closed("lost", "gone")
    assert not side.session.remote.takes_camera


def test_what_this_sides_camera_shows_is_told_and_planned_for() -> None:
    side = meet()
    side.session.own_camera(True, 5_000_000)
    assert side.take_said() == [CameraState(True, 5_000_000)]
    assert side.rate.camera
    side.session.own_camera(False, 6_000_000)
    assert not side.rate.camera


def test_a_side_that_takes_no_layer_says_nothing_of_cameras() -> None:
    side = Side()
    side.open()
    assert not [message for message in side.said if isinstance(message, CameraState)]


def test_a_computer_that_shows_all_says_nothing_of_it() -> None:
    side = Side()
    side.open()
    assert not any(isinstance(message, PictureRate) for message in side.said)


def test_call_is_open_once_both_have_said_hello() -> None:
    side = Side()
    side.open()
    phases = [side.session.phase]
    side.hear(HELLO)
    phases.append(side.session.phase)
    assert phases == ["connecting", "open"]
    assert side.session.remote.present


@pytest.mark.parametrize(
    ("other", "said", "cure"),
    [
        (Hello("compact-256", "11" * 32, B, 25_000, 1000, 256), "weights 111111111111", "install the same version"),
        (Hello("liveportrait", A, B, 25_000, 1000, 256), "models 'liveportrait'", "the same --family, --weights"),
        (Hello("compact-256", A, B, 25_000, 1000, 512), "512 wide", "install the same version"),
    ],
)
def test_other_weights_end_the_call_and_say_what_to_do(other: Hello, said: str, cure: str) -> None:
    side = Side()
    side.open()
    side.hear(other)
    assert side.session.phase == "refused"
    assert said in side.session.reason
    assert cure in side.session.reason
    bye = side.said[-1]
    assert isinstance(bye, Bye)
    assert said in bye.reason


def test_other_protocol_version_says_what_to_update() -> None:
    side = Side()
    side.open()
    newer = bytearray(bytes(HELLO))
    newer[2] += 1
    side.session.control(bytes(newer), 0)
    assert side.session.phase == "refused"
    assert "please update the older kilocall" in side.session.reason
    assert isinstance(side.said[-1], Bye)


def test_offered_picture_is_asked_for_prepared_and_answered() -> None:
    side = meet()
    side.hear(THEIRS.offer())
    assert side.take_said() == [WantPicture(THEIRS.picture_hash)]
    side.hear(THEIRS)
    assert side.prepared == [(THEIRS.picture_hash, b"theirs")]
    side.session.picture_ready(THEIRS.picture_hash)
    assert side.take_said() == [HavePicture(THEIRS.picture_hash)]
    assert side.session.remote.picture_hash == THEIRS.picture_hash
    assert side.session.remote_picture == THEIRS


def test_picture_in_the_cache_is_not_sent_again(tmp_path: Path) -> None:
    first = meet(cache=tmp_path)
    first.hear(THEIRS.offer(), THEIRS)
    second = meet(cache=tmp_path)
    second.hear(THEIRS.offer())
    assert second.take_said() == []
    assert second.prepared == [(THEIRS.picture_hash, b"theirs")]
    assert second.session.pictures.from_cache == 1


def test_picture_nobody_asked_for_is_dropped() -> None:
    side = meet()
    side.hear(THEIRS)
    assert side.prepared == []
    assert side.session.malformed == 1


def test_own_picture_is_sent_when_asked_for_and_only_that_one() -> None:
    side = meet()
    side.hear(WantPicture(MINE.picture_hash), WantPicture(A))
    assert side.take_said() == [MINE]
    assert side.session.malformed == 1


def test_motion_may_refer_to_the_picture_that_the_other_side_holds() -> None:
    side = meet()
    side.hear(HavePicture(A))
    assert side.confirmed == []
    side.hear(HavePicture(MINE.picture_hash))
    assert side.confirmed == [MINE.picture_hash]


def test_new_picture_is_used_from_the_frame_that_is_announced() -> None:
    side = meet()
    side.hear(THEIRS.offer(), THEIRS)
    side.session.picture_ready(THEIRS.picture_hash)
    other = SourcePicture("webp", b"another")
    side.now_us += 10_000_000
    side.hear(other.offer(), other)
    side.hear(FaceState(True, 77))
    assert side.used == []  # not ready: that face belongs to the old picture
    side.session.picture_ready(other.picture_hash)
    side.hear(FaceState(True, 88))
    assert side.used == [(other.picture_hash, 88)]
    assert side.session.remote.picture_hash == other.picture_hash


def test_picture_outlives_the_connection() -> None:
    side = meet()
    side.hear(THEIRS.offer(), THEIRS)
    side.session.picture_ready(THEIRS.picture_hash)
    side.session.closed("lost", "nothing has arrived")
    assert side.session.phase == "lost"
    side.open()
    side.hear(HELLO, THEIRS.offer())
    assert side.session.remote_picture == THEIRS
    assert side.forgotten == 0 + 1  # at the very first offer, when there was nothing yet


def test_another_person_on_a_new_connection_is_not_shown_with_the_old_face() -> None:
    side = meet()
    side.hear(THEIRS.offer(), THEIRS)
    side.session.picture_ready(THEIRS.picture_hash)
    side.session.closed("lost", "")
    side.open()
    side.hear(HELLO, SourcePicture("webp", b"somebody else").offer())
    assert side.session.remote.picture_hash is None
    assert side.forgotten == 2


def test_delivered_packets_are_what_the_encoder_may_refer_to() -> None:
    side = meet()
    packet = MotionPacket(7, 100, 40_000, 3, None, 4, b"motion")
    side.session.delivered(bytes(packet))
    side.session.delivered(b"not a packet")
    assert side.acknowledged == [7]


def test_round_trip_comes_from_the_report() -> None:
    side = meet()
    side.session.motion_sent(MotionPacket(7, 100, 40_000, 3, None, 4, b"motion"))
    side.now_us += 150_000
    side.hear(ReceiverReport(7, 100, 2000, 20, 5, 1, 0, 3000))
    assert side.session.rtt_ms == pytest.approx(50)
    assert side.session.loss == 0.25
    assert side.plans


def test_one_clock_is_recognised_by_the_times_of_faces() -> None:
    here, elsewhere = meet(), meet()
    here.hear(FaceState(True, here.now_us - 5000))
    elsewhere.hear(FaceState(True, 5000))
    assert here.session.same_clock is True
    assert elsewhere.session.same_clock is False


def test_what_the_other_side_switched_off_is_known() -> None:
    side = meet()
    side.hear(MediaState(True, True), FaceState(False, 1))
    assert side.session.remote.muted
    assert side.session.remote.camera_off
    assert not side.session.remote.face


def test_nothing_is_believed_before_hello() -> None:
    side = Side()
    side.open()
    side.hear(THEIRS.offer(), FaceState(True, 1))
    assert side.session.malformed == 2
    assert not side.session.remote.face


def test_words_are_known_with_the_other_sides_nonce_and_differ_with_each_connection() -> None:
    side = meet()
    assert side.session.acquaintance.words == ()
    side.theirs.reveal(side.mine.nonce)
    side.hear(Reveal(side.theirs.nonce))
    words = side.session.acquaintance.words
    assert words == side.theirs.words
    side.session.closed("lost", "")
    assert side.session.acquaintance.words == ()
    side.open()
    side.hear(HELLO, Reveal(side.theirs.nonce))
    assert len(side.session.acquaintance.words) == 4
    assert side.session.acquaintance.words != words


def test_nonce_that_was_not_committed_to_ends_the_call() -> None:
    side = meet()
    side.hear(Reveal(bytes(32)))
    assert side.session.phase == "refused"
    assert "somebody may be in between" in side.session.reason
    assert isinstance(side.said[-1], Bye)


def test_offers_faster_than_a_person_changes_pictures_are_dropped() -> None:
    side = meet()
    for number in range(20):
        side.hear(SourcePicture("webp", b"%d" % number).offer())
    assert len(side.said) == 1
    assert side.session.malformed == 19


@settings(deadline=None)  # a loaded machine pauses anywhere
@given(st.lists(st.binary(max_size=60), max_size=10))
def test_no_message_breaks_the_session(messages: list[bytes]) -> None:
    side = meet()
    for data in messages:
        side.session.control(data, 0)
    side.hear(FaceState(True, 1))
    assert side.session.remote.face


def late_report(side: Side, *, delay_ms: int, round_trip_ms: int) -> None:
    """A report of a packet that was sent `round_trip_ms` ago."""
    sequence = 1 + side.now_us // 1_000_000 % 60_000
    side.session.motion_sent(MotionPacket(sequence, 0, 0, 1, None, 4, b""))
    side.now_us += 1000 * round_trip_ms
    side.hear(ReceiverReport(sequence, 0, 1000, 8, 0, 0, delay_ms, 3000))
    side.now_us += 1_000_000


def test_what_this_machine_is_late_by_is_not_taken_for_a_queue() -> None:
    for lag_ms, goes_down in ((0.0, True), (380.0, False)):
        side = meet()
        for _ in range(3):
            late_report(side, delay_ms=5, round_trip_ms=40)
        side.session.own_lag_ms = lag_ms
        for _ in range(4):
            late_report(side, delay_ms=400, round_trip_ms=440)
        assert (side.session.rate.rung > 0) == goes_down


def test_face_state_that_was_lost_at_first_does_not_hide_that_the_clocks_are_one() -> None:
    side = meet()
    side.hear(FaceState(True, side.now_us - 5_000_000))
    assert side.session.same_clock is False
    side.hear(FaceState(False, side.now_us - 20_000))
    assert side.session.same_clock is True


def test_a_further_picture_is_offered_once_the_source_is_held_and_sent_in_the_background() -> None:
    side, further = meet(), SourcePicture("avif", b"further")
    side.session.own_reference(MINE.picture_hash, further)
    assert side.said == []
    side.hear(HavePicture(MINE.picture_hash))
    assert side.take_said() == [ReferenceOffer(MINE.picture_hash, further.picture_hash, "avif", 7)]
    side.hear(WantPicture(further.picture_hash))
    assert side.take_said() == []
    side.session.tick()
    assert side.take_said() == [ReferencePiece(further.picture_hash, 0, b"further")]
    side.hear(HavePicture(further.picture_hash))
    assert side.references_held == [further.picture_hash]


def test_while_the_link_is_narrow_no_further_picture_is_sent() -> None:
    side, further = meet(), SourcePicture("avif", b"further")
    side.session.own_reference(MINE.picture_hash, further)
    side.hear(HavePicture(MINE.picture_hash), WantPicture(further.picture_hash))
    side.take_said()
    side.rate.rung = 1
    side.session.tick()
    assert side.said == []


def test_a_further_picture_of_the_other_side_is_asked_for_and_held() -> None:
    side, further = meet(), SourcePicture("avif", b"further")
    side.hear(ReferenceOffer(THEIRS.picture_hash, further.picture_hash, "avif", 7))
    assert side.take_said() == [WantPicture(further.picture_hash)]
    side.hear(ReferencePiece(further.picture_hash, 0, b"fur"), ReferencePiece(further.picture_hash, 3, b"ther"))
    assert side.referred == [(THEIRS.picture_hash, further.picture_hash, b"further")]
    side.session.references.ready(further.picture_hash)
    assert side.take_said() == [HavePicture(further.picture_hash)]
