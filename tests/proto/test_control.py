from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilocall.proto.control import (
    CONTROL_TYPES,
    MAX_PICTURE_BYTES,
    Acknowledge,
    Bye,
    CameraState,
    Compared,
    ControlMessage,
    CropPlace,
    FaceState,
    HavePicture,
    Hello,
    LayerReport,
    MediaState,
    Part,
    PersonalPiece,
    PictureRate,
    ReceiverReport,
    Recognise,
    ReferenceOffer,
    ReferencePiece,
    Reveal,
    SourcePicture,
    WantPersonal,
    WantPicture,
    parse_control,
)
from kilocall.proto.errors import BadPacket

VECTORS = Path(__file__).parents[1] / "vectors"
A, B = "0f" * 32, "a5" * 32
EXAMPLES: dict[str, ControlMessage] = {
    "hello": Hello("compact-256", A, B, 30_000, 1001, 256),
    "picture": SourcePicture("webp", b"RIFF....WEBP", keypoints=(0.5, -0.25)),
    "picture without keypoints": SourcePicture("avif", b"avif"),
    "offer": SourcePicture("avif", b"", B),
    "place": CropPlace(1_234_567, -12.5, 40.25, 512, 1280, 720),
    "acknowledge": Acknowledge(40_000),
    "bye": Bye("weights differ"),
    "want": WantPicture(A),
    "report": ReceiverReport(40_000, 35, 2_000, 17, 2, 1, 40, 3_000),
    "face": FaceState(False, 1_234_567),
    "part": Part(1500, b"RIFF"),
    "have": HavePicture(A),
    "media": MediaState(True, False),
    "personal": PersonalPiece(B, 40_000, 16_000, b"piece"),
    "want personal": WantPersonal(B, 16_005),
    "reference": ReferenceOffer(A, B, "avif", 4_973),
    "reference piece": ReferencePiece(B, 800, b"piece"),
    "rate": PictureRate(12_500),
    "reveal": Reveal(bytes(range(32))),
    "recognise": Recognise(bytes(range(32, 64))),
    "compared": Compared(),
    "layer": LayerReport(6_000, 17, False),
    "layer wanted first": LayerReport(24_000, None, True),
    "camera": CameraState(True, 1_234_567),
}
HELLO, PICTURE, PLACE = EXAMPLES["hello"], EXAMPLES["picture"], EXAMPLES["place"]

hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
sides = st.floats(1, 30_000, width=32)
messages = st.one_of(
    st.builds(
        Hello,
        family=st.text(max_size=16),
        weights_hash=hashes,
        codebook_hash=hashes,
        fps_numerator=st.integers(30, 240),
        fps_denominator=st.integers(1, 30),
        picture_size=st.integers(16, 4096),
    ),
    st.builds(
        SourcePicture,
        format=st.sampled_from(["webp", "avif"]),
        data=st.binary(min_size=1, max_size=200),
        keypoints=st.none() | st.lists(st.floats(-1e6, 1e6, width=32), max_size=20).map(tuple),
    ),
    st.builds(
        CropPlace,
        time_us=st.integers(0, 1 << 50),
        x0=sides,
        y0=sides,
        side=sides,
        frame_width=st.integers(1, 8000),
        frame_height=st.integers(1, 8000),
    ),
    st.builds(Acknowledge, st.integers(0, 65535)),
    st.builds(Bye, st.text(max_size=50)),
    st.builds(WantPicture, hashes),
    st.builds(HavePicture, hashes),
    st.builds(MediaState, st.booleans(), st.booleans()),
    st.builds(
        ReceiverReport,
        highest=st.integers(0, 65535),
        held_ms=st.integers(0, 60_000),
        interval_ms=st.integers(0, 60_000),
        expected=st.integers(100, 65535),
        lost=st.integers(0, 100),
        late=st.integers(0, 65535),
        delay_ms=st.integers(0, 60_000),
        received_bytes=st.integers(0, (1 << 32) - 1),
    ),
    st.builds(FaceState, st.booleans(), st.integers(0, 1 << 50)),
    st.builds(
        PersonalPiece,
        file_hash=hashes,
        size=st.integers(1000, 2_000_000),
        offset=st.integers(0, 800),
        data=st.binary(max_size=200),
    ),
    st.builds(WantPersonal, hashes, st.integers(0, 2_000_000)),
    st.builds(ReferenceOffer, hashes, hashes, st.sampled_from(("webp", "avif")), st.integers(1, 16 << 10)),
    st.builds(PictureRate, st.integers(1000, 240_000)),
    st.builds(LayerReport, st.integers(0, 64_000), st.none() | st.integers(0, 255), st.booleans()),
    st.builds(CameraState, st.booleans(), st.integers(0, 1 << 50)),
    st.builds(ReferencePiece, hashes, st.integers(0, 15_000), st.binary(min_size=1, max_size=1000)),
    st.builds(Reveal, st.binary(min_size=32, max_size=32)),
    st.builds(Recognise, st.binary(min_size=32, max_size=32)),
    st.just(Compared()),
    st.builds(Part, st.integers(0, 250_000), st.binary(min_size=1, max_size=1000)),
)


