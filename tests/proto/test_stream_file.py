from __future__ import annotations

import errno
import os
import random
import re
import zlib
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilocall.proto.control import CropPlace, SourcePicture
from kilocall.proto.errors import BadInput
from kilocall.proto.layer_frame import TimedLayerFrame
from kilocall.proto.limits import MOST_PICTURES
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.sound import SoundPackets
from kilocall.proto.stream_file import (
    MAGIC,
    Record,
    ReferencePicture,
    StreamHeader,
    StreamReader,
    StreamWriter,
    TimedPacket,
)

VECTORS = Path(__file__).parents[1] / "vectors"
HEADER = StreamHeader(
    family="compact-256",
    weights_hash="0f" * 32,
    codebook_hash="a5" * 32,
    fps=Fraction(25),
    picture_size=256,
    frame_width=1280,
    frame_height=720,
    quality=50,
    tool="kilocall 0.1.0",
)
PICTURE = SourcePicture("webp", b"RIFF....WEBP", keypoints=(0.5, -0.25))
PLACE = CropPlace(0, 100, 50, 512, 1280, 720)
INDEX, REFERENCE, LAYER, CAMERA = 5, 6, 8, 9
GOLDEN = ("stream.kcs", "layer.kcs", "camera.kcs")


def packet(number: int, *, frames: int = 3) -> MotionPacket:
    return MotionPacket(
        sequence=number,
        time_ms=number * 120 % 65536,
        spacing_us=40_000,
        frame_count=frames,
        reference=None if number % 4 == 0 else number - 1,
        level=4,
        payload=bytes([number, 7, 9, 1, 2, 3, 200, 250, 9, 1]),
    )


def write(path: Path) -> list[Record]:
    """Ten packets, keys at 0, 4, 8; the square moves once."""
    moved = replace(PLACE, time_us=480_000, x0=104)
    expected: list[Record] = [PICTURE, PLACE]
    with StreamWriter(path, HEADER) as writer:
        writer.add_picture(PICTURE)
        writer.add_place(PLACE)
        for number in range(10):
            if number == 4:
                expected.append(moved)
            writer.add_place(replace(PLACE if number < 4 else moved, time_us=number * 120_000))
            writer.add_packet(number * 120_000, packet(number))
            expected.append(TimedPacket(number * 120_000, packet(number)))
    return expected


def write_layered(path: Path) -> list[Record]:
    """Four packets, speech, and five frames of the layer, of which two are keys and one is longer than 127 bytes."""
    expected: list[Record] = [PICTURE]
    with StreamWriter(path, HEADER) as writer:
        writer.add_picture(PICTURE)
        for number in range(4):
            expected.append(TimedPacket(number * 120_000, packet(number)))
            writer.add_packet(number * 120_000, packet(number))
            frame = layer(number)
            expected.append(frame)
            writer.add_layer(frame.time_us, frame.key, frame.data)
            if number == 1:
                expected.append(SoundPackets(120_000, 312, (b"opus",)))
                writer.add_sound(SoundPackets(120_000, 312, (b"opus",)))
        expected.append(layer(4))
        writer.add_layer(layer(4).time_us, layer(4).key, layer(4).data)
    return expected


def layer(number: int) -> TimedLayerFrame:
    size = 150 if number == 2 else 9
    return TimedLayerFrame(number * 120_000, number % 3 == 0, bytes([0x0A, *[number] * size]))


def write_shown(path: Path) -> list[Record]:
    """Four packets; the layer, then two of the camera's pictures, then the layer anew. The word that the camera is
    shown no more comes behind the layer's first frame, which is of a later time."""
    expected: list[Record] = [PICTURE]
    with StreamWriter(path, HEADER) as writer:
        writer.add_picture(PICTURE)
        for number, after in enumerate(
            ((layer(0),), CAMERA_FRAMES[:1], CAMERA_FRAMES[1:2], (layer(3), CAMERA_FRAMES[2]))
        ):
            writer.add_packet(number * 120_000, packet(number))
            expected += [TimedPacket(number * 120_000, packet(number)), *after]
            for frame in after:
                (writer.add_camera if frame.whole else writer.add_layer)(frame.time_us, frame.key, frame.data)
    return expected


