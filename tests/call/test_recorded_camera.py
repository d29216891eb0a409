"""What the other side's camera showed in a call, in the recording of it: as it was shown, and when it was."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from kilocall import api
from kilocall.api import StreamPlayer
from kilocall.call.recording import Recorder
from kilocall.cli import run
from kilocall.codec.motion_codec import MotionEncoder
from kilocall.model.family import Family, Picture
from kilocall.proto.control import LayerReport, SourcePicture
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.stream_file import StreamReader
from kilocall.receiver.live import Played, ReceiveEvents, ReceivePipeline
from kilocall.receiver.render import View
from kilocall.sample import sample_stream
from kilocall.sender.capture import open_clip
from kilocall.sender.layer_sender import LayerSender
from layers import decibels

#: Frames, as the parts of the call have them.
FACE, CAMERA, AGAIN = 15, 30, 20
SPACING_US = 40_000
FAMILY_SIZE = 256
WALL, NOTE, CARD = (60, 110, 170), (235, 205, 40), (200, 40, 60)


def room(number: int) -> Picture:
    """A wall of 16:9 with a note that moves to the right."""
    picture = np.full((360, 640, 3), WALL, np.uint8)
    cv2.rectangle(picture, (40 + 12 * number, 60), (160 + 12 * number, 180), NOTE, -1)
    return picture


class Call:
    """One side hears the other, frame by frame on a clock of the test, and records."""

    def __init__(self, folder: Path, family: Family, source: SourcePicture) -> None:
        self.family, self.source, self.folder = family, source, folder
        self.now_us = 5_000_000
        self.first_us: int | None = None  # of the recording
        self.shown: dict[int, tuple[Picture, bool]] = {}  # by capture time
        self.recorder: Recorder | None = None
        self._rgb: list[Picture] = []
        self.receiving = ReceivePipeline(
            ReceiveEvents(
                picture=lambda made: self._note(made.time_us, made.camera),
                ready=lambda name: None,
                refused=lambda *what: None,
                rgb=self._rgb.append,
            ),
            lambda call: call(),
            threads=1,
            clock_us=lambda: self.now_us,
            clock=lambda: (self.now_us / 1e6, self.now_us / 1e6),
        )
        self.receiving.opened()
        self.receiving.prepare(source.picture_hash, source.data)
        self._motion = MotionEncoder(family.codebook)
        self._still = family.source(StreamPlayer(sample_stream("astronaut"), family=family).stream_source.picture)
        self.layer = LayerSender()
        self.layer.follow(6_000, 24_000)
        self._ask(key_needed=False)
        self.step(0.02)
        while self.receiving.speaker.undecoded:
            self.step(0.02)

    def step(self, seconds: float) -> None:
        until_us = self.now_us + round(seconds * 1e6)
        while self.now_us < until_us:
            self.receiving.do_what_was_asked()
            self.receiving.step()
            self.now_us += 10_000

    def record(self) -> None:
        events = self.receiving.events
        self.recorder = recorder = Recorder(
            self.folder,
            self.source,
            self.family.codebook,
            family=self.family.name,
            weights_hash=self.family.weights_hash,
            picture_size=FAMILY_SIZE,
            fps=Fraction(25),
            tool="test",
            now=datetime(2024, 5, 6, 7, 8, 9),
        )
        self.shown.clear()
        events.played = self._played
        events.layer = recorder.add_layer
        events.camera_ended = recorder.end_camera
        self._ask(key_needed=True)  # as the session does

    def stop(self) -> Path:
        self.step(0.4)  # what waits in the jitter buffer
        assert self.recorder is not None
        written = self.recorder.close()
        assert written is not None
        return written.stream

    def show(self, camera: bool) -> None:
        """The other side's camera is shown from the next frame on, or no more."""
        self.receiving.show_camera(camera, self.now_us)
        self.layer.show_camera(camera)

    def reconnect(self) -> None:
        self._motion = MotionEncoder(self.family.codebook)
        self.receiving.restart()
        self.step(0.02)

    def send(self, picture: Picture) -> None:
        """A frame in which the face stands still, and what of the picture the layer has."""
        now_us = self.now_us
        coded = self._motion.encode(self._still.pose.vector[None])
        packet = MotionPacket.carry(coded, now_us, SPACING_US)
        self.layer.push(picture, now_us)
        self.receiving.push(bytes(self.layer.behind(packet, again=False)), now_us)
        self.step(SPACING_US / 1e6)

    def face(self, frames: int) -> None:
        crop = self._still.picture.copy()
        cv2.rectangle(crop, (30, 170), (110, 240), CARD, -1)  # that the source picture never showed
        for _ in range(frames):
            self.send(crop)

    def camera(self, frames: int) -> None:
        for number in range(frames):
            self.send(room(number))

    def _ask(self, *, key_needed: bool) -> None:
        self.layer.asked(LayerReport(24_000, None, key_needed))

    def _played(self, played: Played) -> None:
        assert self.recorder is not None
        self.first_us = played.time_us if self.first_us is None else self.first_us
        self.recorder.add_motion(played)

    def _note(self, time_us: int, camera: bool) -> None:
        self.shown[time_us] = self._rgb[-1], camera


