"""What a recording and the virtual camera are given, and when."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kilocall.call import virtual_camera
from kilocall.call.outputs import Outputs
from kilocall.call.recording import Recording
from kilocall.call.settings import CallSettings
from kilocall.codec.codebook import Codebook
from kilocall.codec.motion_codec import MotionEncoder
from kilocall.model.family import Picture, weights_folder
from kilocall.proto.control import SourcePicture
from kilocall.proto.errors import BadInput
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.stream_file import StreamReader
from kilocall.receiver.layer_receiver import DecodedLayer
from kilocall.receiver.live import Played

PICTURE = SourcePicture("webp", b"a picture")
FURTHER = SourcePicture("webp", b"the same speaker, turned")
LATER = SourcePicture("webp", b"the same speaker, laughing")
LINK = "http://127.0.0.1:8400/tea#AAECAwQFBgcICQoLDA0ODw"


@pytest.fixture(scope="module")
def codebook() -> Codebook:
    return Codebook.load(weights_folder() / "codebook.safetensors")


class Call:
    """What outputs see of a call."""

    def __init__(self, folder: Path, codebook: Codebook) -> None:
        self.codebook = codebook
        self.session = SimpleNamespace(
            remote_picture=PICTURE,
            remote=SimpleNamespace(picture_hash=PICTURE.picture_hash),
            references=SimpleNamespace(held={}),
            hello=SimpleNamespace(family="compact-256", weights_hash="0f" * 32, picture_size=256),
            layer_lost=lambda newest: self.asked_for_keys.append(newest),
        )
        self.asked_for_keys: list[int | None] = []
        self.receiving = SimpleNamespace(
            events=SimpleNamespace(played=None, layer=None, rgb=None),
            renderer=SimpleNamespace(takes_layer=False),
            layer=SimpleNamespace(newest=7),
            watched=False,
            last_time_us=5_000_000,
        )
        self.loudspeaker = SimpleNamespace(on_samples=None, hold_us=20_000)
        self.problems: list[str] = []
        outputs: Any = Outputs
        self.outputs: Outputs = outputs(
            CallSettings(room=LINK, recordings=folder),
            self.session,
            self.receiving,
            self.loudspeaker,
            codebook=lambda: codebook,
            picture_us=lambda: 90_000_000,
            on_problem=self.problems.append,
        )

    def plays(self, packets: int = 4) -> None:
        """The other side's motion comes."""
        encoder = MotionEncoder(self.codebook)
        for number in range(packets):
            vectors = np.zeros((3, self.codebook.coefficients), np.float32)
            time_us = 5_000_000 + 120_000 * number
            packet = MotionPacket.carry(encoder.encode(vectors), time_us, 40_000)
            assert self.receiving.events.played is not None
            self.receiving.events.played(Played(time_us, packet, vectors))


@pytest.fixture
def call(tmp_path: Path, codebook: Codebook) -> Call:
    return Call(tmp_path, codebook)


def test_a_recording_has_the_pictures_that_are_held_and_those_that_come(call: Call) -> None:
    async def run() -> None:
        call.session.references.held[FURTHER.picture_hash] = FURTHER
        await call.outputs.start_recording()
        assert call.outputs.recording
        call.plays()
        call.session.references.held[LATER.picture_hash] = LATER
        for picture in (FURTHER, LATER):
            call.outputs.further_picture(picture.picture_hash)
        written = await call.outputs.stop_recording()
        assert isinstance(written, Recording)
        reader = StreamReader(written.stream)
        assert reader.frame_count == written.frames == 12
        assert reader.source_picture() == PICTURE
        assert reader.references() == [FURTHER, LATER]

    asyncio.run(run())


