from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilocall.proto.errors import BadPacket
from kilocall.proto.limits import MAX_PAYLOAD_BYTES
from kilocall.proto.motion_packet import HEADER_BYTES, MotionPacket

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

packets = st.builds(
    lambda back, count, spacing, **fields: MotionPacket(
        reference=(fields["sequence"] - back) % 65536 if back else None,
        frame_count=count,
        spacing_us=100 * (spacing if count > 1 else 0),
        **fields,
    ),
    back=st.integers(0, 63),
    count=st.integers(1, 8),
    spacing=st.integers(1, 2047),
    sequence=st.integers(0, 65535),
    time_ms=st.integers(0, 65535),
    level=st.integers(0, 8),
    payload=st.one_of(st.binary(max_size=40), st.binary(min_size=240, max_size=260)),
)


def test_packets_have_their_frozen_bytes() -> None:
    """Frozen bytes: a change here is a new protocol version."""
    golden = json.loads((VECTORS / "motion_packets.json").read_text())
    assert len(golden) == 4
    for entry in golden:
        data = bytes.fromhex(entry["bytes"])
        packet = MotionPacket(**{**entry["fields"], "payload": bytes.fromhex(entry["fields"]["payload"])})
        assert MotionPacket.parse(data) == packet
        assert bytes(packet) == data
    assert bytes.fromhex(golden[0]["bytes"]) == bytes(PACKET)


def test_header_is_10_bytes() -> None:
    assert HEADER_BYTES == 10
    for size in (10, 13, 40, 248):
        assert len(bytes(replace(PACKET, payload=bytes(size)))) == size + 10


def test_packet_is_one_msgpack_value() -> None:
    value = msgpack.unpackb(bytes(PACKET))
    assert isinstance(value, msgpack.ExtType)
    assert value.code == 1
    assert value.data.endswith(PACKET.payload)


@given(packets)
def test_packets_come_back(packet: MotionPacket) -> None:
    assert MotionPacket.parse(bytes(packet)) == packet


@given(packets)
def test_every_prefix_is_refused(packet: MotionPacket) -> None:
    data = bytes(packet)
    for length in range(len(data)):
        with pytest.raises(BadPacket, match="motion packet"):
            MotionPacket.parse(data[:length])


@given(st.binary(max_size=60))
def test_random_bytes_are_refused_or_come_back(data: bytes) -> None:
    try:
        packet = MotionPacket.parse(data)
    except BadPacket:
        return
    assert bytes(packet) == data


@given(st.binary(min_size=7, max_size=30))
def test_random_bodies_are_refused_or_come_back(body: bytes) -> None:
    data = msgpack.packb(msgpack.ExtType(1, body))
    try:
        packet = MotionPacket.parse(data)
    except BadPacket:
        return
    assert bytes(packet) == data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes is not one msgpack value"),
        (bytes(PACKET) + b"\0", "not one msgpack value"),
        (b"\x93\x01\x02\x03", "not one msgpack value"),
        (b"\x05", "msgpack int, not an extension"),
        (msgpack.packb(msgpack.ExtType(2, bytes(20))), "protocol version 2, this side reads 1"),
        (msgpack.packb(msgpack.ExtType(1, bytes(6))), "body is 6 bytes, its header needs 7"),
        (b"\xc8\x00\x14\x01" + bytes(20), "more bytes than it needs"),
        (msgpack.packb(msgpack.ExtType(1, bytes(4) + b"\x90\x00\x00" + bytes(9))), "level is 9"),
        (msgpack.packb(msgpack.ExtType(1, bytes(4) + b"\x42\x00\x00" + bytes(9))), "spacing_us is 0"),
        (b"\xc9\x7f\xff\xff\xff\x01" + bytes(30), "not one msgpack value"),
        (bytes(MAX_PAYLOAD_BYTES + 20), "most is"),
        (b"\x91" * 5000, "not one msgpack value"),
        (b"\xd6\xff\xff\xff\xff\xff", "msgpack Timestamp"),
    ],
)
def test_malformed_packets_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadPacket, match=reason):
        MotionPacket.parse(data)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sequence": -1}, "sequence is -1, allowed is 0 to 65535"),
        ({"sequence": 65536}, "sequence is 65536"),
        ({"time_ms": 65536}, "time_ms is 65536"),
        ({"frame_count": 0}, "frame_count is 0"),
        ({"frame_count": 9}, "frame_count is 9"),
        ({"level": 9}, "level is 9"),
        ({"spacing_us": 0}, "spacing_us is 0"),
        ({"spacing_us": 33_333}, "not a multiple of 100"),
        ({"spacing_us": 204_800}, "spacing_us is 204800"),
        ({"reference": 513}, "distance is 0"),
        ({"reference": 449}, "distance is 64"),
        ({"reference": 70_000}, "reference is 70000"),
        ({"payload": bytes(MAX_PAYLOAD_BYTES + 1)}, "payload is 8193 bytes"),
    ],
)
def test_fields_out_of_range_are_refused_with_a_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadPacket, match=reason):
        replace(PACKET, **change)


def test_reference_reaches_back_across_the_wrap() -> None:
    packet = replace(PACKET, sequence=2, reference=65_535)
    assert packet.back == 3
    assert MotionPacket.parse(bytes(packet)).reference == 65_535


def test_carry_rounds_times_to_what_a_packet_holds() -> None:
    packet = MotionPacket.carry(PACKET, time_us=70_000_600, spacing_us=33_333)
    assert (packet.time_ms, packet.spacing_us) == (70_001 - 65_536, 33_300)
    assert replace(packet, time_ms=PACKET.time_ms) == PACKET
    single = replace(PACKET, frame_count=1, spacing_us=0)
    assert MotionPacket.carry(single, time_us=0, spacing_us=33_333).spacing_us == 0


@given(st.integers(0, 1 << 45), st.integers(-32_000_000, 32_000_000))
def test_time_in_full_is_found_from_any_moment_within_32_seconds(time_us: int, offset_us: int) -> None:
    packet = MotionPacket.carry(PACKET, time_us=time_us, spacing_us=40_000)
    found = packet.frame_times_us(near_us=time_us + offset_us)
    assert abs(found[0] - time_us) <= 500
    assert found == [found[0], found[0] + 40_000, found[0] + 80_000]


def test_documented_example_is_the_first_golden_packet() -> None:
    golden = json.loads((VECTORS / "motion_packets.json").read_text())[0]["bytes"]
    text = (Path(__file__).parents[2] / "proto/kilocall/proto/wire.md").read_text()
    assert golden in "".join(text.lower().split())