@pytest.fixture(scope="module")
def source() -> SourcePicture:
    packed = StreamReader(sample_stream("astronaut")).source_picture()
    assert packed is not None
    return packed


@pytest.fixture
def call(tmp_path: Path, family: Family, source: SourcePicture) -> Iterator[Call]:
    call = Call(tmp_path, family, source)
    yield call
    call.receiving.closed()


def in_file(call: Call) -> dict[int, tuple[Picture, bool]]:
    """What was shown live, by its time in the recording."""
    assert call.first_us is not None
    return {time_us - call.first_us: shown for time_us, shown in call.shown.items() if time_us >= call.first_us}


def settled(time_us: int) -> bool:
    """Whether the face's layer has come live, too: the first frame of it takes more than one message."""
    number = time_us // SPACING_US
    return number >= (FACE + CAMERA if number >= FACE else 0) + 5


def spans(shown: dict[int, bool]) -> list[tuple[bool, int]]:
    """Runs of frames that are the camera's, or are not, and how many each has."""
    runs: list[tuple[bool, int]] = []
    for _, camera in sorted(shown.items()):
        count = runs.pop()[1] if runs and runs[-1][0] == camera else 0
        runs.append((camera, count + 1))
    return runs


@pytest.fixture
def recorded(call: Call) -> Path:
    call.record()
    call.face(FACE)
    call.show(True)
    call.camera(CAMERA)
    call.show(False)
    call.face(AGAIN)
    return call.stop()


def test_a_recording_shows_what_was_seen_of_the_camera_to_the_bit_and_at_its_time(
    call: Call, recorded: Path, family: Family
) -> None:
    player = StreamPlayer(recorded, family=family)
    frames = {frame.time_us: frame for frame in player.frames()}
    live = in_file(call)
    assert len(frames) == FACE + CAMERA + AGAIN
    assert len(live) > len(frames) // 2
    assert spans({time_us: frame.camera for time_us, frame in frames.items()}) == [
        (False, FACE),
        (True, CAMERA),
        (False, AGAIN),
    ]
    compared = 0
    for time_us, (picture, camera) in live.items():
        frame = frames[time_us]
        assert frame.camera == camera, time_us
        if camera:
            assert np.array_equal(frame.rgb, picture), time_us
            compared += 1
        elif settled(time_us):
            assert decibels(frame.rgb, picture) > 30, time_us
    assert compared > 10
    assert sum(settled(time_us) for time_us, (_, camera) in live.items() if not camera) > 10
    # And that is the room, with the note where it was, not mixed into a face or the reverse.
    last = next(frame for frame in reversed(frames.values()) if frame.camera).rgb
    large = np.asarray(cv2.resize(last, (640, 360)), np.uint8)
    assert decibels(large, room(CAMERA - 1)) > 18
    assert np.abs(large[300, 600].astype(int) - WALL).max() < 12
    card = next(reversed(frames.values())).rgb
    assert np.abs(card[190:220, 50:90].mean((0, 1)) - CARD).max() < 60
    assert player.layer is not None
    assert player.layer.damaged == 0


