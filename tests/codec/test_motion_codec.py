from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kilocall.codec.codebook import Codebook
from kilocall.codec.motion_codec import CodedMotion, MotionDecoder, MotionEncoder, distance_class
from kilocall.proto.errors import BadInput, BadPacket
from kilocall.proto.limits import HISTORY

Motion = NDArray[np.float32]
VECTORS = Path(__file__).parents[1] / "vectors"


def decoded(decoder: MotionDecoder, packets: list[CodedMotion]) -> Motion:
    return np.concatenate([decoder.decode(packet) for packet in packets])


def exact(codebook: Codebook, quality: float = 50, **options: Any) -> MotionEncoder:
    """An encoder that takes the nearest integer."""
    return MotionEncoder(codebook, quality, rd_lambda=0, dead_zone=0.5, **options)


def golden_packets(codebook: Codebook, motion: Motion) -> list[CodedMotion]:
    """Key, predicted and late-acknowledged packets of 1 to 8 frames at several levels."""
    encoder = MotionEncoder(codebook, 50, reference="acknowledged")
    packets = []
    frame = 0
    for count, quality, acknowledged in [
        (3, 50, 0),
        (8, 50, 1),
        (1, 100, 1),
        (4, 100, 3),
        (8, 0, 3),
        (7, 62, 3),
    ]:
        encoder.set_quality(quality)
        packets.append(encoder.encode(motion[frame : frame + count]))
        encoder.acknowledge(acknowledged)
        frame += count
    encoder.key_interval = 1  # for one packet
    packets.append(encoder.encode(motion[frame : frame + 8]))
    encoder.key_interval = None
    packets.append(encoder.encode(motion[frame + 8 : frame + 16]))
    return packets


def test_packets_have_their_frozen_bytes(codebook: Codebook, motion: Motion) -> None:
    """Bytes and steps are frozen: a change here is a new protocol version."""
    golden = json.loads((VECTORS / "motion_codec.json").read_text())
    packets = golden_packets(codebook, motion)
    decoder = MotionDecoder(codebook)
    assert codebook.hash == golden["codebook_hash"]
    assert len(packets) == len(golden["packets"]) == 8
    for packet, expected in zip(packets, golden["packets"], strict=True):
        fields = {"sequence": packet.sequence, "reference": packet.reference, "level": packet.level}
        assert {**fields, "frame_count": packet.frame_count} == {
            name: expected[name] for name in (*fields, "frame_count")
        }
        assert packet.payload.hex() == expected["payload"]
        values = decoder.decode(packet) / codebook.steps(packet.level)
        assert np.rint(values).astype(int).tolist() == expected["steps"]


def test_distance_class_counts_frames_back_to_the_reference() -> None:
    # packets back, frames a packet -> distance 1, 2, 3, 4, 5, 8, 9, 505
    pairs = [(1, 8), (2, 1), (2, 2), (2, 3), (2, 4), (8, 1), (2, 8), (63, 8)]
    assert [distance_class(back, frames) for back, frames in pairs] == [1, 2, 3, 3, 4, 4, 5, 5]


@pytest.mark.parametrize("quality", [0, 12.5, 37.5, 50, 75, 100])
def test_error_is_at_most_half_a_step(codebook: Codebook, motion: Motion, quality: float) -> None:
    encoder = exact(codebook, quality)
    packets = list(encoder.encode_clip(motion, 3))
    steps = codebook.steps(packets[0].level)
    # 1e-3: the product of integer and float32 step is rounded.
    assert (np.abs(decoded(MotionDecoder(codebook), packets) - motion) <= steps * (0.5 + 1e-3)).all()


def test_default_choices_stay_within_a_step_and_a_bit(codebook: Codebook, motion: Motion) -> None:
    packets = list(MotionEncoder(codebook).encode_clip(motion, 3))
    assert (np.abs(decoded(MotionDecoder(codebook), packets) - motion) <= codebook.base_steps * 1.5).all()


