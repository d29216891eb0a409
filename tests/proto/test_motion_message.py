"""A message is a motion packet, byte for byte, and what of the layer travels behind it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilocall.proto.control import LayerReport
from kilocall.proto.errors import BadPacket
from kilocall.proto.layer_frame import MAX_FRAGMENT_BYTES, LayerFragment, LayerFrame, TimedLayerFrame, fragment_bytes
from kilocall.proto.motion_message import MAX_LAYERED_BYTES, MotionMessage
from kilocall.proto.motion_packet import MotionPacket
from kilocall.runtime.aiortc_fixes.sctp import USER_DATA_BYTES

VECTORS = Path(__file__).parents[1] / "vectors"
PACKET = MotionPacket(
    sequence=513,
    time_ms=40_000,
    spacing_us=33_300,
    frame_count=3,
    reference=511,
    level=4,
    payload=bytes.fromhex("80503f8ad72c6c0102030405ff"),
)
FRAME = LayerFrame(number=17, time_ms=40_000, key=False, data=bytes.fromhex("320831c0401a9b7e5d02"))
(FRAGMENT,) = FRAME.fragments(1000)
MESSAGE = MotionMessage(PACKET, (FRAGMENT,))

packets = st.builds(
    lambda payload, sequence: replace(PACKET, sequence=sequence, reference=None, payload=payload),
    sequence=st.integers(0, 65535),
    # Every form of an extension value's header that a packet may have.
    payload=st.sampled_from([0, 1, 5, 9, 13, 248, 249, 600]).map(bytes),
)
fragments = st.builds(
    LayerFragment,
    number=st.integers(0, 255),
    time_ms=st.integers(0, 65535),
    key=st.booleans(),
    index=st.integers(0, 6),
    last=st.booleans(),
    data=st.binary(min_size=1, max_size=10) | st.binary(min_size=125, max_size=130),
)
messages = st.builds(MotionMessage, packets, st.lists(fragments, max_size=3).map(tuple))


def golden() -> list[MotionMessage]:
    """As their fields say it."""
    return [
        MotionMessage(
            MotionPacket(**{**entry["packet"], "payload": bytes.fromhex(entry["packet"]["payload"])}),
            tuple(LayerFragment(**{**one, "data": bytes.fromhex(one["data"])}) for one in entry["fragments"]),
        )
        for entry in json.loads((VECTORS / "motion_messages.json").read_text())
    ]


def golden_bytes() -> list[bytes]:
    return [bytes.fromhex(entry["bytes"]) for entry in json.loads((VECTORS / "motion_messages.json").read_text())]


def test_messages_have_their_frozen_bytes() -> None:
    """Frozen bytes: a change here is a new protocol version."""
    assert len(golden()) == 5
    for message, data in zip(golden(), golden_bytes(), strict=True):
        assert bytes(message) == data
        assert MotionMessage.parse(data) == message
    assert golden()[0] == MESSAGE


def test_a_message_without_fragments_is_the_motion_packet() -> None:
    for entry in json.loads((VECTORS / "motion_packets.json").read_text()):
        data = bytes.fromhex(entry["bytes"])
        assert bytes(MotionMessage(MotionPacket.parse(data))) == data
        assert MotionMessage.parse(data) == MotionMessage(MotionPacket.parse(data))


def test_a_motion_packet_still_ends_where_its_bytes_end() -> None:
    with pytest.raises(BadPacket, match="not one msgpack value"):
        MotionPacket.parse(bytes(MESSAGE))


@given(messages)
def test_messages_come_back(message: MotionMessage) -> None:
    assert MotionMessage.parse(bytes(message)) == message


@pytest.mark.parametrize("number", range(5))
def test_every_prefix_is_refused_or_a_message_with_fewer_fragments(number: int) -> None:
    message, data = golden()[number], golden_bytes()[number]
    ends = [len(bytes(replace(message, fragments=message.fragments[:n]))) for n in range(len(message.fragments) + 1)]
    for length in range(len(data)):
        if length in ends:
            assert MotionMessage.parse(data[:length]).fragments == message.fragments[: ends.index(length)]
            continue
        with pytest.raises(BadPacket, match=r"motion packet|layer fragment"):
            MotionMessage.parse(data[:length])


@pytest.mark.parametrize("number", range(5))
def test_every_changed_byte_is_refused_or_comes_back(number: int) -> None:
    data = golden_bytes()[number]
    for at in range(len(data)):
        for change in (0x55, 1):
            changed = data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]
            try:
                message = MotionMessage.parse(changed)
            except BadPacket:
                continue
            assert bytes(message) == changed


@given(st.binary(max_size=60), st.binary(max_size=40))
def test_random_bytes_are_refused_or_come_back(body: bytes, rest: bytes) -> None:
    for data in (body, msgpack.packb(msgpack.ExtType(1, body)) + rest, bytes(PACKET) + rest):
        try:
            message = MotionMessage.parse(data)
        except BadPacket:
            continue
        assert bytes(message) == data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "motion packet of 0 bytes is not one msgpack value"),
        (bytes(8205), "motion message is 8205 bytes, most is 8204"),
        (bytes(PACKET) + b"\0", "layer fragment is cut after 1 bytes"),
        (bytes(PACKET) + bytes(PACKET), "layer fragment"),
        (bytes(FRAGMENT), "motion packet"),
        (b"\xc7", "not one msgpack value"),
        (b"\xc8\x00", "not one msgpack value"),
        (b"\xc9\x00\x00\x00\x14\x01" + bytes(20) + bytes(FRAGMENT), "more bytes than it needs"),
        (b"\xc9\x7f\xff\xff\xff\x01" + bytes(30), "not one msgpack value"),
        (b"\xc8\x00\x14\x01" + bytes(20) + bytes(FRAGMENT), "more bytes than it needs"),
        (b"\xd4\x01" + bytes(1) + bytes(FRAGMENT), "body is 1 bytes, its header needs 7"),
        (b"\xd5\x01" + bytes(2) + bytes(FRAGMENT), "body is 2 bytes"),
        (b"\xd6\x01" + bytes(4) + bytes(FRAGMENT), "body is 4 bytes"),
        (b"\xd7\x02" + bytes(8) + bytes(FRAGMENT), "protocol version 2"),
        (bytes(PACKET) + 9 * bytes(FRAGMENT), "more than 8 layer fragments"),
        (bytes(replace(PACKET, payload=bytes(1080))) + bytes(FRAGMENT), "fragments is 1106 bytes, most is 1100"),
        (bytes(PACKET) + bytes(4000), "fragments is 4023 bytes, most is 1100"),
    ],
)
def test_malformed_messages_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadPacket, match=reason):
        MotionMessage.parse(data)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fragments": (FRAGMENT,) * 9}, "has 9 layer fragments, most is 8"),
        ({"fragments": (replace(FRAGMENT, data=bytes(1000)), replace(FRAGMENT, data=bytes(67)))}, "1101 bytes"),
        ({"packet": replace(PACKET, payload=bytes(1080))}, "is 1106 bytes, most is 1100"),
    ],
)
def test_too_much_for_one_message_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadPacket, match=reason):
        replace(MESSAGE, **change)


def test_the_longest_message_with_fragments_is_one_sctp_chunk() -> None:
    assert MAX_LAYERED_BYTES <= USER_DATA_BYTES
    room = MAX_LAYERED_BYTES - len(bytes(PACKET))
    message = MotionMessage(replace(PACKET, payload=bytes(87)), (replace(FRAGMENT, data=bytes(997)),))
    assert len(bytes(message)) == MAX_LAYERED_BYTES
    assert MotionMessage.parse(bytes(message)) == message
    assert room > fragment_bytes(MAX_FRAGMENT_BYTES)


def test_a_packet_alone_may_be_longer_than_one_with_fragments() -> None:
    message = MotionMessage(replace(PACKET, payload=bytes(8192)))
    assert MotionMessage.parse(bytes(message)) == message


def test_documented_examples_are_golden() -> None:
    text = "".join((Path(__file__).parents[2] / "proto/kilocall/proto/wire.md").read_text().lower().split())
    for example in (bytes(MESSAGE), bytes(LayerReport(6_000, 17, False))):
        assert example.hex() in text
    assert "0810" + bytes(TimedLayerFrame(480_000, False, FRAME.data)).hex() in text
    assert "0906" + bytes(TimedLayerFrame(640_000, False, b"", whole=True)).hex() in text