CAMERA_FRAMES = (
    TimedLayerFrame(120_000, True, bytes([0x0A, *[7] * 150]), whole=True),
    TimedLayerFrame(280_000, False, b"\x32\x09", whole=True),
    TimedLayerFrame(320_000, False, b"", whole=True),
)


def record(kind: int, body: bytes) -> bytes:
    """A record as wire.md has it, of up to 16 KiB."""
    length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) & 127 | 128, len(body) >> 7])
    whole = bytes([kind]) + length + body
    return whole + zlib.crc32(whole).to_bytes(4, "big")


def ends_of_records(data: bytes) -> list[int]:
    """Where the header and every record after it ends, without the index; by wire.md alone."""
    ends, at = [], len(MAGIC) + 2
    while data[at] != INDEX:
        length, shift, at = 0, 0, at + 1
        while True:
            length |= (data[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 128:
                break
        at += length + 4
        ends.append(at)
    return ends


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("stream") / "talk.kcs"
    write(path)
    return path.read_bytes()


def test_file_has_its_frozen_bytes(tmp_path: Path) -> None:
    """Frozen bytes: a change here is a new file version."""
    write(tmp_path / "talk.kcs")
    assert (tmp_path / "talk.kcs").read_bytes() == (VECTORS / "stream.kcs").read_bytes()
    write_layered(tmp_path / "layered.kcs")
    assert (tmp_path / "layered.kcs").read_bytes() == (VECTORS / "layer.kcs").read_bytes()
    write_shown(tmp_path / "shown.kcs")
    assert (tmp_path / "shown.kcs").read_bytes() == (VECTORS / "camera.kcs").read_bytes()


def test_records_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "talk.kcs"
    expected = write(path)
    reader = StreamReader(path)
    assert reader.header == HEADER
    assert list(reader.records()) == expected
    assert [timed.packet.sequence for timed in reader.packets()] == list(range(10))
    assert reader.source_picture() == PICTURE
    assert (reader.frame_count, reader.duration_us) == (30, 1_200_000)
    assert (reader.truncated, reader.damage) == (False, None)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["talk.kcs"]


def test_place_is_written_only_when_it_changed(data: bytes) -> None:
    places = [record for record in StreamReader(data).records() if isinstance(record, CropPlace)]
    assert [(place.time_us, place.x0) for place in places] == [(0, 100), (480_000, 104)]


def test_index_leads_to_the_key_packet_before_a_time(data: bytes) -> None:
    reader = StreamReader(data)
    assert [(entry.time_us, entry.frame) for entry in reader.index] == [(0, 0), (480_000, 12), (960_000, 24)]
    for time_us, sequence in [(-5, 0), (0, 0), (479_999, 0), (480_000, 4), (700_000, 4), (9_000_000, 8)]:
        entry = reader.seek(time_us)
        assert entry is not None
        first = next(iter(reader.records(entry.offset)))
        assert isinstance(first, TimedPacket)
        assert (first.packet.sequence, first.packet.is_key) == (sequence, True)


@pytest.mark.parametrize("name", GOLDEN)
def test_file_cut_anywhere_yields_every_complete_record_before_the_cut(name: str) -> None:
    data = (VECTORS / name).read_bytes()
    whole = StreamReader(data)
    records = list(whole.records())
    header_end, *ends = ends_of_records(data)
    assert len(ends) == len(records)
    lengths = []
    for length in range(len(data)):
        if length < header_end:
            with pytest.raises(BadInput):
                StreamReader(data[:length])
            continue
        reader = StreamReader(data[:length])
        found = list(reader.records())
        assert found == records[: sum(end <= length for end in ends)]
        assert reader.truncated
        assert reader.damage
        keys = [r for r in found if isinstance(r, TimedPacket) and r.packet.is_key]
        assert [entry.time_us for entry in reader.index] == [key.time_us for key in keys]
        assert reader.frame_count == sum(r.packet.frame_count for r in found if isinstance(r, TimedPacket))
        lengths.append(len(found))
    assert lengths[0] == 0
    assert lengths[-1] == len(records)


@pytest.mark.parametrize("name", GOLDEN)
def test_flipped_byte_never_yields_a_changed_record(name: str) -> None:
    data = (VECTORS / name).read_bytes()
    records = list(StreamReader(data).records())
    for position in range(len(data)):
        damaged = data[:position] + bytes([data[position] ^ 0x41]) + data[position + 1 :]
        try:
            reader = StreamReader(damaged)
        except BadInput:
            continue
        found = list(reader.records())
        assert found == records[: len(found)]
        assert reader.truncated, position


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_read_as_damaged(noise: bytes) -> None:
    for start in (b"", MAGIC, MAGIC + b"\x00\x01"):
        try:
            reader = StreamReader(start + noise)
        except BadInput:
            continue
        assert reader.truncated


def test_random_bytes_after_a_header_never_crash(data: bytes) -> None:
    first = ends_of_records(data)[0]
    rng = random.Random(4)
    for _ in range(300):
        kind, body = rng.randrange(9), rng.randbytes(rng.randrange(60))
        reader = StreamReader(data[:first] + record(kind, body))
        assert len(list(reader.records())) <= 1
        assert reader.truncated


def test_record_of_a_later_writer_is_skipped(data: bytes) -> None:
    first = ends_of_records(data)[0]
    longer = data[:first] + record(0x63, b"hi") + data[first:]
    assert list(StreamReader(longer).records()) == list(StreamReader(data).records())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\x00\x00\x00 ftypisom", "begins with 00 00 00 20 66 74 79 70"),
        (MAGIC[:5], "ends after 5 bytes"),
        (MAGIC.replace(b"\r\n", b"\n"), "begins with"),
        (MAGIC + b"\x00", "inside its version"),
        (MAGIC + b"\x00\x02", "version 2, this program reads 1"),
        (MAGIC + b"\x00\x01", "cut inside its length"),
        (MAGIC + b"\x00\x01\x01\xff\xff\xff", "more than 3 digits"),
        (MAGIC + b"\x00\x01\x01\xff\xff\x7f", "most is 1048576"),
        (MAGIC + b"\x00\x01\x01\x05ab", "record of 5 bytes is cut after 2"),
        (MAGIC + b"\x00\x01\x01\x01a1234", "checksum"),
    ],
)
def test_foreign_and_headless_files_are_refused_with_what_was_found(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "some.kcs"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=reason) as refused:
        StreamReader(path)
    assert "some.kcs" in str(refused.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"family": "f" * 65}, "family is"),
        ({"tool": "two\nlines"}, "tool is"),
        ({"weights_hash": "0f"}, "weights_hash is '0f'"),
        ({"fps": Fraction(0)}, "fps is 0"),
        ({"fps": Fraction(500)}, "fps is 500"),
        ({"picture_size": 5}, "picture_size is 5"),
        ({"frame_width": 0}, "frame_width is 0"),
        ({"quality": float("nan")}, "quality is nan"),
        ({"duration_us": -1}, "duration_us is -1"),
    ],
)
def test_header_fields_out_of_range_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        replace(HEADER, **change)