def test_default_choices_save_bits(codebook: Codebook, motion: Motion) -> None:
    def size(encoder: MotionEncoder) -> int:
        return sum(len(packet.payload) for packet in encoder.encode_clip(motion, 3))

    assert size(MotionEncoder(codebook)) < size(exact(codebook))


def test_noise_below_the_dead_zone_is_not_coded(codebook: Codebook) -> None:
    rng = np.random.default_rng(3)
    noise = rng.uniform(-0.55, 0.55, (40, 4)) * codebook.base_steps
    noise[0] = 0
    frames = decoded(MotionDecoder(codebook), list(MotionEncoder(codebook).encode_clip(noise, 8)))
    assert (frames == 0).all()
    assert (decoded(MotionDecoder(codebook), list(exact(codebook).encode_clip(noise, 8))) != 0).any()


@pytest.mark.parametrize("frames_per_packet", [1, 2, 3, 8])
@pytest.mark.parametrize("reference", ["previous", "acknowledged"])
def test_streaming_gives_the_bytes_of_the_whole_clip(
    codebook: Codebook, motion: Motion, frames_per_packet: int, reference: Any
) -> None:
    whole = list(MotionEncoder(codebook, 70, reference=reference).encode_clip(motion, frames_per_packet))
    encoder, waiting, streamed = MotionEncoder(codebook, 70, reference=reference), [], []
    for frame in motion:
        waiting.append(frame)
        if len(waiting) == frames_per_packet:
            streamed.append(encoder.encode(np.array(waiting)))
            waiting = []
    if waiting:
        streamed.append(encoder.encode(np.array(waiting)))
    assert streamed == whole


def test_encoder_state_can_be_kept_compared_and_restored(codebook: Codebook, motion: Motion) -> None:
    encoder = MotionEncoder(codebook)
    fresh = encoder.state
    first = list(encoder.encode_clip(motion[:12], 3))
    kept = encoder.state
    assert kept != fresh
    second = list(encoder.encode_clip(motion[12:], 3))
    encoder.state = kept
    assert list(encoder.encode_clip(motion[12:], 3)) == second
    encoder.reset()
    assert encoder.state == fresh
    assert list(encoder.encode_clip(motion[:12], 3)) == first


