"""The stream file, `.kcs`: coded motion with its source picture, written as it comes, readable when cut.

    magic, 8 bytes | version u16 | header record | other records | index | footer

The others hold pictures, places of the square, motion, speech, frames of the layer and of the camera. A record is type
u8, length LEB128, body, CRC-32 of all three. The index says where the key packets are; a file that was cut before it is
scanned instead. `wire.md` beside this file has the bytes of every record.
"""

from __future__ import annotations

import os
import stat
import struct
import time
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgpack

from kilocall.proto.control import CropPlace, SourcePicture, parse_control
from kilocall.proto.errors import BadInput, BadPacket
from kilocall.proto.layer_frame import TimedLayerFrame
from kilocall.proto.leb128 import leb128
from kilocall.proto.limits import MOST_PICTURES
from kilocall.proto.motion_packet import SPACING_UNIT_US, MotionPacket
from kilocall.proto.sound import SoundPackets

__all__ = [
    "FILE_VERSION",
    "MAGIC",
    "IndexEntry",
    "Record",
    "ReferencePicture",
    "StreamHeader",
    "StreamReader",
    "StreamWriter",
    "TimedPacket",
]

MAGIC = b"\x89KCS\r\n\x1a\n"
FILE_VERSION = 1

MAX_FILE_BYTES = 512 << 20  # days of motion; refused before it is read into memory
MAX_RECORD_BYTES = 1 << 20
MAX_INDEX_ENTRIES = 1 << 15
MAX_TIME_US = (1 << 40) - 1  # 12 days
SYNC_EVERY_S = 1.0

_HEADER, _PICTURE, _MOTION, _PLACE, _INDEX, _REFERENCE, _SOUND, _LAYER, _CAMERA = 1, 2, 3, 4, 5, 6, 7, 8, 9
_FOOTER = struct.Struct(">QI4s")  # offset of the index record, CRC-32 of the offset, end mark
_END = b"SCK\n"
_START_BYTES = len(MAGIC) + 2


@dataclass(frozen=True)
class StreamHeader:
    """What a reader must know first. Raises BadInput when a field is out of range."""

    family: str
    weights_hash: str
    """64 hexadecimal digits, as is codebook_hash."""
    codebook_hash: str
    fps: Fraction
    picture_size: int
    """Side of the square picture that the models work on, pixels."""
    frame_width: int
    """Size of the full frames that the square was cut from, pixels."""
    frame_height: int
    quality: float
    """0..100, as asked for; each packet states its own level."""
    tool: str
    """Name and version of the program that wrote the file."""
    frame_count: int | None = None
    """None when it was not known at the start; `StreamReader.frame_count` always knows."""
    duration_us: int | None = None

    def __post_init__(self) -> None:
        for name, text, most in (("family", self.family, 64), ("tool", self.tool, 100)):
            if not text.isprintable() or len(text.encode()) > most:
                raise BadInput(f"stream header {name} is {text!r:.120}, allowed is {most} bytes of text")
        for name, digest in (("weights_hash", self.weights_hash), ("codebook_hash", self.codebook_hash)):
            if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
                raise BadInput(f"stream header {name} is {digest!r:.80}, not 64 hexadecimal digits")
        if not 1 <= self.fps <= 240 or self.fps.denominator > 1_000_000:
            raise BadInput(f"stream header fps is {self.fps}, allowed is 1 to 240")
        _within("picture_size", self.picture_size, 16, 4096)
        _within("frame_width", self.frame_width, 1, 16384)
        _within("frame_height", self.frame_height, 1, 16384)
        _within("quality", self.quality, 0, 100)
        _within("frame_count", self.frame_count or 0, 0, 1 << 32)
        _within("duration_us", self.duration_us or 0, 0, MAX_TIME_US)

    def __bytes__(self) -> bytes:
        values = [
            self.family,
            bytes.fromhex(self.weights_hash),
            bytes.fromhex(self.codebook_hash),
            self.fps.numerator,
            self.fps.denominator,
            self.picture_size,
            self.frame_width,
            self.frame_height,
            float(self.quality),
            self.tool,
            self.frame_count,
            self.duration_us,
        ]
        return bytes(msgpack.packb(values))

    @classmethod
    def parse(cls, body: bytes) -> StreamHeader:
        """Reads a header record's body. Raises BadInput with the reason."""
        values = _unpack(body, "stream header")
        kinds: tuple[Any, ...] = (
            str,
            bytes,
            bytes,
            int,
            int,
            int,
            int,
            int,
            float,
            str,
            (int, type(None)),
            (int, type(None)),
        )
        if len(values) != len(kinds):
            raise BadInput(f"stream header has {len(values)} fields, needs {len(kinds)}")
        for number, (value, kind) in enumerate(zip(values, kinds, strict=True)):
            if not isinstance(value, kind) or isinstance(value, bool):
                raise BadInput(f"stream header field {number} is of type {type(value).__name__}")
        (
            family,
            weights,
            codebook,
            numerator,
            denominator,
            size,
            width,
            height,
            quality,
            tool,
            count,
            duration,
        ) = values
        if denominator < 1:
            raise BadInput(f"stream header fps is {numerator}/{denominator}, allowed is 1 to 240")
        return cls(
            family=family,
            weights_hash=weights.hex(),
            codebook_hash=codebook.hex(),
            fps=Fraction(numerator, denominator),
            picture_size=size,
            frame_width=width,
            frame_height=height,
            quality=quality,
            tool=tool,
            frame_count=count,
            duration_us=duration,
        )