def test_header_with_known_length_comes_back() -> None:
    header = replace(HEADER, fps=Fraction(30_000, 1001), frame_count=90, duration_us=3_003_000)
    assert StreamHeader.parse(bytes(header)) == header
    for length in range(len(bytes(header))):
        with pytest.raises(BadInput, match="stream header"):
            StreamHeader.parse(bytes(header)[:length])


def test_frame_times_follow_the_exact_rate_of_the_stream() -> None:
    ntsc = Fraction(30_000, 1001)
    timed = TimedPacket(1_000_000, MotionPacket(0, 1000, 33_400, 4, None, 4, b""))
    assert timed.frame_times_us(ntsc) == [1_000_000, 1_033_367, 1_066_733, 1_100_100]
    assert timed.frame_times_us(Fraction(15)) == [1_000_000, 1_033_400, 1_066_800, 1_100_200]


def test_error_inside_the_block_leaves_nothing_behind(tmp_path: Path) -> None:
    old = tmp_path / "talk.kcs"
    old.write_bytes(b"kept")

    def record(camera_error: Exception) -> None:
        with StreamWriter(old, HEADER) as writer:
            writer.add_packet(0, packet(0))
            raise camera_error

    with pytest.raises(RuntimeError, match="camera"):
        record(RuntimeError("camera went away"))
    assert old.read_bytes() == b"kept"
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize("room", [0, 100, 400])
def test_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    class FullDisk:
        def __init__(self, file: Any) -> None:
            self.file, self.left = file, room

        def write(self, data: bytes) -> int:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(self.file.write(data))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    def open_on_full_disk(path: Path, mode: str) -> FullDisk:
        return FullDisk(open(path, mode))

    monkeypatch.setattr("kilocall.proto.stream_file.open", open_on_full_disk, raising=False)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "talk.kcs")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_told_with_the_name_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        write(tmp_path / "talk.kcs")
    assert caught.value.filename == str(tmp_path / "talk.kcs")


