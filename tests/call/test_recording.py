from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from queue import Queue
from typing import Any

import av
import numpy as np
import pytest

from kilocall.call.recording import Recorder
from kilocall.codec.codebook import Codebook
from kilocall.codec.motion_codec import MotionDecoder, MotionEncoder
from kilocall.model.family import weights_folder
from kilocall.proto.control import SourcePicture
from kilocall.proto.layer_frame import TimedLayerFrame
from kilocall.proto.limits import MOST_PICTURES
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.stream_file import StreamReader
from kilocall.receiver.decode import PacketDecoder
from kilocall.receiver.layer_receiver import DecodedLayer
from kilocall.receiver.live import Played

PICTURE = SourcePicture("webp", b"a picture")
NOW = datetime(2024, 5, 6, 7, 8, 9)
START_US = 5_000_000


@pytest.fixture(scope="module")
def codebook() -> Codebook:
    return Codebook.load(weights_folder() / "codebook.safetensors")


def recorder(
    folder: Path,
    codebook: Codebook,
    further: tuple[SourcePicture, ...] = (),
    on_problem: Callable[[str], None] = lambda text: None,
) -> Recorder:
    return Recorder(
        folder,
        PICTURE,
        codebook,
        family="compact-256",
        weights_hash="0f" * 32,
        picture_size=256,
        fps=Fraction(25),
        tool="test",
        further=further,
        now=NOW,
        on_problem=on_problem,
    )


def received(codebook: Codebook, packets: int) -> list[Played]:
    """Packets as the receiver decodes them, of a sender that predicts from what was acknowledged long before."""
    rng = np.random.default_rng(3)
    encoder, decoder = MotionEncoder(codebook, reference="acknowledged"), MotionDecoder(codebook)
    steps = codebook.steps(4)
    vector = np.zeros(codebook.coefficients)
    played = []
    for number in range(packets):
        frames = []
        for _ in range(3):
            vector = vector + rng.normal(size=len(vector)) * steps
            frames.append(vector.copy())
        coded = encoder.encode(np.array(frames, np.float32))
        vectors = decoder.decode(coded)
        if number == 2:
            encoder.acknowledge(coded.sequence)
        time_us = START_US + number * 120_000
        played.append(Played(time_us, MotionPacket.carry(coded, time_us, 40_000), vectors))
    return played


def test_recording_begun_in_the_middle_plays_exactly_what_was_seen(tmp_path: Path, codebook: Codebook) -> None:
    played = received(codebook, 30)[10:]
    assert not any(item.packet.is_key for item in played)  # undecodable without what came before
    recording = recorder(tmp_path, codebook)
    for item in played:
        recording.add_motion(item)
    written = recording.close()
    assert written is not None
    assert written.stream == tmp_path / "call-2024-05-06-070809.kcs"
    assert written.frames == 60
    assert written.sound is None
    reader = StreamReader(written.stream)
    assert not reader.truncated
    assert reader.source_picture() == PICTURE
    decoder = PacketDecoder(codebook)
    seen = [timed.motion.vector for packet in reader.packets() for timed in decoder.push(packet.packet)]
    wanted = np.concatenate([item.vectors for item in played])
    assert decoder.dropped == 0
    # The scale goes through exp and log; everything else is the same integer times the same step.
    assert np.allclose(np.stack(seen), wanted, atol=1e-5)
    assert [packet.time_us for packet in reader.packets()] == [item.time_us - played[0].time_us for item in played]


def test_the_video_layer_is_recorded_from_its_first_key_frame_on(tmp_path: Path, codebook: Codebook) -> None:
    still = np.zeros((128, 128, 3), np.uint8)
    layer = [
        DecodedLayer(START_US + 100_000 * number, number == 3, bytes([number + 1]) * 9, still)
        for number in range(-1, 8)
    ]
    recording = recorder(tmp_path, codebook)
    recording.add_layer(layer[0])
    for item in received(codebook, 10):
        recording.add_motion(item)
    for frame in layer[1:]:
        recording.add_layer(frame)
    written = recording.close()
    assert written is not None
    reader = StreamReader(written.stream)
    found = [(frame.time_us, frame.key, frame.data) for frame in reader.layer_frames()]
    assert found == [(100_000 * number, number == 3, bytes([number + 1]) * 9) for number in range(3, 8)]
    assert reader.frame_count == 30