@dataclass(frozen=True)
class TimedPacket:
    """A motion packet with the time of its first frame, counted from the stream's start."""

    time_us: int
    packet: MotionPacket

    def frame_times_us(self, fps: Fraction) -> list[int]:
        """Times of all frames. A packet holds its spacing to 0.1 ms; where that fits `fps`, `fps` counts."""
        packet = self.packet
        spacing = Fraction(1_000_000) / fps
        if round(spacing / SPACING_UNIT_US) * SPACING_UNIT_US != packet.spacing_us:
            spacing = Fraction(packet.spacing_us)
        return [self.time_us + round(index * spacing) for index in range(packet.frame_count)]


@dataclass(frozen=True)
class ReferencePicture:
    """A further picture of the speaker of the source picture before it; motion does not refer to it."""

    picture: SourcePicture


Record = SourcePicture | CropPlace | TimedPacket | ReferencePicture | SoundPackets | TimedLayerFrame


@dataclass(frozen=True)
class IndexEntry:
    """Where decoding can begin."""

    time_us: int
    """Time of the key packet's first frame."""
    offset: int
    """Of the key packet's record in the file."""
    frame: int
    """Number of frames before it."""


class StreamWriter:
    """Writes a stream file under a temporary name; `close()` gives it its own.

    As a context manager it closes at the end, or aborts when an error leaves the block. When writing fails
    (disk full), nothing stays behind and an OSError that names the file is raised.

    A `growing` file has its own name from the start, and whatever is there stays: every record is given to the system
    at once, to the disk once a second, and the file can be read at any time, however writing ends. FileExistsError
    where the name is taken.
    """

    def __init__(self, path: str | os.PathLike[str], header: StreamHeader, *, growing: bool = False) -> None:
        self.path = Path(path)
        self._growing = growing
        part = self.path.with_name(f".{self.path.name}.{os.urandom(6).hex()}.part")
        self._temporary = self.path if growing else part
        self._synced_s = time.monotonic()
        self._fps = header.fps
        self._spacing_us = round(Fraction(1_000_000) / header.fps)
        self._offset = 0
        self._index: list[IndexEntry] = []
        self._frames = 0
        self._last_us = 0
        self._last_layer_us = {_LAYER: 0, _CAMERA: 0}
        self._end_us = 0
        self._place: CropPlace | None = None
        self._pictures = 0
        # close() or abort() closes it.
        self._file: BinaryIO | None = open(self._temporary, "xb")  # noqa: SIM115
        try:
            self._put(MAGIC + struct.pack(">H", FILE_VERSION) + _record(_HEADER, bytes(header)))
        except OSError:
            self._temporary.unlink(missing_ok=True)  # without its header it is of no use
            raise

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._offset

    def add_picture(self, picture: SourcePicture) -> None:
        """A source picture, for the packets that follow. Raises BadInput for an offer without data."""
        if not picture.data:
            raise BadInput("a stream file needs the source picture itself, not only its hash")
        self._put(_record(_PICTURE, bytes(picture)))
        self._pictures = 1

    def add_reference(self, picture: SourcePicture) -> None:
        """A further picture of the same speaker. Raises BadInput without data, before any source picture, for one too
        many."""
        if not picture.data:
            raise BadInput("a stream file needs the picture itself, not only its hash")
        if not 1 <= self._pictures < MOST_PICTURES:
            raise BadInput(f"stream holds {self._pictures} pictures; a further one needs 1 to {MOST_PICTURES - 1}")
        self._put(_record(_REFERENCE, bytes(picture)))
        self._pictures += 1

    def add_place(self, place: CropPlace) -> None:
        """Where the square lies from now on; written only when it changed."""
        if not place.same_place(self._place):
            self._put(_record(_PLACE, bytes(place)))
            self._place = place

    def add_packet(self, time_us: int, packet: MotionPacket) -> None:
        """A motion packet whose first frame is `time_us` after the stream's start. Times must not go back."""
        if not self._last_us <= time_us <= MAX_TIME_US:
            raise BadInput(f"packet time is {time_us} us, allowed is {self._last_us} to {MAX_TIME_US}")
        self._last_us = time_us
        offset = self._offset
        self._put(_record(_MOTION, time_us.to_bytes(5, "big") + bytes(packet)))
        if packet.is_key:
            self._index.append(IndexEntry(time_us, offset, self._frames))
            if len(self._index) > MAX_INDEX_ENTRIES:
                del self._index[1::2]  # seeking gets coarser, memory stays bounded
        self._frames += packet.frame_count
        times = TimedPacket(time_us, packet).frame_times_us(self._fps)
        self._end_us = max(self._end_us, times[-1] + self._spacing_us)

    def add_sound(self, sound: SoundPackets) -> None:
        """Speech; records of it lie in the order of their times, near the motion of that time."""
        self._put(_record(_SOUND, bytes(sound)))

    def add_layer(self, time_us: int, key: bool, data: bytes) -> None:
        """A frame of the layer, captured `time_us` after the stream's start: an AV1 temporal unit, near the motion of
        that time. Raises BadInput for a time before that of the layer frame before, or a field out of range."""
        self._put_layer(_LAYER, TimedLayerFrame(time_us, key, data))

    def add_camera(self, time_us: int, key: bool, data: bytes) -> None:
        """The camera's whole picture, shown in place of the speaker from `time_us` on: an AV1 temporal unit, or nothing
        where the speaker is shown again. Raises BadInput for a time before that of the picture before, or a field out
        of range."""
        self._put_layer(_CAMERA, TimedLayerFrame(time_us, key, data, whole=True))

    def _put_layer(self, kind: int, frame: TimedLayerFrame) -> None:
        least_us = self._last_layer_us[kind]
        if frame.time_us < least_us:
            raise BadInput(f"layer frame time is {frame.time_us} us, allowed is {least_us} to {MAX_TIME_US}")
        self._put(_record(kind, bytes(frame)))
        if frame.data:
            self._last_layer_us[kind] = frame.time_us

    @property
    def duration_us(self) -> int:
        """From the first frame's time to the end of the last, as written so far."""
        return self._end_us

    def close(self) -> None:
        """Writes index and footer, flushes to disk and gives the file its name. A second call is nothing."""
        if self._file is None:
            return
        entries = [[entry.time_us, entry.offset, entry.frame] for entry in self._index]
        index = msgpack.packb([self._frames, self._end_us, entries])
        offset = struct.pack(">Q", self._offset)
        self._put(_record(_INDEX, index) + _FOOTER.pack(self._offset, zlib.crc32(offset), _END))
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            if not self._growing:
                os.replace(self._temporary, self.path)
        except OSError as error:
            self.abort()
            raise _naming(error, self.path) from error
        self._file = None
        # The rename itself must reach the disk; not every system lets a folder be opened.
        with suppress(OSError):
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def abort(self) -> None:
        """Removes what was written, but for a growing file, which ends with its last whole record. After `close()` it
        does nothing."""
        if self._file is None:
            return
        file, self._file = self._file, None
        # Closing flushes, and on a full disk fails again; the reason is already on its way up.
        with suppress(OSError):
            file.close()
        if not self._growing:
            self._temporary.unlink(missing_ok=True)
            return
        with suppress(OSError):
            if self.path.stat().st_size > self._offset:
                os.truncate(self.path, self._offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _put(self, data: bytes) -> None:
        if self._file is None:
            raise BadInput(f"{self.path} is already closed")
        try:
            self._file.write(data)
            if self._growing:
                self._write_through(self._file)
        except OSError as error:
            self.abort()
            raise _naming(error, self.path) from error
        self._offset += len(data)

    def _write_through(self, file: BinaryIO) -> None:
        file.flush()
        now_s = time.monotonic()
        if now_s - self._synced_s >= SYNC_EVERY_S:
            self._synced_s = now_s
            os.fsync(file.fileno())


class StreamReader:
    """Reads a stream file from a path or from bytes.

    Raises BadInput when it is no stream file, of an unknown version, or cut before its header is complete. A
    file cut or damaged later yields every complete record before that place; `truncated` is then True and
    `damage` says what was found.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes) -> None:
        self.truncated = False
        self.damage: str | None = None
        if isinstance(source, bytes):
            self.name, self._data = "stream", source
        else:
            self.name, self._data = os.fspath(source), _read(Path(source))
        data = self._data
        if data[: len(MAGIC)] != MAGIC:
            found = f"begins with {data[:8].hex(' ')}" if data else "is empty"
            if data and MAGIC.startswith(data):
                found = f"ends after {len(data)} bytes"
            raise BadInput(f"{self.name} {found}, a kilocall stream begins with {MAGIC.hex(' ')} and goes on")
        if len(data) < _START_BYTES:
            raise BadInput(f"{self.name} ends after {len(data)} bytes, inside its version number")
        version = int.from_bytes(data[len(MAGIC) : _START_BYTES], "big")
        if version != FILE_VERSION:
            raise BadInput(f"{self.name} is a kilocall stream of version {version}, this program reads {FILE_VERSION}")
        try:
            kind, body, self._first = _take(data, _START_BYTES)
            if kind != _HEADER:
                raise BadInput(f"first record has type {kind}, not {_HEADER}")
            self.header = StreamHeader.parse(body)
        except BadInput as error:
            raise BadInput(f"{self.name}: header is unusable: {error}") from None
        self.frame_count = 0
        """Frames in the file, or before the damage."""
        self.duration_us = 0
        """End of the last frame."""
        self.index: tuple[IndexEntry, ...] = ()
        """Where the key packets are, by time."""
        if not self._read_index():
            self._scan()

    def records(self, offset: int | None = None) -> Iterator[Record]:
        """Every complete record in file order, from the start or from an `IndexEntry.offset`."""
        return (record for _, record in self._walk(self._first if offset is None else offset))

    def packets(self) -> Iterator[TimedPacket]:
        """The motion packets alone."""
        return (record for record in self.records() if isinstance(record, TimedPacket))

    def sounds(self) -> Iterator[SoundPackets]:
        """The speech alone."""
        return (record for record in self.records() if isinstance(record, SoundPackets))

    def layer_frames(self) -> Iterator[TimedLayerFrame]:
        """The frames of the layer alone."""
        return (record for record in self.records() if isinstance(record, TimedLayerFrame) and not record.whole)

    def video(self) -> list[TimedLayerFrame]:
        """The frames of the layer and the camera's, in the order of their times."""
        found = [record for record in self.records() if isinstance(record, TimedLayerFrame)]
        return sorted(found, key=lambda frame: frame.time_us)

    def source_picture(self) -> SourcePicture | None:
        """The first source picture, None when the file holds none."""
        return next((record for record in self.records() if isinstance(record, SourcePicture)), None)

    def references(self) -> list[SourcePicture]:
        """The further pictures of the first source picture's speaker, wherever they lie in the file; at most
        MOST_PICTURES - 1, more are left out."""
        found: list[SourcePicture] = []
        sources = 0
        for record in self.records():
            sources += isinstance(record, SourcePicture)
            if sources == 1 and isinstance(record, ReferencePicture) and len(found) < MOST_PICTURES - 1:
                found.append(record.picture)
        return found

    def seek(self, time_us: int) -> IndexEntry | None:
        """The last key packet at or before a time, else the first; None when there is no key packet."""
        if not self.index:
            return None
        place = bisect_right(self.index, time_us, key=lambda entry: entry.time_us)
        return self.index[max(0, place - 1)]

    def _walk(self, offset: int) -> Iterator[tuple[int, Record]]:
        data = self._data
        while True:
            if offset == len(data):
                self._damaged("ends without an index")
                return
            try:
                kind, body, after = _take(data, offset)
                record = _parse_record(kind, body)
            except (BadInput, BadPacket) as error:
                self._damaged(f"at byte {offset}: {error}")
                return
            if kind == _INDEX:
                return
            if record is not None:
                yield offset, record
            offset = after

    def _damaged(self, what: str) -> None:
        self.truncated = True
        self.damage = what

    def _read_index(self) -> bool:
        """Fills frame_count, duration and index from the end of the file; False when that cannot be done."""
        data = self._data
        if len(data) < self._first + _FOOTER.size:
            return False
        offset, crc, end = _FOOTER.unpack_from(data, len(data) - _FOOTER.size)
        if end != _END or crc != zlib.crc32(struct.pack(">Q", offset)) or not self._first <= offset < len(data):
            return False
        try:
            kind, body, after = _take(data, offset)
            if kind != _INDEX or after + _FOOTER.size != len(data):
                return False
            frames, duration, entries = _unpack(body, "index")
            index = tuple(IndexEntry(*map(_natural, entry)) for entry in entries)
            self.frame_count, self.duration_us = _natural(frames), _natural(duration)
        except (BadInput, TypeError, ValueError):
            return False
        if any(not self._first <= entry.offset < offset for entry in index) or list(index) != sorted(
            index, key=lambda entry: (entry.time_us, entry.offset)
        ):
            return False
        self.index = index
        return True

    def _scan(self) -> None:
        index = []
        self.frame_count = 0
        self.duration_us = 0
        spacing = round(Fraction(1_000_000) / self.header.fps)
        for offset, record in self._walk(self._first):
            if isinstance(record, TimedPacket):
                if record.packet.is_key:
                    index.append(IndexEntry(record.time_us, offset, self.frame_count))
                self.frame_count += record.packet.frame_count
                last = record.frame_times_us(self.header.fps)[-1]
                self.duration_us = max(self.duration_us, last + spacing)
        self.index = tuple(sorted(index, key=lambda entry: (entry.time_us, entry.offset)))
        if not self.truncated:
            self._damaged("its index or footer is unusable")


def _naming(error: OSError, path: Path) -> OSError:
    """The same with the file's name: a failing write does not know it."""
    if error.filename is not None or error.errno is None:
        return error
    return OSError(error.errno, error.strerror, str(path))


def _read(path: Path) -> bytes:
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode) and status.st_size > MAX_FILE_BYTES:
            raise BadInput(f"{path} is {status.st_size} bytes, most is {MAX_FILE_BYTES}")
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise BadInput(f"{path} is more than {MAX_FILE_BYTES} bytes")
    return data