def test_growing_file_is_readable_after_every_record_and_stays_when_it_is_aborted(tmp_path: Path) -> None:
    path = tmp_path / "talk.kcs"
    writer = StreamWriter(path, HEADER, growing=True)
    for number in range(5):
        writer.add_packet(number * 120_000, packet(number))
        reader = StreamReader(path)
        assert reader.frame_count == 3 * (number + 1)
        assert reader.damage == "ends without an index"
    writer.abort()
    assert StreamReader(path).frame_count == 15


def test_growing_file_that_is_closed_is_like_any_other(tmp_path: Path) -> None:
    write(tmp_path / "whole.kcs")
    whole = StreamReader(tmp_path / "whole.kcs")
    writer = StreamWriter(tmp_path / "grown.kcs", whole.header, growing=True)
    for record in whole.records():
        if isinstance(record, TimedPacket):
            writer.add_packet(record.time_us, record.packet)
        elif isinstance(record, SourcePicture):
            writer.add_picture(record)
        elif isinstance(record, CropPlace):
            writer.add_place(record)
    writer.close()
    assert (tmp_path / "grown.kcs").read_bytes() == (tmp_path / "whole.kcs").read_bytes()


def test_growing_file_replaces_no_other(tmp_path: Path) -> None:
    path = tmp_path / "talk.kcs"
    path.write_bytes(b"kept")
    with pytest.raises(FileExistsError):
        StreamWriter(path, HEADER, growing=True)
    assert path.read_bytes() == b"kept"


def test_growing_file_ends_with_its_last_whole_record_when_there_is_room_for_half_of_the_next(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="RLIMIT_FSIZE is POSIX")
    path = tmp_path / "talk.kcs"
    writer = StreamWriter(path, HEADER, growing=True)
    writer.add_packet(0, packet(0))
    size = path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
    try:
        with pytest.raises(OSError, match=re.escape(str(path))) as caught:
            writer.add_packet(120_000, packet(1))
        assert caught.value.errno == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.stat().st_size == size
    assert StreamReader(path).frame_count == 3


def test_failing_rename_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Any, target: Any) -> None:
        raise PermissionError("refused")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError, match="refused"):
        write(tmp_path / "talk.kcs")
    assert list(tmp_path.iterdir()) == []


def test_nothing_has_the_name_before_close(tmp_path: Path) -> None:
    writer = StreamWriter(tmp_path / "talk.kcs", HEADER)
    writer.add_packet(0, packet(0))
    assert not (tmp_path / "talk.kcs").exists()
    writer.close()
    writer.close()
    writer.abort()
    assert StreamReader(tmp_path / "talk.kcs").frame_count == 3
    with pytest.raises(BadInput, match="already closed"):
        writer.add_packet(120_000, packet(1))


def test_bytes_reach_the_disk_before_the_file_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        done.append("sync")
        real_sync(descriptor)

    def rename(source: Path, target: Path) -> None:
        done.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    write(tmp_path / "talk.kcs")
    assert done[:2] == ["sync", "rename"]


def test_times_that_go_back_are_refused(tmp_path: Path) -> None:
    with StreamWriter(tmp_path / "talk.kcs", HEADER) as writer:
        writer.add_packet(500_000, packet(0))
        for time_us in (499_999, -1, 1 << 40):
            with pytest.raises(BadInput, match="packet time is"):
                writer.add_packet(time_us, packet(1))


def test_offer_without_data_is_refused(tmp_path: Path) -> None:
    with (
        StreamWriter(tmp_path / "talk.kcs", HEADER) as writer,
        pytest.raises(BadInput, match="picture itself"),
    ):
        writer.add_picture(PICTURE.offer())