def test_seeking_shows_the_same_as_playing_wherever_it_goes(recorded: Path, family: Family) -> None:
    played = {frame.time_us: frame for frame in StreamPlayer(recorded, family=family).frames()}
    player = StreamPlayer(recorded, family=family)
    last, middle, first = FACE + CAMERA + AGAIN - 1, FACE + CAMERA - 1, FACE
    for number in (middle, 0, first, last, FACE + 10, FACE - 1, FACE + CAMERA, middle):
        frame = next(iter(player.frames(number * SPACING_US)))
        assert frame.time_us == number * SPACING_US
        assert frame.camera == (FACE <= number < FACE + CAMERA), number
        if frame.camera:
            assert np.array_equal(frame.rgb, played[frame.time_us].rgb), number


def test_decode_fits_it_into_the_square_with_bars(recorded: Path, family: Family, tmp_path: Path) -> None:
    report = api.decode(recorded, tmp_path / "out.mp4", family=family)
    assert (report.frames, report.camera_frames) == (FACE + CAMERA + AGAIN, CAMERA)
    assert (report.width, report.height) == (256, 256)
    video = [frame.rgb for frame in open_clip(tmp_path / "out.mp4")]
    shown = video[FACE + CAMERA - 1].astype(int)
    assert shown[:50].max() < 30
    assert shown[-50:].max() < 30
    inner = np.asarray(cv2.resize(room(CAMERA - 1), (256, 144), interpolation=cv2.INTER_AREA), np.uint8)
    assert decibels(shown[56:200].astype(np.uint8), inner) > 18
    # Before and after it there are no bars.
    for number in (FACE - 1, FACE + CAMERA):
        assert video[number][:50].max() > 60
    held = api.decode(recorded, tmp_path / "held.mp4", layer=False, family=family)
    assert held.camera_frames == 0


def test_another_picture_and_a_turned_head(call: Call, recorded: Path, family: Family) -> None:
    """Who moves another picture is not shown by it; a head that a viewer turns hides nothing."""
    player = StreamPlayer(recorded, family=family)
    player.renderer.view = View(yaw=15)
    assert next(iter(player.frames(FACE * SPACING_US))).camera
    player.show(StreamPlayer(sample_stream("drawing"), family=family).stream_source.picture)
    assert not any(frame.camera for frame in player.frames())
    player.show(None)
    assert next(iter(player.frames(FACE * SPACING_US))).camera


def test_info_counts_it_apart(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = api.info(recorded)
    reader = StreamReader(recorded)
    assert found.camera_s == pytest.approx(CAMERA * SPACING_US / 1e6)
    camera = [frame for frame in reader.video() if frame.whole and frame.data]
    assert camera[0].key
    assert (found.camera_frames, found.camera_bytes) == (len(camera), sum(len(frame.data) for frame in camera))
    assert found.layer_frames == len(list(reader.layer_frames())) >= 6
    assert run(["info", str(recorded)]) == 0
    assert "shown for 1.2 s" in capsys.readouterr().out


def test_a_recording_that_begins_while_the_camera_is_shown_has_it_from_its_first_key_frame_on(
    call: Call, family: Family
) -> None:
    call.face(3)
    call.show(True)
    call.camera(10)
    call.step(0.4)
    call.record()
    call.camera(10)
    call.show(False)
    call.face(5)
    shown = {frame.time_us: frame for frame in StreamPlayer(call.stop(), family=family).frames()}
    assert spans({time_us: frame.camera for time_us, frame in shown.items()})[-2:] == [(True, 10), (False, 5)]
    for time_us, (picture, camera) in in_file(call).items():
        if camera:
            assert np.array_equal(shown[time_us].rgb, picture)


def test_a_new_connection_ends_it_without_a_word(call: Call, family: Family) -> None:
    call.record()
    call.face(5)
    call.show(True)
    call.camera(10)
    call.step(0.4)
    call.reconnect()
    call.layer.begin()
    call.face(5)  # of the layer nothing is sent
    frames = list(StreamPlayer(call.stop(), family=family).frames())
    assert [frame.camera for frame in frames] == [False] * 5 + [True] * 10 + [False] * 5


def test_pictures_of_which_no_word_came_are_in_no_recording_for_longer_than_a_frame(call: Call, family: Family) -> None:
    call.record()
    call.face(5)
    call.layer.show_camera(True)
    call.camera(10)
    call.face(5)
    assert not any(camera for _, camera in call.shown.values())
    frames = list(StreamPlayer(call.stop(), family=family).frames())
    assert sum(frame.camera for frame in frames) <= 10 // 2
