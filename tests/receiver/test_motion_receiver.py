from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kilocall.codec.codebook import Codebook
from kilocall.codec.motion_codec import MotionEncoder
from kilocall.model.family import weights_folder
from kilocall.proto.motion_packet import MotionPacket
from kilocall.receiver.motion_receiver import DueMotion, MotionReceiver

SPACING_US = 40_000


@pytest.fixture(scope="module")
def codebook() -> Codebook:
    return Codebook.load(weights_folder() / "codebook.safetensors")


@pytest.fixture
def receiver(codebook: Codebook) -> MotionReceiver:
    receiver = MotionReceiver()
    receiver.open(codebook)
    return receiver


def coded(encoder: MotionEncoder, codebook: Codebook, first: int, frames: int) -> MotionPacket:
    """Packet of a motion that rests."""
    return MotionPacket.carry(encoder.encode(np.zeros((frames, codebook.coefficients))), first * SPACING_US, SPACING_US)


def played(receiver: MotionReceiver, now_us: int = 500_000) -> list[DueMotion]:
    return [due for time_us in range(0, now_us, 10_000) for due in receiver.pop(time_us)]


def test_each_frame_comes_with_its_motion_and_a_packet_with_its_first(
    receiver: MotionReceiver, codebook: Codebook
) -> None:
    encoder = MotionEncoder(codebook)
    for number in range(2):
        assert receiver.push(coded(encoder, codebook, 3 * number, 3), 120_000 * (number + 1))
    due = played(receiver)
    assert [one.time_us for one in due] == [number * SPACING_US for number in range(6)]
    assert all(one.motion is not None for one in due)
    assert [one.played is not None for one in due] == [True, False, False, True, False, False]
    assert [len(one.played.vectors) for one in due if one.played is not None] == [3, 3]


def test_frames_that_come_again_are_no_part_of_what_a_packet_adds(receiver: MotionReceiver, codebook: Codebook) -> None:
    encoder = MotionEncoder(codebook)
    receiver.push(coded(encoder, codebook, 0, 2), 80_000)
    receiver.push(coded(encoder, codebook, 0, 4), 160_000)
    assert [len(one.played.vectors) for one in played(receiver) if one.played is not None] == [2, 2]


def test_packet_that_cannot_be_decoded_changes_nothing_that_is_shown(
    receiver: MotionReceiver, codebook: Codebook
) -> None:
    packet = coded(MotionEncoder(codebook), codebook, 0, 3)
    assert receiver.push(replace(packet, sequence=20, reference=9), 120_000)
    assert [(one.motion, one.played) for one in played(receiver)] == [(None, None)] * 3
    assert (receiver.unreadable, receiver.decoded) == (1, 0)


def test_packet_that_comes_twice_is_decoded_once(receiver: MotionReceiver, codebook: Codebook) -> None:
    packet = coded(MotionEncoder(codebook), codebook, 0, 3)
    assert [receiver.push(packet, now_us) for now_us in (120_000, 121_000)] == [True, False]
    assert receiver.decoded == 1


def test_another_connection_begins_with_nothing(receiver: MotionReceiver, codebook: Codebook) -> None:
    receiver.push(coded(MotionEncoder(codebook), codebook, 0, 3), 120_000)
    receiver.restart()
    assert (receiver.jitter.received, receiver.decoded, played(receiver)) == (0, 0, [])
    receiver.push(coded(MotionEncoder(codebook), codebook, 0, 3), 120_000)  # the same number, of another sender
    assert len(played(receiver)) == 3