def test_lost_packet_costs_only_what_refers_to_it(codebook: Codebook, motion: Motion) -> None:
    encoder = MotionEncoder(codebook, reference="acknowledged")
    packets = []
    for number in range(12):
        packets.append(encoder.encode(motion[3 * number : 3 * number + 3]))
        encoder.acknowledge(number // 4 * 4)  # packets 0, 4 and 8
    all_frames = MotionDecoder(codebook)
    expected = [all_frames.decode(packet) for packet in packets]
    decoder = MotionDecoder(codebook)
    for number in (0, 2, 3, 4, 9, 5, 11, 8, 10):  # 1, 6, 7 are lost, some come late
        if packets[number].reference is not None and not decoder.holds(packets[number].reference or 0):
            with pytest.raises(BadPacket, match="not held"):
                decoder.decode(packets[number])
        else:
            np.testing.assert_array_equal(decoder.decode(packets[number]), expected[number])
    assert {packet.reference for packet in packets} == {None, 0, 4, 8}
    assert not decoder.holds(9)  # came before packet 8, which it refers to
    assert decoder.holds(10)


def test_until_the_first_acknowledgement_every_packet_is_key(codebook: Codebook, motion: Motion) -> None:
    encoder = MotionEncoder(codebook, reference="acknowledged")
    assert [encoder.encode(motion[:2]).reference for _ in range(3)] == [None] * 3
    encoder.acknowledge(1)
    assert encoder.encode(motion[:2]).reference == 1
    encoder.acknowledge(0)  # old
    encoder.acknowledge(77)  # never sent
    assert encoder.encode(motion[:2]).reference == 1


def test_reference_too_old_to_be_held_is_not_used(codebook: Codebook, motion: Motion) -> None:
    encoder = MotionEncoder(codebook, reference="acknowledged")
    encoder.encode(motion[:1])
    encoder.acknowledge(0)
    references = [encoder.encode(motion[:1]).reference for _ in range(HISTORY)]
    assert references == [0] * (HISTORY - 1) + [None]


def test_encoder_remembers_a_bounded_number_of_packets(codebook: Codebook, motion: Motion) -> None:
    encoder = MotionEncoder(codebook, reference="acknowledged")
    for _ in range(HISTORY + 9):
        encoder.encode(motion[:1])
    assert [sequence for sequence, _ in encoder.state.held] == list(range(9, HISTORY + 9))
    encoder.acknowledge(HISTORY)  # older ones can no longer be referred to
    assert [sequence for sequence, _ in encoder.state.held] == list(range(HISTORY, HISTORY + 9))


def test_sequence_wraps_without_a_gap(codebook: Codebook, motion: Motion) -> None:
    encoder = MotionEncoder(codebook, reference="acknowledged")
    encoder.state = replace(encoder.state, next_sequence=65534)
    decoder = MotionDecoder(codebook)
    sequences = []
    for number in range(5):
        packet = encoder.encode(motion[number : number + 1])
        decoder.decode(packet)
        encoder.acknowledge(packet.sequence)
        sequences.append((packet.sequence, packet.reference))
    assert sequences == [(65534, None), (65535, 65534), (0, 65535), (1, 0), (2, 1)]


def test_key_interval_counts_frames(codebook: Codebook, motion: Motion) -> None:
    packets = list(MotionEncoder(codebook, key_interval=10).encode_clip(motion, 3))
    keys = [number for number, packet in enumerate(packets) if packet.reference is None]
    assert keys == [0, 4, 8, 12, 16]  # the first packet after 12 frames
    decoder = MotionDecoder(codebook)
    tail = decoded(decoder, packets[8:])
    np.testing.assert_array_equal(tail, decoded(MotionDecoder(codebook), packets)[24:])


def test_level_changes_without_a_key_packet(codebook: Codebook, motion: Motion) -> None:
    encoder, decoder = exact(codebook, 0), MotionDecoder(codebook)
    for number, quality in enumerate([0, 100, 37, 50, 0, 87]):
        encoder.set_quality(quality)
        packet = encoder.encode(motion[4 * number : 4 * number + 4])
        assert (packet.reference is None) == (number == 0)
        error = np.abs(decoder.decode(packet) - motion[4 * number : 4 * number + 4])
        assert (error <= codebook.steps(packet.level) * (0.5 + 1e-3)).all()


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((0, 4)),
        np.zeros((9, 4)),
        np.zeros((1, 5)),
        np.zeros(4),
        np.full((1, 4), np.nan),
        np.full((2, 4), 1e6),
    ],
)
def test_unusable_motion_is_refused_and_changes_nothing(codebook: Codebook, frames: Motion) -> None:
    encoder = MotionEncoder(codebook)
    encoder.encode(np.zeros((1, 4)))
    before = encoder.state
    with pytest.raises(BadInput, match="motion "):
        encoder.encode(frames)
    assert encoder.state == before


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 101},
        {"reference": "newest"},
        {"key_interval": 0},
        {"rd_lambda": -1},
        {"dead_zone": 0.2},
        {"dead_zone": 2},
    ],
)
def test_settings_out_of_range_are_refused(codebook: Codebook, options: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="allowed"):
        MotionEncoder(codebook, **options)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"level": 9}, "level 9"),
        ({"level": -1}, "level -1"),
        ({"frame_count": 0}, "0 frames"),
        ({"frame_count": 9}, "9 frames"),
        ({"sequence": 65536}, "sequence 65536"),
        ({"reference": 5}, "refers 0 packets back"),
        ({"reference": 6}, "refers 65535 packets back"),
        ({"reference": 3}, "not held"),
        ({"payload": bytes(100_000)}, "100000 bytes"),
        ({"payload": b"\xff" * 9}, "outside every symbol"),
        ({"payload": b"\x11" * 200}, "left over|largest is"),
    ],
)
def test_nonsense_is_refused_with_a_reason(codebook: Codebook, change: dict[str, Any], reason: str) -> None:
    packet = CodedMotion(5, None, 4, 1, b"")
    decoder = MotionDecoder(codebook)
    with pytest.raises(BadPacket, match=reason):
        decoder.decode(replace(packet, **change))
    assert not decoder.holds(5)


