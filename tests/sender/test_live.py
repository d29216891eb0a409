"""The sending thread's steps, one after the other, on a clip in which the face goes away and comes back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kilocall.model.family import Family, Picture
from kilocall.model.reference_pictures import base_reference
from kilocall.proto.control import LayerReport
from kilocall.proto.errors import NoFace
from kilocall.proto.layer_frame import LayerFragment
from kilocall.proto.motion_message import MotionMessage
from kilocall.proto.motion_packet import MotionPacket, wire_time_ms
from kilocall.sender.camera_view import AWAY_US
from kilocall.sender.capture import Frame, open_clip
from kilocall.sender.face_crop import FaceCrop, FaceCropper
from kilocall.sender.layer_encoder import QUICK_PRESET
from kilocall.sender.live import OwnSource, SendEvents, SendPipeline

PERIOD_US = 40_000
START_US = 1_000_000_000_000


class Frames:
    """A camera that is fed by the test."""

    error: str | None = None
    dropped = 0
    ended = False

    def __init__(self) -> None:
        self.waiting: deque[Frame] = deque()
        self.count = 0

    def start(self) -> None: ...
    def stop(self) -> None: ...

    def latest(self, timeout_s: float = 1.0) -> Frame | None:
        return self.waiting.popleft() if self.waiting else None

    def show(self, rgb: Picture) -> int:
        """Capture time of the frame."""
        when = START_US + self.count * PERIOD_US
        self.waiting.append(Frame(rgb, when, self.count))
        self.count += 1
        return when


@dataclass(frozen=True)
class FixedPlan:
    frames_per_message: int = 3
    fps: float = 25.0
    level: int = 4
    redundant_frames: int = 0
    layer_bps: int = 0
    camera_bps: int = 0


class Told:
    """What the thread has told."""

    def __init__(self) -> None:
        self.packets: list[MotionPacket] = []
        self.layer: list[LayerFragment] = []
        self.faces: list[tuple[bool, int]] = []
        self.sources: list[OwnSource] = []
        self.overlays: list[dict[str, object]] = []
        self.cameras: list[tuple[str | None, int]] = []
        self.events = SendEvents(
            packet=self._packet,
            face=lambda seen, time_us: self.faces.append((seen, time_us)),
            source=self.sources.append,
            overlay=self.overlays.append,
            camera=lambda why, time_us: self.cameras.append((why, time_us)),
        )

    def _packet(self, packet: MotionPacket, data: bytes) -> None:
        message = MotionMessage.parse(data)
        assert message.packet == packet
        self.packets.append(packet)
        self.layer += message.fragments


@pytest.fixture(scope="module")
def faces(astronaut_clip: Path) -> list[Picture]:
    frames: Iterator[Frame] = iter(open_clip(astronaut_clip))
    return [next(frames).rgb for _ in range(40)]


class EventLoop:
    """What the thread tells is done at once, unless the loop is `busy`."""

    def __init__(self) -> None:
        self.busy = False
        self.waiting: list[Callable[[], None]] = []

    def deliver(self, call: Callable[[], None]) -> None:
        if self.busy:
            self.waiting.append(call)
        else:
            call()

    def go_on(self) -> None:
        self.busy = False
        while self.waiting:
            self.waiting.pop(0)()


@dataclass
class Running:
    sending: SendPipeline
    camera: Frames
    told: Told
    clock: WorkClock
    loop: EventLoop = field(default_factory=EventLoop)

    def play(self, pictures: list[Picture], seconds: float, work_ms: float, *, own: float = 1.0) -> None:
        """A camera of 25 pictures a second and a thread that each takes `work_ms`; the newest is taken when it is free.

        `own` is the share of that time for which the thread has the processor.
        """
        usual = FaceCropper.crop

        def crop(cropper: FaceCropper, frame: Frame) -> FaceCrop:
            self.clock.wall_s += work_ms / 1000
            self.clock.own_s += own * work_ms / 1000
            return usual(cropper, frame)

        until_s = self.clock.wall_s + seconds
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FaceCropper, "crop", crop)
            while self.clock.wall_s < until_s:
                due = START_US + self.camera.count * PERIOD_US
                behind = round(1e6 * self.clock.wall_s) - (due - START_US)
                self.camera.count += max(0, behind // PERIOD_US)
                self.clock.wall_s = max(self.clock.wall_s, self.camera.count * PERIOD_US / 1e6)
                self.camera.show(pictures[self.camera.count % len(pictures)])
                self.sending.step()

    def show(self, *pictures: Picture) -> int:
        """Capture time of the last one."""
        when = 0
        for rgb in pictures:
            when = self.camera.show(rgb)
            self.sending.step()
        return when

    def begin(self) -> None:
        """A new connection, as the event loop asks for it; here the thread's work is done at once."""
        self.sending.begin()
        self.sending.do_what_was_asked()


