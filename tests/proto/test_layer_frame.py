"""Layer frames come whole out of fragments in any order, with gaps and repeats, and nothing else is taken for one."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilocall.proto.errors import BadInput, BadPacket
from kilocall.proto.layer_frame import (
    MAX_FRAGMENT_BYTES,
    MAX_LAYER_BYTES,
    MAX_UNFINISHED,
    LayerAssembly,
    LayerFragment,
    LayerFrame,
    TimedLayerFrame,
    fragment_bytes,
)
from kilocall.proto.motion_packet import wire_time_ms

VECTORS = Path(__file__).parents[1] / "vectors"
FRAME = LayerFrame(number=17, time_ms=40_000, key=False, data=bytes.fromhex("320831c0401a9b7e5d02"))
FRAGMENT = FRAME.fragments(MAX_FRAGMENT_BYTES)[0]
TIMED = TimedLayerFrame(480_000, False, FRAME.data)

sizes = st.integers(1, 300) | st.integers(900, MAX_LAYER_BYTES)
frames = st.builds(
    lambda size, **fields: LayerFrame(data=random.Random(size).randbytes(size), **fields),
    number=st.integers(0, 255),
    time_ms=st.integers(0, 65535),
    key=st.booleans(),
    size=sizes,
)
fragments = st.builds(
    lambda index, last, **fields: LayerFragment(index=index, last=last or index == 7, **fields),
    number=st.integers(0, 255),
    time_ms=st.integers(0, 65535),
    key=st.booleans(),
    index=st.integers(0, 7),
    last=st.booleans(),
    data=st.binary(min_size=1, max_size=40) | st.binary(min_size=120, max_size=140),
)


def frame(number: int, size: int = 30, *, key: bool = False) -> LayerFrame:
    """Number `number` of a stream of 12.5 frames a second, whose content says which it is."""
    return LayerFrame(number % 256, 80 * number % 65536, key, random.Random(number).randbytes(size))


def joined(pieces: Iterable[LayerFragment]) -> bytes:
    return b"".join(bytes(piece) for piece in pieces)


def given_of(assembly: LayerAssembly, pieces: Iterable[LayerFragment]) -> list[LayerFrame]:
    return [whole for piece in pieces if (whole := assembly.add(piece)) is not None]


def test_fragments_have_their_frozen_bytes() -> None:
    """Frozen bytes: a change here is a new protocol version."""
    golden = json.loads((VECTORS / "layer_frames.json").read_text())
    assert len(golden) == 4
    for entry in golden:
        whole = LayerFrame(**{**entry["fields"], "data": bytes.fromhex(entry["fields"]["data"])})
        pieces = whole.fragments(entry["most"])
        assert [bytes(piece).hex() for piece in pieces] == entry["fragments"]
        assert list(LayerFragment.parse_run(bytes.fromhex("".join(entry["fragments"])))) == pieces
        assert given_of(LayerAssembly(), pieces) == [whole]


@given(frames, st.integers(1, MAX_FRAGMENT_BYTES))
def test_a_frame_is_its_fragments_in_order(whole: LayerFrame, most: int) -> None:
    if len(whole.data) > 8 * most:
        with pytest.raises(BadPacket, match="most is 8"):
            whole.fragments(most)
        return
    pieces = whole.fragments(most)
    assert b"".join(piece.data for piece in pieces) == whole.data
    assert [piece.index for piece in pieces] == list(range(len(pieces)))
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(len(piece.data) == most for piece in pieces[:-1])
    assert given_of(LayerAssembly(), pieces) == [whole]


def test_header_of_a_fragment_is_5_or_6_bytes() -> None:
    for size, header in ((1, 5), (127, 5), (128, 6), (1000, 6)):
        assert len(bytes(replace(FRAGMENT, data=bytes(size)))) == fragment_bytes(size) == size + header


@given(st.lists(fragments, max_size=8))
def test_fragments_come_back(pieces: list[LayerFragment]) -> None:
    assert list(LayerFragment.parse_run(joined(pieces))) == pieces


@given(fragments)
def test_every_prefix_of_a_fragment_is_refused(piece: LayerFragment) -> None:
    data = bytes(piece)
    assert LayerFragment.parse_run(data[:0]) == ()
    for length in range(1, len(data)):
        with pytest.raises(BadPacket, match="layer fragment"):
            LayerFragment.parse_run(data[:length])


def test_every_changed_byte_is_refused_or_comes_back() -> None:
    golden = json.loads((VECTORS / "layer_frames.json").read_text())
    refused = 0
    for entry in golden:
        data = bytes.fromhex("".join(entry["fragments"]))
        for at in range(min(len(data), 400)):
            for change in (0x55, 0x80, 1):
                changed = data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]
                try:
                    found = LayerFragment.parse_run(changed)
                except BadPacket:
                    refused += 1
                    continue
                assert joined(found) == changed
    assert refused > 20


@given(st.binary(max_size=60))
def test_random_bytes_are_refused_or_come_back(data: bytes) -> None:
    try:
        found = LayerFragment.parse_run(data)
    except BadPacket:
        return
    assert joined(found) == data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bytes(FRAGMENT)[:4], "cut after 4 bytes, inside its header"),
        (bytes(FRAGMENT)[:-1], "of 10 bytes is cut after 9"),
        (bytes(FRAGMENT) + b"\0", "cut after 1 bytes, inside its header"),
        (b"\x11\x41" + bytes(FRAGMENT)[2:], "flags 01000001, the last two bits must be zero"),
        (b"\x11\x42" + bytes(FRAGMENT)[2:], "flags 01000010"),
        (b"\x11\x38" + bytes(FRAGMENT)[2:], "layer fragment 7 is not the last"),
        (b"\x11\x40\x9c\x40\x00", "0 bytes of data, allowed are 1 to 1000"),
        (b"\x11\x40\x9c\x40\x8a", "cut inside its length"),
        (b"\x11\x40\x9c\x40\x8a\x00" + bytes(10), "more digits than it needs"),
        (b"\x11\x40\x9c\x40\x8a\x80" + bytes(10), "more digits than it needs"),
        (b"\x11\x40\x9c\x40\xe9\x07" + bytes(1001), "1001 bytes of data"),
        (b"\x11\x40\x9c\x40\xff\x7f" + bytes(20), "of 16383 bytes is cut after 20"),
        (bytes(FRAGMENT) * 9, "more than 8 layer fragments"),
    ],
)
def test_malformed_fragments_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadPacket, match=reason):
        LayerFragment.parse_run(data)


@pytest.mark.parametrize(
    ("one", "change", "reason"),
    [
        (FRAME, {"number": 256}, "frame number is 256, allowed is 0 to 255"),
        (FRAME, {"number": -1}, "frame number is -1"),
        (FRAME, {"time_ms": 65536}, "frame time_ms is 65536"),
        (FRAME, {"data": b""}, "frame is 0 bytes, allowed are 1 to 8000"),
        (FRAME, {"data": bytes(8001)}, "frame is 8001 bytes"),
        (FRAGMENT, {"number": 256}, "fragment number is 256"),
        (FRAGMENT, {"time_ms": -1}, "fragment time_ms is -1"),
        (FRAGMENT, {"index": 8}, "fragment index is 8, allowed is 0 to 7"),
        (FRAGMENT, {"index": 7, "last": False}, "7 is not the last"),
        (FRAGMENT, {"data": b""}, "0 bytes of data"),
        (FRAGMENT, {"data": bytes(1001)}, "1001 bytes of data"),
    ],
)
def test_fields_out_of_range_are_refused_with_a_reason(one: Any, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadPacket, match=reason):
        replace(one, **change)


@pytest.mark.parametrize("most", [0, 1001])
def test_fragments_of_a_size_that_none_may_have_are_refused(most: int) -> None:
    with pytest.raises(BadPacket, match=f"limit is {most}, allowed is 1 to 1000"):
        FRAME.fragments(most)


@given(st.integers(0, 1 << 45), st.integers(-32_000_000, 32_000_000))
def test_time_in_full_is_found_from_any_moment_within_32_seconds(time_us: int, offset_us: int) -> None:
    found = replace(FRAME, time_ms=wire_time_ms(time_us)).time_us(near_us=time_us + offset_us)
    assert abs(found - time_us) <= 500


@st.composite
def ways(draw: st.DrawFn) -> tuple[list[LayerFrame], list[LayerFragment]]:
    """Some frames in a row, and what of their fragments arrives: in any order, some repeatedly, some never."""
    first, most = draw(st.integers(0, 1000)), draw(st.integers(5, 40))
    sent = [
        frame(first + n, draw(st.integers(1, 8 * most)), key=draw(st.booleans()))
        for n in range(draw(st.integers(1, 12)))
    ]
    pieces = [piece for one in sent for piece in one.fragments(most)]
    return sent, draw(st.lists(st.sampled_from(pieces), max_size=3 * len(pieces)))


@given(ways())
def test_only_frames_that_were_sent_are_given_and_each_once(way: tuple[list[LayerFrame], list[LayerFragment]]) -> None:
    sent, arrived = way
    assembly = LayerAssembly()
    found = given_of(assembly, arrived)
    assert all(one in sent for one in found)
    assert len({one.number for one in found}) == len(found)
    assert assembly.refused == 0
    assert assembly.given_up + len(found) <= len(sent)


@given(st.integers(0, 1000), st.lists(st.integers(1, 320), min_size=1, max_size=MAX_UNFINISHED), st.data())
def test_frames_that_fit_are_all_given_whatever_the_order(first: int, sizes: list[int], data: st.DataObject) -> None:
    sent = [frame(first + n, size) for n, size in enumerate(sizes)]
    pieces = [piece for one in sent for piece in one.fragments(40)]
    repeated = data.draw(st.lists(st.sampled_from(pieces), max_size=10))
    assembly = LayerAssembly()
    found = given_of(assembly, data.draw(st.permutations([*pieces, *repeated])))
    assert sorted(found, key=sent.index) == sent
    assert (assembly.given_up, assembly.unused, assembly.refused) == (0, len(repeated), 0)


def test_a_gap_keeps_back_nothing_but_its_frame() -> None:
    assembly = LayerAssembly()
    pieces = [frame(number, 90).fragments(40) for number in range(250, 262)]  # across the wrap
    del pieces[3][1]
    found = given_of(assembly, (piece for one in pieces for piece in one))
    assert [one.number for one in found] == [250, 251, 252, 254, 255, 0, 1, 2, 3, 4, 5]


def test_no_more_than_four_frames_are_waited_for() -> None:
    assembly = LayerAssembly()
    pieces = [frame(number, 60).fragments(40) for number in range(254, 260)]
    assert given_of(assembly, (first for first, _ in pieces)) == []
    assert assembly.given_up == 2
    assert [one.number for one in given_of(assembly, (rest for _, rest in pieces))] == [0, 1, 2, 3]
    assert (assembly.given_up, assembly.unused, assembly.refused) == (2, 2, 0)


def test_a_frame_older_than_four_unfinished_is_given_up_and_one_that_is_whole_is_not() -> None:
    assembly = LayerAssembly()
    given_of(assembly, (frame(number, 60).fragments(40)[0] for number in range(10, 14)))
    assert assembly.add(frame(5, 60).fragments(40)[0]) is None
    assert assembly.given_up == 1
    assert given_of(assembly, frame(6).fragments(40)) == [frame(6)]
    assert len(given_of(assembly, (frame(number, 60).fragments(40)[1] for number in range(10, 14)))) == 4


@pytest.mark.parametrize(("behind", "given"), [(1, True), (127, True), (128, False), (200, False)])
def test_numbers_count_as_older_up_to_127_behind_the_newest(behind: int, given: bool) -> None:
    """Further back they count as newer; the time of what is older then lies behind that of all that follows."""
    assembly = LayerAssembly()
    assert given_of(assembly, frame(300).fragments(40)) == [frame(300)]
    assert given_of(assembly, frame(300 - behind).fragments(40)) == [frame(300 - behind)]
    # Newest is what it was: a repeat is known.
    assert (given_of(assembly, frame(300).fragments(40)) == []) == given


def test_a_frame_is_not_given_again_while_127_follow_it() -> None:
    assembly = LayerAssembly()
    for number in range(400):
        assert given_of(assembly, frame(number).fragments(40)) == [frame(number)]
        for before in (1, 50, 127):
            if number >= before:
                assert given_of(assembly, frame(number - before).fragments(40)) == []
    assert assembly.given_up == assembly.refused == 0


def test_an_unfinished_frame_does_not_stand_in_the_way_of_the_next_one_of_its_number() -> None:
    assembly = LayerAssembly()
    assembly.add(frame(0, 60).fragments(40)[0])
    after = [frame(number) for number in range(1, 257)]
    assert given_of(assembly, (piece for one in after for piece in one.fragments(40))) == after
    assert (assembly.given_up, assembly.refused) == (1, 0)


def test_the_frame_given_last_is_not_given_again_with_another_time() -> None:
    assembly = LayerAssembly()
    assert given_of(assembly, frame(9).fragments(40)) == [frame(9)]
    assert given_of(assembly, replace(frame(9), time_ms=1000).fragments(40)) == []
    assert assembly.unused == 1


@pytest.mark.parametrize("lost", [100, 127, 128, 140, 200, 255, 256, 300])
def test_frames_come_again_after_many_that_were_lost(lost: int) -> None:
    assembly = LayerAssembly()
    given_of(assembly, (piece for number in range(1000, 1200) for piece in frame(number).fragments(40)))
    assembly.add(frame(1200, 60).fragments(40)[0])
    after = [frame(number) for number in range(1201 + lost, 1211 + lost)]
    found = given_of(assembly, (piece for one in after for piece in one.fragments(40)))
    # With exactly 256 lost the first has the number of the unfinished one, and is taken for a part of it.
    assert found == (after if lost != 255 else after[1:])
    assert assembly.refused == (lost == 255)


def test_frames_of_a_sender_that_begins_anew_are_given() -> None:
    assembly = LayerAssembly()
    given_of(assembly, (piece for number in range(60) for piece in frame(number).fragments(40)))
    after = [replace(frame(60 + number), number=number) for number in range(20)]
    assert given_of(assembly, (piece for one in after for piece in one.fragments(40))) == after


def test_what_is_forgotten_may_come_again() -> None:
    assembly = LayerAssembly()
    whole = frame(3, 60)
    assert given_of(assembly, whole.fragments(40)) == [whole]
    assembly.forget()
    assert assembly.add(whole.fragments(40)[1]) is None
    assert assembly.add(whole.fragments(40)[0]) == whole


FIRST, SECOND, THIRD = frame(9, 100).fragments(40)


@pytest.mark.parametrize(
    ("held", "other"),
    [
        ([FIRST], replace(SECOND, key=True)),
        ([FIRST], replace(SECOND, time_ms=SECOND.time_ms + 1)),
        ([FIRST], replace(FIRST, data=b"other")),
        ([FIRST], replace(FIRST, last=True)),
        ([SECOND], replace(FIRST, last=True)),
        ([THIRD], replace(SECOND, last=True)),
        ([THIRD], replace(THIRD, last=False)),
        ([THIRD], replace(THIRD, index=3, last=False)),
        ([THIRD], replace(THIRD, index=4)),
    ],
)
def test_a_fragment_that_contradicts_another_is_refused_and_the_frame_still_comes(
    held: list[LayerFragment], other: LayerFragment
) -> None:
    assembly = LayerAssembly()
    assert given_of(assembly, [*held, other]) == []
    assert assembly.refused == 1
    rest = [piece for piece in (FIRST, SECOND, THIRD) if piece not in held]
    assert given_of(assembly, rest) == [frame(9, 100)]


@given(st.lists(fragments, max_size=60))
def test_any_fragments_are_given_as_they_were_put_in_or_counted(pieces: list[LayerFragment]) -> None:
    assembly = LayerAssembly()
    used = 0
    for whole in given_of(assembly, pieces):
        parts = [piece for piece in pieces if (piece.number, piece.time_ms) == (whole.number, whole.time_ms)]
        assert whole.data.endswith(tuple(piece.data for piece in parts if piece.last))
        assert whole.data.startswith(tuple(piece.data for piece in parts if piece.index == 0))
        used += 1
    assert used + assembly.unused + assembly.refused <= len(pieces)


@given(st.integers(0, (1 << 40) - 1), st.booleans(), st.binary(min_size=1, max_size=50), st.booleans())
def test_records_come_back(time_us: int, key: bool, data: bytes, whole: bool) -> None:
    record = TimedLayerFrame(time_us, key, data, whole)
    assert TimedLayerFrame.parse(bytes(record), whole=whole) == record


def test_of_the_cameras_records_alone_one_may_be_without_a_picture_and_is_no_key() -> None:
    end = TimedLayerFrame(480_000, False, b"", whole=True)
    assert TimedLayerFrame.parse(bytes(end), whole=True) == end
    for key, whole in ((True, True), (False, False)):
        with pytest.raises(BadInput, match="is 0 bytes"):
            TimedLayerFrame(480_000, key, b"", whole)


@given(st.binary(max_size=40), st.booleans())
def test_other_bytes_are_no_record_or_come_back(data: bytes, whole: bool) -> None:
    try:
        record = TimedLayerFrame.parse(data, whole=whole)
    except BadInput:
        return
    assert bytes(record) == data


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "record is 0 bytes, its time and flags need 6"),
        (bytes(TIMED)[:5], "record is 5 bytes"),
        (bytes(TIMED)[:6], "frame is 0 bytes, allowed are 1 to 8000"),
        (bytes(6) + bytes(8001), "frame is 8001 bytes"),
        (bytes(5) + b"\x02" + bytes(9), "flags 2, allowed are 0 and 1"),
        (bytes(5) + b"\x81" + bytes(9), "flags 129"),
    ],
)
def test_malformed_records_are_refused_with_a_reason(body: bytes, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        TimedLayerFrame.parse(body)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"time_us": -1}, "time is -1 us"),
        ({"time_us": 1 << 40}, "time is 1099511627776 us"),
        ({"data": b""}, "is 0 bytes"),
    ],
)
def test_fields_of_a_record_out_of_range_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        replace(TIMED, **change)
