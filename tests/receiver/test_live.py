"""The receiving thread's steps, taken one by one on a clock of the test."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from kilocall.codec.motion_codec import MotionEncoder
from kilocall.model.family import Family, Source, load_family
from kilocall.model.motion import Motion
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.stream_file import StreamReader
from kilocall.receiver.live import Played, Receiving, ReceivingEvents, Rendered
from kilocall.runtime.engine import choose_engine
from kilocall.runtime.pictures import decode_picture
from kilocall.sample import sample_stream

SPACING_US = 40_000


@pytest.fixture(scope="module")
def family() -> Family:
    return load_family(engine=choose_engine("auto", 1))


@pytest.fixture(scope="module")
def picture() -> tuple[str, bytes]:
    """Hash and data of a source picture."""
    packed = StreamReader(sample_stream("astronaut")).source_picture()
    assert packed is not None
    return packed.picture_hash, packed.data


@pytest.fixture(scope="module")
def source(family: Family, picture: tuple[str, bytes]) -> Source:
    return family.source(decode_picture(picture[1]))


@dataclass
class Rig:
    receiving: Receiving
    pictures: list[Rendered] = field(default_factory=list)
    played: list[Played] = field(default_factory=list)
    now_us: int = 5_000_000

    def step(self, seconds: float = 0.0) -> None:
        """Runs the thread's work for so long; what was asked of it comes first, as on the thread."""
        until_us = self.now_us + round(seconds * 1e6)
        while True:
            jobs = list(self.receiving._jobs)
            self.receiving._jobs.clear()
            for answer, question in jobs:
                answer.set_result(question())
            self.receiving.step()
            if self.now_us >= until_us:
                return
            self.now_us += 10_000


@pytest.fixture
def rig(picture: tuple[str, bytes]) -> Rig:
    rig: Rig

    def deliver(call: object) -> None:
        call()  # type: ignore[operator]

    events = ReceivingEvents(
        picture=lambda made: rig.pictures.append(made),
        ready=lambda name: None,
        refused=lambda name, why: None,
        played=lambda item: rig.played.append(item),
    )
    receiving = Receiving(events, deliver, threads=1, clock_us=lambda: rig.now_us)
    receiving.opened()
    rig = Rig(receiving)
    receiving.prepare(*picture)
    rig.step()
    return rig


def coded(encoder: MotionEncoder, source: Source, first_us: int, frames: int) -> bytes:
    rest: Motion = source.pose
    vectors = np.repeat(rest.vector[None], frames, 0)
    return bytes(MotionPacket.carry(encoder.encode(vectors), first_us, SPACING_US))


def test_packet_that_comes_with_a_new_connection_is_kept_for_those_that_refer_to_it(
    rig: Rig, family: Family, source: Source
) -> None:
    """The other side has been told of its delivery, whatever this thread was busy with then."""
    old = MotionEncoder(family.codebook, reference="acknowledged")
    rig.receiving.push(coded(old, source, rig.now_us - 120_000, 3), rig.now_us)
    rig.step(0.3)
    assert len(rig.pictures) == 3
    new = MotionEncoder(family.codebook, reference="acknowledged")
    rig.receiving.restart()
    rig.receiving.push(coded(new, source, rig.now_us - 120_000, 3), rig.now_us)
    new.acknowledge(0)
    rig.step(0.3)
    rig.receiving.push(coded(new, source, rig.now_us - 120_000, 3), rig.now_us)
    rig.step(0.3)
    assert len(rig.pictures) == 9


def test_packet_of_the_connection_before_is_not_taken_for_one_of_the_next(
    rig: Rig, family: Family, source: Source
) -> None:
    old = MotionEncoder(family.codebook, reference="acknowledged")
    rig.receiving.push(coded(old, source, rig.now_us - 120_000, 3), rig.now_us)
    rig.receiving.restart()
    rig.step(0.3)
    assert rig.pictures == []
    assert rig.receiving.jitter.received == 0


def test_frames_that_come_again_are_rendered_and_recorded_once(rig: Rig, family: Family, source: Source) -> None:
    encoder = MotionEncoder(family.codebook, reference="acknowledged")
    start_us = rig.now_us
    for number, (first, frames) in enumerate([(0, 2), (0, 4), (0, 6), (2, 6)]):
        while rig.now_us < start_us + (2 * number + 1) * SPACING_US:
            rig.step(0.01)
        rig.receiving.push(coded(encoder, source, start_us + first * SPACING_US, frames), rig.now_us)
    rig.step(0.4)
    assert len(rig.pictures) == 8
    assert [len(item.vectors) for item in rig.played] == [2, 2, 2, 2]
    assert [round((item.time_us - rig.played[0].time_us) / 1e3) for item in rig.played] == [0, 80, 160, 240]