def test_long_stream_keeps_a_bounded_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kilocall.proto.stream_file.MAX_INDEX_ENTRIES", 16)
    with StreamWriter(tmp_path / "talk.kcs", HEADER) as writer:
        for number in range(400):
            writer.add_packet(number * 120_000, replace(packet(0), sequence=number))
    reader = StreamReader(tmp_path / "talk.kcs")
    assert 8 <= len(reader.index) <= 16
    assert not reader.truncated
    for entry in reader.index:
        first = next(iter(reader.records(entry.offset)))
        assert isinstance(first, TimedPacket)
        assert first.time_us == entry.time_us


def test_stream_without_packets_has_no_index(tmp_path: Path) -> None:
    with StreamWriter(tmp_path / "talk.kcs", HEADER):
        pass
    reader = StreamReader(tmp_path / "talk.kcs")
    assert (list(reader.records()), reader.index, reader.seek(0), reader.truncated) == ([], (), None, False)
    assert reader.source_picture() is None


def test_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        StreamReader(tmp_path / "none.kcs")
    with pytest.raises(FileNotFoundError):
        StreamWriter(tmp_path / "none" / "talk.kcs", HEADER)


def further(number: int) -> SourcePicture:
    return SourcePicture("avif", bytes([number]) * 40)


def write_gallery(path: Path, count: int) -> None:
    """`count` further pictures, the last of them behind the motion, as a recording of a call has it."""
    with StreamWriter(path, HEADER) as writer:
        writer.add_picture(PICTURE)
        for number in range(count - 1):
            writer.add_reference(further(number))
        for number in range(10):
            writer.add_packet(number * 120_000, packet(number))
        writer.add_reference(further(count - 1))


def test_further_pictures_are_all_found_and_change_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "without.kcs")
    write_gallery(tmp_path / "with.kcs", 3)
    reader, without = StreamReader(tmp_path / "with.kcs"), StreamReader(tmp_path / "without.kcs")
    assert reader.references() == [further(0), further(1), further(2)]
    assert reader.source_picture() == PICTURE
    assert list(reader.packets()) == list(without.packets())
    assert reader.frame_count == without.frame_count
    assert without.references() == []
    start = reader.seek(600_000)
    assert start is not None
    after = [record for record in reader.records(start.offset) if isinstance(record, TimedPacket)]
    assert after[0].packet.sequence == 4


def test_pictures_before_a_cut_are_found(tmp_path: Path) -> None:
    write_gallery(tmp_path / "whole.kcs", 3)
    whole = (tmp_path / "whole.kcs").read_bytes()
    records = list(StreamReader(whole).records())
    assert records[1] == ReferencePicture(further(0))
    found = set()
    for length in range(len(bytes(HEADER)) + 20, len(whole)):
        reader = StreamReader(whole[:length])
        assert reader.references() == [further(n) for n in range(len(reader.references()))]
        assert reader.truncated
        found.add(len(reader.references()))
    assert found == {0, 1, 2, 3}


def test_no_more_than_eight_pictures_are_written_or_used(tmp_path: Path) -> None:
    path = tmp_path / "many.kcs"
    with StreamWriter(path, HEADER) as writer:
        with pytest.raises(BadInput, match="holds 0 pictures"):
            writer.add_reference(further(0))
        writer.add_picture(PICTURE)
        for number in range(MOST_PICTURES - 1):
            writer.add_reference(further(number))
        with pytest.raises(BadInput, match="holds 8 pictures"):
            writer.add_reference(further(8))
        with pytest.raises(BadInput, match="not only its hash"):
            writer.add_reference(further(8).offer())
    whole = path.read_bytes()
    end = ends_of_records(whole)[-1]
    one_more = whole[:end] + record(REFERENCE, bytes(further(9)))  # as a program without this limit would write
    reader = StreamReader(one_more)
    assert [item.picture for item in reader.records() if isinstance(item, ReferencePicture)][-1] == further(9)
    assert reader.references() == [further(number) for number in range(MOST_PICTURES - 1)]


def test_layer_frames_are_found_in_order_and_change_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "layered.kcs"
    expected = write_layered(path)
    reader = StreamReader(path)
    assert list(reader.records()) == expected
    assert list(reader.layer_frames()) == [layer(number) for number in range(5)]
    assert [sound.time_us for sound in reader.sounds()] == [120_000]
    assert [timed.packet.sequence for timed in reader.packets()] == [0, 1, 2, 3]
    # The layer's last frame is later than the motion's; the stream ends with its motion.
    assert (reader.frame_count, reader.duration_us, len(reader.index)) == (12, 480_000, 1)
    assert not reader.truncated
    write(tmp_path / "talk.kcs")
    assert list(StreamReader(tmp_path / "talk.kcs").layer_frames()) == []