def test_messages_have_their_frozen_bytes() -> None:
    """Frozen bytes: a change here is a new protocol version."""
    golden = json.loads((VECTORS / "control_messages.json").read_text())
    assert set(golden) == set(EXAMPLES)
    for name, data in golden.items():
        assert bytes(EXAMPLES[name]).hex() == data, name
        assert parse_control(bytes.fromhex(data)) == EXAMPLES[name]


def test_every_type_has_its_own_number_and_an_example() -> None:
    assert {type(message) for message in EXAMPLES.values()} == set(CONTROL_TYPES.values())
    assert sorted(CONTROL_TYPES) == list(range(1, 22))


@given(messages)
def test_messages_come_back(message: ControlMessage) -> None:
    assert parse_control(bytes(message)) == message


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_prefix_is_refused(name: str) -> None:
    data = bytes(EXAMPLES[name])
    for length in range(len(data)):
        with pytest.raises(BadPacket, match="control message"):
            parse_control(data[:length])


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_field_of_a_wrong_type_is_refused(name: str) -> None:
    values = msgpack.unpackb(bytes(EXAMPLES[name]))
    for number in range(len(values)):
        for wrong in (True, [1], -1, "x" * 300, b"y" * 31, 1.5e300):
            if type(wrong) is not type(values[number]) or wrong == -1 or isinstance(wrong, str):
                with pytest.raises(BadPacket):
                    parse_control(msgpack.packb([*values[:number], wrong, *values[number + 1 :]]))


@pytest.mark.parametrize("name", EXAMPLES)
def test_wrong_number_of_fields_is_refused(name: str) -> None:
    values = msgpack.unpackb(bytes(EXAMPLES[name]))
    for changed in ([*values, 0], *([values[:-1]] if len(values) > 1 else [])):
        with pytest.raises(BadPacket, match="fields, needs"):
            parse_control(msgpack.packb(changed))


@given(st.binary(max_size=80))
def test_random_bytes_are_refused(data: bytes) -> None:
    try:
        message = parse_control(data)
    except BadPacket:
        return
    assert isinstance(message, ControlMessage)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)


@given(st.integers(0, 20), st.lists(json_like, max_size=8))
def test_random_fields_are_refused_or_come_back(number: int, fields: list[Any]) -> None:
    try:
        message = parse_control(msgpack.packb([number, *fields]))
    except BadPacket:
        return
    assert parse_control(bytes(message)) == message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (msgpack.packb([99, 1]), "type 99, known are 1 Hello"),
        (msgpack.packb([]), "begins with a type number"),
        (msgpack.packb([True, 1]), "begins with a type number"),
        (msgpack.packb(5), "not a msgpack array"),
        (msgpack.packb({1: 2}), "not one msgpack value"),
        (b"\xdd\x7f\xff\xff\xff", "not one msgpack value"),
        (b"\xc6\x7f\xff\xff\xff", "not one msgpack value"),
        (b"\x91" * 3000, "not one msgpack value"),
        (bytes(400_000), "400000 bytes, most is"),
        (msgpack.packb([1, 2, "a later version", 3]), "peer speaks protocol version 2, this side speaks 1"),
        (msgpack.packb([2, bytes(32), 4, b"", None]), "format is number 4"),
        (msgpack.packb([2, bytes(32), 0, b"data", None]), "not have the stated hash"),
        (msgpack.packb([2, bytes(31), 0, b"", None]), "not 64 hexadecimal digits"),
        (msgpack.packb([2, bytes(32), 0, b"", b"123"]), "multiples of 4"),
        (msgpack.packb([2, bytes(32), 0, b"", b"\x7f\x80\0\0"]), "not a finite"),
    ],
)
def test_malformed_messages_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadPacket, match=reason):
        parse_control(data)


