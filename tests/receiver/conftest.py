"""A stream whose pictures are flat colours that say which frame they are, so that playing needs no networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kilocall.model.family import Source
from kilocall.model.motion import Motion
from kilocall.proto.errors import BadInput
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.stream_file import StreamHeader, StreamReader, StreamWriter, TimedPacket
from kilocall.receiver.decode import TimedMotion
from kilocall.receiver.render import View
from speech import tone

FPS = 25
FRAME_US = 1_000_000 // FPS
FRAMES_PER_PACKET = 3
KEY_EVERY = 10
PAYLOAD = bytes(12)

Picture = NDArray[np.uint8]


def flat(value: int) -> Picture:
    return np.full((32, 32, 3), value, np.uint8)


class FlatRenderer:
    """Brightness is the frame's number, plus the yaw that the viewer asked for."""

    def __init__(self, base: int) -> None:
        nothing = np.zeros(0, np.float32)
        still = Motion((0.0, 0.0, 0.0), (0.0, 0.0), 1.0, nothing)
        self.source = Source(flat(base), still, np.zeros((0, 3), np.float32), np.zeros((0, 2), np.float32), 1.0)
        self.base = base
        self.view = View()
        self.pictures = 1
        self.rendered: list[int] = []
        self.fails = False

    def render(self, motion: Motion, time_us: int | None = None) -> Picture:
        if self.fails:
            raise RuntimeError("the model broke")
        number = round(motion.translation[0])
        self.rendered.append(number)
        return flat(self.base + number + round(self.view.yaw))


class FlatStream:
    """What a playback needs of an opened stream."""

    def __init__(self, path: Path) -> None:
        self.reader = StreamReader(path)
        self.renderer = FlatRenderer(0)
        self.relative = False
        self.starts: list[int] = []
        self.camera_frames = range(0)
        """Frames in whose place what the camera saw is shown."""

    def motions(self, from_us: int = 0) -> Iterator[TimedMotion]:
        start = self.reader.seek(from_us)
        self.starts.append(start.time_us if start else 0)
        for record in self.reader.records(start.offset if start else None):
            if isinstance(record, TimedPacket):
                for when in record.frame_times_us(self.reader.header.fps):
                    place = (float(when // FRAME_US), 0.0)
                    yield TimedMotion(when, Motion((0.0, 0.0, 0.0), place, 1.0, np.zeros(0, np.float32)))

    def camera(self, time_us: int) -> Picture | None:
        return np.full((18, 32, 3), 200, np.uint8) if time_us // FRAME_US in self.camera_frames else None

    def show(self, picture: Picture | None) -> None:
        if picture is not None and picture.max() == 0:
            raise BadInput("no face in it")
        view = self.renderer.view
        self.renderer = FlatRenderer(0 if picture is None else int(picture[0, 0, 0]))
        self.renderer.view = view
        self.relative = picture is not None


@pytest.fixture
def write_stream(tmp_path: Path) -> Callable[..., Path]:
    """write_stream(packets=20): a stream of three frames a packet, every tenth a key packet."""

    def write(packets: int = 20, *, spoken: bool = False) -> Path:
        header = StreamHeader(
            family="flat",
            weights_hash="0" * 64,
            codebook_hash="0" * 64,
            fps=Fraction(FPS),
            picture_size=32,
            frame_width=32,
            frame_height=32,
            quality=50.0,
            tool="test",
        )
        path = tmp_path / "flat.kcs"
        with StreamWriter(path, header) as writer:
            for sound in tone(packets * FRAMES_PER_PACKET / FPS) if spoken else ():
                writer.add_sound(sound)
            for number in range(packets):
                time_us = number * FRAMES_PER_PACKET * FRAME_US
                packet = MotionPacket(
                    sequence=number,
                    time_ms=time_us // 1000 % 65536,
                    spacing_us=FRAME_US,
                    frame_count=FRAMES_PER_PACKET,
                    reference=None if number % KEY_EVERY == 0 else number - 1,
                    level=4,
                    payload=PAYLOAD,
                )
                writer.add_packet(time_us, packet)
        return path

    return write


@pytest.fixture
def replay_stream(write_stream: Callable[..., Path]) -> FlatStream:
    """60 frames, 2.4 s, key packets at 0 and 1.2 s."""
    return FlatStream(write_stream())


@pytest.fixture
def spoken_stream(write_stream: Callable[..., Path]) -> FlatStream:
    """The same with speech."""
    return FlatStream(write_stream(spoken=True))