class WorkClock:
    """The thread's time, which stands still but for what the test says that a frame takes."""

    def __init__(self) -> None:
        self.wall_s = self.own_s = 0.0

    def __call__(self) -> tuple[float, float]:
        return self.wall_s, self.own_s


@pytest.fixture
def running() -> Running:
    return opened()


def opened(**settings: Any) -> Running:
    """`settings` are those of the pipeline."""
    camera, told, clock = Frames(), Told(), WorkClock()
    loop = EventLoop()
    sending = SendPipeline(camera, told.events, loop.deliver, **{"plan": FixedPlan(), "clock": clock, **settings})
    sending.opened()
    return Running(sending, camera, told, clock, loop)


def black(like: Picture) -> Picture:
    return np.zeros_like(like)


def test_first_source_picture_is_taken_by_itself_and_offered(running: Running, faces: list[Picture]) -> None:
    running.show(*faces[:12])
    assert len(running.told.sources) == 1
    assert running.sending.pictures.source == running.told.sources[0]
    assert 1000 < len(running.told.sources[0].packed.data) <= 6144


def test_nothing_is_sent_before_there_is_a_connection(running: Running, faces: list[Picture]) -> None:
    running.show(*faces[:16])
    assert running.told.packets == []


def test_lost_face_is_told_nothing_is_sent_and_it_is_back_within_200_ms(running: Running, faces: list[Picture]) -> None:
    running.show(*faces[:12])
    running.begin()
    running.show(*faces[12:24])
    assert running.told.faces[-1][0] is True
    before = len(running.told.packets)
    assert before >= 4
    gone = running.show(black(faces[0]))
    running.show(*[black(faces[0])] * 24)
    assert len(running.told.packets) - before <= 1  # what was gathered already
    assert running.told.faces[-1][0] is False
    assert running.told.faces[-1][1] - gone <= 5 * PERIOD_US
    at_rest = len(running.told.packets)
    back = running.camera.count
    number = 0
    while len(running.told.packets) == at_rest:
        running.show(faces[24 + number])
        number += 1
    number -= 1  # frames shown in vain
    first = running.told.packets[at_rest]
    assert number * PERIOD_US <= 120_000
    assert first.frame_count == 1  # at once, without waiting for others
    assert running.told.faces[-1] == (True, START_US + (back + number) * PERIOD_US)


def test_packets_hold_as_many_frames_as_planned_and_key_until_acknowledged(
    running: Running, faces: list[Picture]
) -> None:
    running.show(*faces[:12])
    running.begin()
    running.show(*faces[12:25])
    first, *rest = running.told.packets
    assert first.frame_count == 1
    assert [packet.frame_count for packet in rest] == [3, 3, 3, 3]
    assert all(packet.is_key for packet in running.told.packets)
    running.sending.acknowledge(rest[-1].sequence)
    running.sending.do_what_was_asked()
    running.show(*faces[25:28])
    assert running.told.packets[-1].reference == rest[-1].sequence
    running.sending.forget_acknowledged()
    running.sending.do_what_was_asked()
    running.show(*faces[28:31])
    assert running.told.packets[-1].is_key


def test_packet_of_the_connection_before_is_not_sent_over_the_next(running: Running, faces: list[Picture]) -> None:
    """Its number would be far ahead of the next ones, and those would be taken for old."""
    running.show(*faces[:12])
    running.begin()
    running.show(*faces[12:15])
    before = len(running.told.packets)
    running.loop.busy = True
    running.show(*faces[15:19])
    running.sending.begin()  # asked for while a packet is on its way to the event loop
    assert running.loop.waiting
    running.loop.go_on()
    assert len(running.told.packets) == before
    running.sending.do_what_was_asked()
    running.show(*faces[19:23])
    assert running.told.packets[before].sequence == 0