@pytest.mark.parametrize(
    ("message", "change", "reason"),
    [
        (HELLO, {"version": 2}, "version 2"),
        (HELLO, {"family": "f" * 65}, "family is 65 bytes"),
        (HELLO, {"family": "\ud800"}, "surrogate"),
        (HELLO, {"weights_hash": "0F" * 32}, "weights_hash"),
        (HELLO, {"fps_numerator": 1}, "fps is 1/1001"),
        (HELLO, {"fps_denominator": 0}, "fps_denominator is 0"),
        (HELLO, {"picture_size": 8}, "picture_size is 8"),
        (PICTURE, {"format": "gif"}, "format is 'gif', allowed are webp"),
        (PICTURE, {"data": bytes(MAX_PICTURE_BYTES + 1)}, "data is 262145 bytes"),
        (PICTURE, {"picture_hash": A}, "stated hash"),
        (PICTURE, {"keypoints": (float("nan"),)}, "not a finite"),
        (PICTURE, {"keypoints": (0.0,) * 5000}, "5000 numbers"),
        (PLACE, {"time_us": -1}, "time_us is -1"),
        (PLACE, {"side": 0}, "side is 0"),
        (PLACE, {"x0": float("inf")}, "x0 is inf"),
        (PLACE, {"y0": 1e39}, "not a finite"),
        (PLACE, {"frame_width": 0}, "frame_width is 0"),
        (EXAMPLES["acknowledge"], {"sequence": 65536}, "sequence is 65536"),
        (EXAMPLES["bye"], {"reason": "é" * 101}, "reason is 202 bytes"),
        (EXAMPLES["want"], {"picture_hash": ""}, "picture_hash is ''"),
        (EXAMPLES["report"], {"highest": 65536}, "highest is 65536"),
        (EXAMPLES["report"], {"lost": 18}, "lost is 18, allowed is 0 to 17"),
        (EXAMPLES["report"], {"held_ms": 60_001}, "held_ms is 60001"),
        (EXAMPLES["face"], {"time_us": -1}, "time_us is -1"),
        (EXAMPLES["rate"], {"millihertz": 999}, "millihertz is 999, allowed is 1000 to 240000"),
        (EXAMPLES["layer"], {"wanted_bps": 64_001}, "wanted_bps is 64001, allowed is 0 to 64000"),
        (EXAMPLES["layer"], {"wanted_bps": -1}, "wanted_bps is -1"),
        (EXAMPLES["layer"], {"newest": 256}, "newest is 256, allowed is 0 to 255"),
        (EXAMPLES["part"], {"data": b""}, "data is 0 bytes"),
        (EXAMPLES["part"], {"data": bytes(1001)}, "data is 1001 bytes"),
        (EXAMPLES["part"], {"left": 1 << 20}, "left is 1048576"),
    ],
)
def test_fields_out_of_range_are_refused_with_a_reason(message: Any, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadPacket, match=reason):
        replace(message, **change)


def test_picture_of_the_largest_size_comes_back() -> None:
    picture = SourcePicture("webp", bytes(MAX_PICTURE_BYTES), keypoints=(1.0,) * 4096)
    assert parse_control(bytes(picture)) == picture


def test_offer_names_the_same_picture_without_its_data() -> None:
    picture = SourcePicture("webp", b"data", keypoints=(1.0,))
    offer = picture.offer()
    assert (offer.picture_hash, offer.data, offer.keypoints) == (picture.picture_hash, b"", None)
    assert len(bytes(offer)) < 45


def test_same_place_ignores_the_time_only() -> None:
    place = CropPlace(5, 1.1, 2, 300, 640, 480)
    assert replace(place, time_us=9).same_place(place)
    assert not replace(place, side=301).same_place(place)
    assert not place.same_place(None)


@pytest.mark.parametrize("size", [1, 1000, 1001, 2000, 4321])
def test_parts_together_are_the_message_and_count_down(size: int) -> None:
    message = bytes(number % 251 for number in range(size))
    parts = Part.split(message)
    assert b"".join(part.data for part in parts) == message
    assert [part.left for part in parts] == [
        size - sum(len(part.data) for part in parts[: index + 1]) for index in range(len(parts))
    ]