def test_what_the_camera_showed_is_recorded_from_its_first_key_frame_on_until_it_is_said_and_the_layer_anew(
    tmp_path: Path, codebook: Codebook
) -> None:
    still = np.zeros((90, 160, 3), np.uint8)
    recording = recorder(tmp_path, codebook)

    def add(ms: int, *, key: bool = False, whole: bool = True) -> None:
        recording.add_layer(DecodedLayer(START_US + 1000 * ms, key, b"coded", still, whole))

    def end(ms: int) -> None:
        recording.end_camera(START_US + 1000 * ms)

    end(0)
    add(-80)
    add(-40, key=True)  # decoded before any motion is shown
    add(120)
    for item in received(codebook, 6):
        recording.add_motion(item)
    add(200, whole=False)  # refers to what the layer showed before the recording
    add(280)
    add(480, key=True, whole=False)  # comes before the frame is shown in which the camera's ends
    end(440)
    end(520)  # is over
    add(600)  # refers to what the camera saw
    add(640, whole=False)
    add(700, key=True)
    add(690)  # the other side's clock goes back: decoded in this order all the same
    end(650)
    written = recording.close()
    assert written is not None
    reader = StreamReader(written.stream)
    assert not reader.truncated
    found = [
        (frame.time_us // 1000, frame.key, frame.whole, bool(frame.data))
        for frame in reader.records()
        if isinstance(frame, TimedLayerFrame)
    ]
    assert found == [
        (0, True, True, True),
        (120, False, True, True),
        (280, False, True, True),
        (480, True, False, True),
        (440, False, True, False),
        (640, False, False, True),
        (700, True, True, True),
        (700, False, True, True),
        (700, False, True, False),
    ]


def test_further_pictures_that_are_held_are_recorded(tmp_path: Path, codebook: Codebook) -> None:
    further = SourcePicture("avif", b"further")
    recording = recorder(tmp_path, codebook, (further,))
    for item in received(codebook, 3):
        recording.add_motion(item)
    made = recording.close()
    assert made is not None
    assert StreamReader(made.stream).references() == [further]


def test_pictures_that_come_later_stand_where_they_came_once_and_no_more_than_a_reader_takes(
    tmp_path: Path, codebook: Codebook
) -> None:
    further = [SourcePicture("avif", b"further %d" % number) for number in range(MOST_PICTURES)]
    recording = recorder(tmp_path, codebook, (further[0],))
    first, second = received(codebook, 2)
    recording.add_motion(first)
    for picture in (further[0], *further):
        recording.add_picture(picture)
    recording.add_motion(second)
    made = recording.close()
    assert made is not None
    reader = StreamReader(made.stream)
    assert reader.references() == further[: MOST_PICTURES - 1]
    kinds = [type(record).__name__ for record in reader.records()]
    assert kinds[-MOST_PICTURES:] == ["TimedPacket", *["ReferencePicture"] * (MOST_PICTURES - 2), "TimedPacket"]


def test_speech_lies_beside_the_picture_with_its_pauses(tmp_path: Path, codebook: Codebook) -> None:
    recording = recorder(tmp_path, codebook)
    for item in received(codebook, 10):
        recording.add_motion(item)
    sound = (8000 * np.sin(np.arange(9600) / 20)).astype(np.int16)  # 200 ms
    recording.add_speech(sound, START_US - 300_000)  # before the first picture
    recording.add_speech(sound, START_US)
    recording.add_speech(sound, START_US + 1_000_000)
    written = recording.close()
    assert written is not None
    assert written.sound is not None
    with av.open(str(written.sound)) as container:
        heard = np.concatenate([np.ravel(f.to_ndarray()).astype(np.float64) for f in container.decode(audio=0)])
    seconds = len(heard) / 48_000
    assert seconds == pytest.approx(1.2, abs=0.05)
    loud = np.abs(heard) > 0.2 * np.abs(heard).max()
    assert not loud[int(0.4 * 48_000) : int(0.9 * 48_000)].any()
    assert loud[int(1.05 * 48_000) : int(1.15 * 48_000)].any()


def test_nothing_received_leaves_no_file(tmp_path: Path, codebook: Codebook) -> None:
    recording = recorder(tmp_path, codebook)
    recording.add_speech(np.zeros(960, np.int16), 0)
    assert recording.close() is None
    assert list(tmp_path.iterdir()) == []


def test_second_recording_of_the_same_second_gets_its_own_name(tmp_path: Path, codebook: Codebook) -> None:
    (tmp_path / "call-2024-05-06-070809.kcs").touch()
    recording = recorder(tmp_path, codebook)
    assert recording.stream.name == "call-2024-05-06-070809-2.kcs"
    assert recording.close() is None


def test_failed_recording_says_so_and_leaves_no_file(tmp_path: Path, codebook: Codebook) -> None:
    recording = recorder(tmp_path, codebook)
    first = received(codebook, 1)[0]
    recording.add_motion(Played(first.time_us, first.packet, np.full_like(first.vectors, np.nan)))
    with pytest.raises(OSError, match=r"recording .* failed"):
        recording.close()
    assert list(tmp_path.iterdir()) == []


class FullDisk:
    """A file on a disk with so much room."""

    def __init__(self, file: Any, room: list[int]) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        if len(data) > self.room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room[0] -= len(data)
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def speech(seconds: float) -> np.ndarray:
    return np.asarray(8000 * np.sin(np.arange(int(seconds * 48_000)) * 0.06), np.int16)


@pytest.mark.parametrize("full", ["stream_file", "recording"])
def test_full_disk_is_told_at_once_and_what_is_written_can_be_played(
    tmp_path: Path, codebook: Codebook, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    room = [1500] if full == "stream_file" else [6000]
    module = "kilocall.proto.stream_file" if full == "stream_file" else "kilocall.call.recording"

    def open_on_full_disk(*arguments: Any, **options: Any) -> FullDisk:
        return FullDisk(open(*arguments, **options), room)

    monkeypatch.setattr(f"{module}.open", open_on_full_disk, raising=False)
    told: Queue[str] = Queue()
    recording = recorder(tmp_path, codebook, on_problem=told.put)
    items = received(codebook, 100)
    for item in items:
        recording.add_motion(item)
        recording.add_speech(speech(0.12), item.time_us)
    why = told.get(timeout=30)
    assert str(recording.stream) in why
    assert "No space left on device" in why
    recording.add_motion(items[0])
    with pytest.raises(OSError, match="No space left on device"):
        recording.close()
    monkeypatch.undo()
    reader = StreamReader(recording.stream)
    assert reader.damage == "ends without an index"
    assert f"its first {reader.frame_count} frames can be played" in why
    assert 10 < reader.frame_count < 300
    assert reader.source_picture() == PICTURE
    with av.open(str(recording.sound)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) > 0


def test_recording_never_takes_the_name_of_a_file_that_is_there(tmp_path: Path, codebook: Codebook) -> None:
    (tmp_path / "call-2024-05-06-070809.ogg").write_bytes(b"speech of another")
    (tmp_path / "call-2024-05-06-070809-2.kcs").write_bytes(b"another")
    recording = recorder(tmp_path, codebook)
    item = received(codebook, 1)[0]
    recording.add_motion(item)
    recording.add_speech(speech(0.5), item.time_us)
    made = recording.close()
    assert made is not None
    assert made.stream.name == "call-2024-05-06-070809-3.kcs"
    assert made.sound is not None
    assert (tmp_path / "call-2024-05-06-070809.ogg").read_bytes() == b"speech of another"
    assert (tmp_path / "call-2024-05-06-070809-2.kcs").read_bytes() == b"another"


KILLED = """
import sys, time
from pathlib import Path
from call.test_recording import received, recorder, speech
from kilocall.codec.codebook import Codebook
from kilocall.model.family import weights_folder
codebook = Codebook.load(weights_folder() / "codebook.safetensors")
recording = recorder(Path(sys.argv[1]), codebook)
for item in received(codebook, 60):
    recording.add_motion(item)
    recording.add_speech(speech(0.12), item.time_us)
while recording._waiting.qsize():
    time.sleep(0.01)
print("written", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
def test_recording_of_a_call_that_is_killed_can_be_played_to_its_last_second(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    path = os.pathsep.join(str(root / name) for name in ("sender", "receiver", "shared", "proto", "tests"))
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    assert process.stdout is not None
    with process, process.stdout as lines:
        assert lines.readline() == b"written\n"
        process.kill()
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["call-2024-05-06-070809.kcs", "call-2024-05-06-070809.ogg"]
    reader = StreamReader(tmp_path / names[0])
    assert reader.frame_count >= 3 * 59  # the one in work may be missing
    assert reader.source_picture() == PICTURE
    with av.open(str(tmp_path / names[1])) as container:
        seconds = sum(frame.samples for frame in container.decode(audio=0)) / 48_000
    assert seconds > 60 * 0.12 - 1.5


def test_recording_is_readable_while_it_grows(tmp_path: Path, codebook: Codebook) -> None:
    recording = recorder(tmp_path, codebook)
    for number, item in enumerate(received(codebook, 5)):
        recording.add_motion(item)
        until = time.monotonic() + 10
        while StreamReader(recording.stream).frame_count < 3 * (number + 1):
            assert time.monotonic() < until
            time.sleep(0.01)
    assert recording.close() is not None
    assert not StreamReader(recording.stream).truncated