def test_new_source_holds_once_the_other_side_has_it(running: Running, faces: list[Picture]) -> None:
    running.show(*faces[:12])
    running.begin()
    running.show(*faces[12:20])
    old = running.sending.pictures.source
    running.sending.take_source()
    running.sending.do_what_was_asked()
    new = running.told.sources[-1]
    assert new != old
    running.show(*faces[20:23])
    assert running.sending.pictures.source == old
    running.sending.confirm("ab" * 32)
    running.sending.do_what_was_asked()
    assert running.sending.pictures.source == old
    running.sending.confirm(new.packed.picture_hash)
    running.sending.do_what_was_asked()
    assert running.sending.pictures.source == new
    when = running.show(faces[23])
    assert running.told.faces[-1] == (True, when)
    recent = [source.id for source in running.sending.pictures.recent]
    assert recent == list(dict.fromkeys([new.id, old.id if old else ""]))


def test_source_without_a_face_is_refused_and_changes_nothing(running: Running, faces: list[Picture]) -> None:
    from_camera = running.sending.take_source()
    running.sending.do_what_was_asked()
    with pytest.raises(NoFace, match="no face in the last second"):
        from_camera.result(0)
    running.show(*faces[:12])
    before, recent = running.sending.pictures.source, list(running.sending.pictures.recent)
    for side in (64, running.sending.hello(25).picture_size):  # the second may be a crop as it is
        from_file = running.sending.use_picture(np.full((side, side, 3), 90, np.uint8))
        assert not from_file.done()
        running.sending.do_what_was_asked()
        with pytest.raises(NoFace):
            from_file.result(0)
    assert running.sending.pictures.source == before
    assert list(running.sending.pictures.recent) == recent
    assert len(running.told.sources) == 1


def test_fewer_frames_are_looked_at_when_the_plan_says_so(running: Running, faces: list[Picture]) -> None:
    running.sending.follow(FixedPlan(fps=12.5))
    running.sending.do_what_was_asked()
    running.show(*faces[:20])
    assert 9 <= running.sending.frames <= 11


def asked_for_layer(running: Running, *, key: bool = False) -> None:
    running.sending.ask_layer(LayerReport(24_000, None, key))
    running.sending.do_what_was_asked()


def test_the_video_layer_goes_with_motion_once_the_other_side_takes_it(running: Running, faces: list[Picture]) -> None:
    running.sending.follow(FixedPlan(layer_bps=3000))
    running.show(*faces[:12])
    running.begin()
    running.show(*faces[12:18])
    assert running.told.packets
    assert not running.told.layer
    asked_for_layer(running)
    running.show(*faces[18:30])
    assert running.told.layer[0].key
    assert len({fragment.number for fragment in running.told.layer}) >= 2
    running.begin()
    running.told.layer.clear()
    running.show(*faces[:6])
    assert not running.told.layer  # of the next connection nothing is known yet
    asked_for_layer(running)
    running.show(*faces[6:12])
    assert running.told.layer[0].key