def _record(kind: int, body: bytes) -> bytes:
    whole = bytes([kind]) + leb128(len(body)) + body
    return whole + zlib.crc32(whole).to_bytes(4, "big")


def _take(data: bytes, offset: int) -> tuple[int, bytes, int]:
    """Type, body and end of the record at `offset`. Raises BadInput when it is cut short or damaged."""
    length, position = 0, offset + 1
    for shift in (0, 7, 14):
        if position >= len(data):
            raise BadInput("record is cut inside its length")
        digit = data[position]
        position += 1
        length |= (digit & 127) << shift
        if digit < 128:
            break
    else:
        raise BadInput("record length has more than 3 digits")
    if length > MAX_RECORD_BYTES:
        raise BadInput(f"record is {length} bytes, most is {MAX_RECORD_BYTES}")
    after = position + length + 4
    if after > len(data):
        raise BadInput(f"record of {length} bytes is cut after {max(0, len(data) - position)}")
    stated = int.from_bytes(data[after - 4 : after], "big")
    if zlib.crc32(memoryview(data)[offset : after - 4]) != stated:
        raise BadInput("record does not match its checksum")
    return data[offset], data[position : after - 4], after


def _parse_record(kind: int, body: bytes) -> Record | None:
    """A record's content; None for the index and for types of later writers. Raises BadPacket or BadInput."""
    if kind == _MOTION:
        if len(body) < 5:
            raise BadInput(f"motion record is {len(body)} bytes, its time needs 5")
        return TimedPacket(int.from_bytes(body[:5], "big"), MotionPacket.parse(body[5:]))
    if kind == _SOUND:
        return SoundPackets.parse(body)
    if kind in (_LAYER, _CAMERA):
        return TimedLayerFrame.parse(body, whole=kind == _CAMERA)
    if kind in (_PICTURE, _PLACE, _REFERENCE):
        message = parse_control(body)
        if not isinstance(message, CropPlace if kind == _PLACE else SourcePicture):
            raise BadInput(f"record of type {kind} holds a {type(message).__name__}")
        return ReferencePicture(message) if kind == _REFERENCE and isinstance(message, SourcePicture) else message
    return None


def _unpack(body: bytes, what: str) -> list[Any]:
    try:
        value = msgpack.unpackb(body, max_ext_len=0, max_map_len=0)
    except (ValueError, msgpack.UnpackException) as error:
        raise BadInput(f"{what} is not one msgpack value: {error}") from None
    if not isinstance(value, list):
        raise BadInput(f"{what} is not a msgpack array")
    return value


def _natural(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise BadInput(f"index holds {value!r:.40}, expected a whole number")
    return value


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise BadInput(f"stream header {name} is {value}, allowed is {least} to {most}")