def test_a_recording_has_what_the_camera_showed_and_that_it_ended(call: Call) -> None:
    async def run() -> None:
        await call.outputs.start_recording()
        events = call.receiving.events
        still = np.zeros((90, 160, 3), np.uint8)
        events.layer(DecodedLayer(5_120_000, True, b"coded", still, whole=True))
        call.plays()
        events.camera_ended(5_240_000)
        written = await call.outputs.stop_recording()
        assert isinstance(written, Recording)
        found = [(frame.time_us, frame.whole, frame.data) for frame in StreamReader(written.stream).video()]
        assert found == [(120_000, True, b"coded"), (240_000, True, b"")]
        events.camera_ended(5_360_000)  # nobody records any more

    asyncio.run(run())


def test_further_pictures_of_another_source_are_not_recorded(call: Call) -> None:
    async def run() -> None:
        await call.outputs.start_recording()
        call.plays()
        call.session.remote.picture_hash = "another"
        call.session.references.held[LATER.picture_hash] = LATER
        call.outputs.further_picture(LATER.picture_hash)
        written = await call.outputs.stop_recording()
        assert written is not None
        assert StreamReader(written.stream).references() == []

    asyncio.run(run())


def test_nothing_is_handed_over_before_and_after_a_recording(call: Call) -> None:
    async def run() -> None:
        events = call.receiving.events
        assert await call.outputs.stop_recording() is None
        call.receiving.renderer.takes_layer = True
        await call.outputs.start_recording()
        assert None not in (events.played, events.layer, call.loudspeaker.on_samples)
        assert call.asked_for_keys == [7]  # the file's layer begins with a key frame
        assert await call.outputs.stop_recording() is None  # nothing came
        assert (events.played, events.layer, call.loudspeaker.on_samples) == (None, None, None)
        assert not call.outputs.recording

    asyncio.run(run())


def test_there_is_nothing_to_record_before_a_picture_has_come(call: Call) -> None:
    async def run() -> None:
        call.session.remote_picture = None
        with pytest.raises(BadInput, match="nothing to record yet"):
            await call.outputs.start_recording()
        assert not call.outputs.recording

    asyncio.run(run())


def test_a_disk_that_fails_ends_the_recording_and_is_told(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        def full(self: object, *arguments: object) -> None:
            raise OSError(28, "No space left on device")

        await call.outputs.start_recording()
        monkeypatch.setattr("kilocall.proto.stream_file.StreamWriter.add_packet", full)
        call.plays()
        for _ in range(100):
            if call.problems:
                break
            await asyncio.sleep(0.05)
        assert len(call.problems) == 1
        assert "No space left" in call.problems[0]
        assert not call.outputs.recording
        assert call.receiving.events.played is None

    asyncio.run(run())


def test_a_virtual_camera_that_is_not_there_says_why_and_one_that_is_gets_every_picture(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Picture] = []
    closed: list[bool] = []

    class Device:
        device = "/dev/video9"

        def __init__(self, **settings: object) -> None:
            if not sent:
                raise RuntimeError("no such device")

        def send(self, rgb: Picture) -> None:
            sent.append(rgb)

        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr(virtual_camera, "why_unavailable", lambda: None)
    monkeypatch.setitem(sys.modules, "pyvirtualcam", SimpleNamespace(Camera=Device))
    with pytest.raises(BadInput, match="no loopback device"):
        call.outputs.use_virtual_camera(True)
    assert not call.outputs.virtual
    assert "no such device" in str(call.outputs.virtual_reason)
    sent.append(np.zeros((1, 1, 3), np.uint8))
    call.outputs.use_virtual_camera(True)
    assert call.outputs.virtual
    assert call.outputs.virtual_reason is None
    assert call.receiving.watched  # pictures are made for it, whoever looks at the page
    call.receiving.events.rgb(np.full((256, 256, 3), 7, np.uint8))
    assert sent[-1].shape == (512, 512, 3)
    call.outputs.use_virtual_camera(False)
    assert call.receiving.events.rgb is None
    assert closed == [True]
    assert not call.outputs.virtual