@pytest.mark.parametrize(("longer_than_s", "hurried"), [(0.0, True), (60.0, False)], ids=["slow", "quick"])
def test_a_processor_that_looks_slowly_codes_the_layer_quickly(
    longer_than_s: float, hurried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilocall.sender.live.HURRY_FROM_S", longer_than_s)
    running = opened()
    running.sending.follow(FixedPlan(layer_bps=3000))
    asked_for_layer(running)
    setting = running.sending.layer.setting
    assert setting is not None
    assert (setting.preset == QUICK_PRESET) == hurried


def test_a_missing_layer_frame_brings_a_key_frame(running: Running, faces: list[Picture]) -> None:
    running.sending.follow(FixedPlan(layer_bps=24_000))
    running.show(*faces[:12])
    running.begin()
    asked_for_layer(running)
    running.show(*faces[12:20])
    assert len({fragment.number for fragment in running.told.layer if fragment.key}) == 1
    assert running.sending.layer.key_frames == 1
    asked_for_layer(running, key=True)
    running.show(*faces[20:28])
    assert running.sending.layer.key_frames == 2


def test_who_moves_somebody_elses_picture_is_not_seen_in_a_video_layer(
    running: Running, faces: list[Picture], drawing_clip: Path
) -> None:
    running.sending.follow(FixedPlan(layer_bps=6000))
    running.show(*faces[:12])
    running.begin()
    asked_for_layer(running)
    running.show(*faces[12:20])
    assert running.told.layer
    running.sending.use_picture(next(iter(open_clip(drawing_clip))).rgb)
    running.sending.do_what_was_asked()
    running.sending.confirm(running.told.sources[-1].packed.picture_hash)
    running.sending.do_what_was_asked()
    running.told.layer.clear()
    sent = len(running.told.packets)
    running.show(*faces[20:35])
    assert len(running.told.packets) > sent
    assert not running.told.layer


def test_a_picture_from_a_file_that_was_never_compared_with_the_camera_brings_no_video_layer(
    faces: list[Picture], drawing_clip: Path, tmp_path: Path
) -> None:
    avatar = tmp_path / "avatar.png"
    Image.fromarray(next(iter(open_clip(drawing_clip))).rgb).save(avatar)
    running = opened(plan=FixedPlan(layer_bps=6000), source=avatar)
    running.begin()
    asked_for_layer(running)
    running.show(*faces[:20])
    assert running.told.packets
    assert not running.told.layer


def shows_camera(running: Running, plan: FixedPlan | None = None) -> None:
    """A connection to a side that shows what the camera sees."""
    running.sending.follow(plan or FixedPlan(layer_bps=3000, camera_bps=24_000))
    running.begin()
    running.sending.take_camera()
    asked_for_layer(running)


@pytest.fixture
def away(faces: list[Picture]) -> Running:
    """Somebody who has a source picture, and shows the camera while out of view."""
    running = opened(camera_when_away=True)
    running.show(*faces[:12])
    shows_camera(running)
    return running


def test_who_goes_out_of_view_shows_what_the_camera_sees_until_he_is_back(away: Running, faces: list[Picture]) -> None:
    away.show(*faces[12:18])
    assert away.told.layer
    assert not any(fragment.whole for fragment in away.told.layer)
    empty = black(faces[0])[:144]
    left_us = away.show(*[empty] * 70)
    (why, from_us), packets = away.told.cameras[-1], len(away.told.packets)
    assert why == "away"
    assert AWAY_US <= from_us - away.told.faces[-1][1] <= AWAY_US + 5 * PERIOD_US
    whole = [fragment for fragment in away.told.layer if fragment.whole]
    assert whole[0].key
    assert wire_time_ms(from_us) == whole[0].time_ms
    away.show(*[empty] * 55)
    # The face rests, and its motion goes on to carry the pictures: of an empty room once a second.
    assert 2 <= len(away.told.packets) - packets <= 3
    packets, whole_frames = len(away.told.packets), away.sending.layer.frames
    away.show(*[np.full_like(empty, 8 * n) for n in range(25)])
    assert 5 <= away.sending.layer.frames - whole_frames <= 7
    assert 5 <= len(away.told.packets) - packets <= 12
    away.told.layer.clear()
    away.show(*faces[12:36])
    assert away.told.cameras[-1][0] is None
    assert left_us < away.told.cameras[-1][1]
    assert away.told.layer[-1].whole is False
    assert next(fragment.key for fragment in away.told.layer if not fragment.whole)
    assert away.sending.camera_view.shown is None


def test_what_the_camera_sees_is_shown_when_it_is_asked_for_whoever_is_in_the_picture(
    running: Running, faces: list[Picture]
) -> None:
    running.show(*faces[:12])
    shows_camera(running, FixedPlan(camera_bps=24_000))  # no layer under the motion
    running.show(*faces[12:15])
    running.sending.show_camera(True)
    running.sending.do_what_was_asked()
    running.show(*faces[15:30])
    assert running.told.cameras[-1][0] == "asked"
    assert running.told.layer
    assert all(fragment.whole for fragment in running.told.layer)
    running.sending.show_camera(False)
    running.sending.do_what_was_asked()
    running.show(faces[30])  # with it goes what had waited for a message
    running.told.layer.clear()
    packets = len(running.told.packets)
    running.show(*faces[31:40])
    assert running.told.cameras[-1][0] is None
    assert len(running.told.packets) > packets
    assert not running.told.layer


def test_a_new_picture_can_be_taken_while_the_camera_is_shown(running: Running, faces: list[Picture]) -> None:
    running.show(*faces[:12])
    shows_camera(running)
    running.sending.show_camera(True)
    running.sending.do_what_was_asked()
    running.show(*faces[12:15])
    running.sending.preview.overlay_wanted = True
    running.show(*faces[15:20])
    assert running.told.cameras[-1][0] == "asked"
    assert running.told.overlays  # not with every frame
    assert all(told["face"] for told in running.told.overlays)


def test_who_was_never_in_the_picture_shows_what_the_camera_sees_all_the_same(faces: list[Picture]) -> None:
    camera, told, clock, loop = Frames(), Told(), WorkClock(), EventLoop()
    sending = SendPipeline(camera, told.events, loop.deliver, plan=FixedPlan(), clock=clock, camera_when_away=True)
    sending.opened()
    running = Running(sending, camera, told, clock, loop)
    shows_camera(running)
    running.show(*[black(faces[0])] * 70)
    assert told.cameras[-1][0] == "away"
    assert told.layer[0].whole
    running.show(*faces[:30])
    assert told.cameras[-1][0] is None
    assert len(told.sources) == 1
    packets = len(told.packets)
    running.show(*faces[30:40])
    assert len(told.packets) > packets
    assert not told.layer[-1].whole


def test_the_camera_is_not_shown_to_who_cannot_nor_where_the_plan_has_no_room(
    running: Running, faces: list[Picture]
) -> None:
    running.show(*faces[:12])
    running.sending.follow(FixedPlan(layer_bps=3000, camera_bps=24_000))
    running.begin()
    asked_for_layer(running)
    running.sending.show_camera(True)
    running.sending.do_what_was_asked()
    running.show(*faces[12:24])
    assert not any(fragment.whole for fragment in running.told.layer)
    shows_camera(running, FixedPlan(layer_bps=3000, camera_bps=500))
    running.show(*faces[24:36])
    assert not any(fragment.whole for fragment in running.told.layer)
    assert running.told.cameras == []


def test_a_camera_that_is_off_is_not_shown(away: Running, faces: list[Picture]) -> None:
    away.show(*[black(faces[0])] * 60)
    assert away.sending.camera_view.shown == "away"
    away.sending.camera_off = True
    away.told.layer.clear()
    away.show(*[black(faces[0])] * 60)
    assert away.sending.camera_view.shown is None
    assert not away.told.layer


def test_who_moves_somebody_elses_picture_is_not_shown_unasked(
    away: Running, faces: list[Picture], drawing_clip: Path
) -> None:
    away.show(*faces[12:20])
    away.sending.use_picture(next(iter(open_clip(drawing_clip))).rgb)
    away.sending.do_what_was_asked()
    away.sending.confirm(away.told.sources[-1].packed.picture_hash)
    away.sending.do_what_was_asked()
    away.told.layer.clear()
    away.show(*[black(faces[0])] * 70)
    assert not away.told.layer
    away.sending.show_camera(True)
    away.sending.do_what_was_asked()
    away.show(*[black(faces[0])] * 10)
    assert away.told.layer[0].whole


def sent_times_ms(packets: list[MotionPacket]) -> list[float]:
    """Capture times of all frames, as the packets tell them."""
    return [time_us / 1000 for packet in packets for time_us in packet.frame_times_us(START_US)]


@pytest.mark.parametrize(("work_ms", "fps", "frames", "allowed_ms"), [(66, 12.5, 2, 2.0), (84, 10.0, 1, 21.0)])
def test_a_slow_computer_sends_fewer_frames_evenly_and_not_later(
    running: Running, faces: list[Picture], work_ms: float, fps: float, frames: int, allowed_ms: float
) -> None:
    """At 10 of 25 a camera's frames lie 80 or 120 ms apart, which deviates by 20; at 12.5 all lie 80 apart."""
    running.show(*faces[:12])
    running.begin()
    running.clock.wall_s = running.camera.count * PERIOD_US / 1e6
    running.play(faces[12:], 4.0, work_ms)
    assert running.sending.rate.fps == fps
    assert running.sending.rate.limited_by == "processor"
    del running.told.packets[:-1]
    running.play(faces[12:], 4.0, work_ms)
    packets = running.told.packets[1:]
    assert {packet.frame_count for packet in packets} == {frames}
    spacing = np.diff(sent_times_ms(packets))
    assert spacing.mean() == pytest.approx(1000 / fps, rel=0.03)
    assert spacing.std() <= allowed_ms


def test_the_lowest_of_plan_pace_and_what_the_other_side_shows_is_sent(running: Running, faces: list[Picture]) -> None:
    sending = running.sending
    running.show(*faces[:12])
    running.begin()
    assert (sending.rate.fps, sending.rate.limited_by, sending.rate.frames_per_message) == (25, "none", 3)
    sending.limit(12.5)
    sending.do_what_was_asked()
    assert (sending.rate.fps, sending.rate.limited_by, sending.rate.frames_per_message) == (12.5, "the other side", 2)
    running.show(*faces[12:32])
    rest = running.told.packets[1:]  # without the first, which goes alone
    assert {packet.frame_count for packet in rest} == {2}
    assert {packet.spacing_us for packet in rest} == {80_000}
    sending.follow(FixedPlan(fps=5))
    sending.do_what_was_asked()
    assert (sending.rate.fps, sending.rate.limited_by) == (5, "network")
    assert sending.rate.wanted_fps == 5
    sending.follow(FixedPlan())
    running.begin()  # another connection: what the other side shows is not known
    assert (sending.rate.fps, sending.rate.limited_by, sending.rate.frames_per_message) == (25, "none", 3)


def test_a_thread_that_waits_for_the_processor_blames_other_programs(running: Running, faces: list[Picture]) -> None:
    running.show(*faces[:12])
    running.clock.wall_s = running.camera.count * PERIOD_US / 1e6
    running.play(faces[12:], 2.0, 84, own=0.5)
    limits = [running.sending.rate.limited_by]  # nothing is sent yet
    running.begin()
    running.play(faces[12:], 3.0, 84, own=0.5)
    limits.append(running.sending.rate.limited_by)
    assert limits == ["none", "other programs"]


def test_a_key_packet_comes_every_four_seconds_at_fewer_frames_too(running: Running, faces: list[Picture]) -> None:
    running.show(*faces[:12])
    running.begin()
    running.sending.limit(5)
    running.sending.do_what_was_asked()
    keys: list[float] = []
    for number in range(250):
        before = len(running.told.packets)
        running.show(faces[12 + number % 28])
        for packet in running.told.packets[before:]:
            if packet.is_key:
                keys.append(sent_times_ms([packet])[0])
            running.sending.acknowledge(packet.sequence)
            running.sending.do_what_was_asked()
    assert np.diff(keys) == pytest.approx([4000, 4000], abs=40)  # the camera's next frame


def test_camera_off_is_no_face(running: Running, faces: list[Picture]) -> None:
    running.show(*faces[:12])
    running.begin()
    running.show(*faces[12:18])
    running.sending.camera_off = True
    running.show(faces[18])
    count = len(running.told.packets)
    running.show(*faces[19:25])
    assert running.told.faces[-1][0] is False
    assert len(running.told.packets) == count


def test_overlay_says_what_to_do_only_while_it_is_wanted(running: Running, faces: list[Picture]) -> None:
    running.show(*faces[:4])
    assert running.told.overlays == []
    running.sending.preview.overlay_wanted = True
    running.show(faces[4], black(faces[0]))
    assert running.told.overlays[0]["face"] is True
    assert isinstance(running.told.overlays[0]["advice"], str)


def test_clip_file_that_is_missing_is_refused() -> None:
    from kilocall.proto.errors import BadInput
    from kilocall.sender.camera import open_camera

    with pytest.raises(BadInput):
        open_camera(str(Path("missing.mp4")), 25)


def test_frames_are_placed_by_further_pictures_once_the_other_side_holds_them(
    running: Running, faces: list[Picture], family: Family
) -> None:
    sending = running.sending

    def held() -> int:
        sending.do_what_was_asked()
        return sending.motion.pictures

    assert held() == 0
    running.show(*faces[:12])
    running.begin()
    (own,) = running.told.sources
    reference = base_reference(family, family.source(own.picture))
    sending.offered_reference(own.packed.picture_hash, "a", reference)
    sending.offered_reference("of another source", "b", reference)
    assert held() == 1
    for name in ("a", "a", "b", "never offered"):
        sending.confirm_reference(name)
    assert held() == 2
    running.show(*faces[12:24])
    assert running.told.packets
    running.begin()  # another connection: what the other side holds is told anew
    assert held() == 1
    sending.confirm_reference("a")
    assert held() == 2