def test_layer_times_that_go_back_and_frames_out_of_range_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "talk.kcs"
    with StreamWriter(path, HEADER) as writer:
        writer.add_packet(900_000, packet(0))
        writer.add_layer(500_000, True, b"first")  # later than its motion in the file, which is allowed
        for time_us in (499_999, -1, 1 << 40):
            with pytest.raises(BadInput, match="layer frame time is"):
                writer.add_layer(time_us, False, b"next")
        for data in (b"", bytes(8001)):
            with pytest.raises(BadInput, match=f"layer frame is {len(data)} bytes"):
                writer.add_layer(600_000, False, data)
        writer.add_layer(500_000, False, bytes(8000))  # what was refused has moved nothing
    frames = list(StreamReader(path).layer_frames())
    assert frames == [TimedLayerFrame(500_000, True, b"first"), TimedLayerFrame(500_000, False, bytes(8000))]


def test_what_the_camera_saw_is_found_apart_from_the_layer_and_both_in_the_order_of_time(tmp_path: Path) -> None:
    path = tmp_path / "shown.kcs"
    expected = write_shown(path)
    reader = StreamReader(path)
    assert list(reader.records()) == expected
    assert not reader.truncated
    assert list(reader.layer_frames()) == [layer(0), layer(3)]
    assert reader.video() == [layer(0), *CAMERA_FRAMES, layer(3)]
    assert (reader.frame_count, reader.duration_us) == (12, 480_000)


def test_readers_that_do_not_know_the_camera_play_the_rest() -> None:
    """A type that no reader knows is skipped; so did those before this one."""
    data = (VECTORS / "camera.kcs").read_bytes()
    starts = [len(MAGIC) + 2, *ends_of_records(data)]
    records = [data[start:end] for start, end in pairwise(starts)]
    unknown = [record(99, one[3:-4] if one[1] > 127 else one[2:-4]) if one[0] == CAMERA else one for one in records]
    assert unknown != records
    reader = StreamReader(data[: starts[0]] + b"".join(unknown) + data[starts[-1] :])
    assert reader.video() == [layer(0), layer(3)]
    assert [timed.packet for timed in reader.packets()] == [packet(number) for number in range(4)]
    assert not reader.truncated


def test_times_of_the_cameras_pictures_that_go_back_are_refused_and_its_end_moves_none(tmp_path: Path) -> None:
    path = tmp_path / "talk.kcs"
    with StreamWriter(path, HEADER) as writer:
        writer.add_layer(900_000, True, b"layer")  # times of its own
        writer.add_camera(500_000, True, b"first")
        for time_us, data in ((499_999, b"next"), (499_999, b"")):
            with pytest.raises(BadInput, match="allowed is 500000 to"):
                writer.add_camera(time_us, False, data)
        with pytest.raises(BadInput, match="is 0 bytes"):
            writer.add_camera(500_000, True, b"")
        writer.add_camera(700_000, False, b"")
        writer.add_camera(600_000, False, b"late")
    assert [frame.data for frame in StreamReader(path).video()] == [b"first", b"late", b"", b"layer"]


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        (LAYER, bytes(5), "need 6"),
        (LAYER, bytes(6), "is 0 bytes"),
        (LAYER, bytes(5) + b"\x02a", "flags 2"),
        (CAMERA, bytes(5), "need 6"),
        (CAMERA, bytes(5) + b"\x01", "is 0 bytes"),
        (CAMERA, bytes(5) + b"\x02a", "flags 2"),
        (CAMERA, bytes(8007), "is 8001 bytes"),
    ],
)
def test_a_layer_record_that_is_none_counts_as_damage(kind: int, body: bytes, reason: str) -> None:
    for name in ("layer.kcs", "camera.kcs"):
        data = (VECTORS / name).read_bytes()
        first = ends_of_records(data)[0]
        reader = StreamReader(data[:first] + record(kind, body) + data[first:-1])
        assert list(reader.records()) == []
        assert reason in (reader.damage or "")