def test_values_outside_int16_are_refused(codebook: Codebook) -> None:
    encoder, decoder = exact(codebook), MotionDecoder(codebook)
    decoder.decode(encoder.encode(np.array([[8000.0, 0, 0, 0]])))
    step_up = exact(codebook).encode(np.array([[0, 0, 0, 0], [8000.0, 0, 0, 0]]))
    decoder.decode(replace(step_up, sequence=1))
    rise = exact(codebook)
    rise.encode(np.zeros((1, 4)))
    jump = rise.encode(np.array([[8000.0, 0, 0, 0]]))
    assert jump.reference == 0
    with pytest.raises(BadPacket, match="largest is 32767"):
        decoder.decode(jump)  # adds 32000 steps to the 32000 of another packet 0


def test_decoder_remembers_a_bounded_number_of_packets(codebook: Codebook, motion: Motion) -> None:
    encoder, decoder = MotionEncoder(codebook), MotionDecoder(codebook)
    for _ in range(3 * HISTORY):
        decoder.decode(encoder.encode(motion[:1]))
    held = [sequence for sequence in range(3 * HISTORY) if decoder.holds(sequence)]
    assert held == list(range(2 * HISTORY, 3 * HISTORY))
    decoder.reset()
    assert not any(decoder.holds(sequence) for sequence in range(3 * HISTORY))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_motion_round_trips_at_any_split(codebook: Codebook, data: st.DataObject) -> None:
    largest = 2000.0
    value = st.floats(-largest, largest, width=32)
    frames = np.array(data.draw(st.lists(st.tuples(value, value, value, value), min_size=1, max_size=20)), np.float32)
    quality = data.draw(st.integers(0, 100))
    encoder = exact(codebook, quality, reference="acknowledged")
    decoder = MotionDecoder(codebook)
    first = 0
    while first < len(frames):
        count = data.draw(st.integers(1, 8))
        part = frames[first : first + count]
        usable = np.abs(part / codebook.steps(encoder.state.level)) <= 32767
        if not usable.all():
            with pytest.raises(BadInput):
                encoder.encode(part)
        else:
            packet = encoder.encode(part)
            error = np.abs(decoder.decode(packet) - part)
            assert (error <= codebook.steps(packet.level) * 0.51 + 1e-3).all()
            if data.draw(st.booleans()):
                encoder.acknowledge(packet.sequence)
        first += count


@settings(max_examples=300, deadline=None)
@given(
    payload=st.binary(max_size=60),
    level=st.integers(0, 8),
    count=st.integers(1, 8),
    back=st.integers(0, 2),
)
def test_random_payloads_decode_or_are_refused(
    codebook: Codebook, payload: bytes, level: int, count: int, back: int
) -> None:
    decoder = MotionDecoder(codebook)
    decoder.decode(MotionEncoder(codebook).encode(np.zeros((1, 4))))
    packet = CodedMotion(back or 1, 0 if back else None, level, count, payload)
    try:
        frames = decoder.decode(packet)
    except BadPacket:
        assert not decoder.holds(packet.sequence)
        return
    assert frames.shape == (count, 4)
    assert np.isfinite(frames).all()
