"""Frames of the layer: a thin video stream under the motion, one AV1 temporal unit each, in fragments on the wire.

    number u8 | key 1, last 1, index 3, whole 1, zero 2 bits | time u16 | length LEB128 | data

A frame travels as up to eight fragments, behind motion packets in the same messages (`motion_message.py`). In a stream
file it is whole. Numbers are big-endian; `wire.md` beside this file has examples. What a temporal unit's bytes mean is
not known here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from kilocall.proto.errors import BadInput, BadPacket
from kilocall.proto.leb128 import leb128
from kilocall.proto.motion_packet import TIMES_MS, time_in_full_us

__all__ = [
    "LAYER_NUMBERS",
    "MAX_FRAGMENTS",
    "MAX_FRAGMENT_BYTES",
    "MAX_LAYER_BYTES",
    "MAX_UNFINISHED",
    "LayerAssembly",
    "LayerFragment",
    "LayerFrame",
    "TimedLayerFrame",
    "fragment_bytes",
]

LAYER_NUMBERS: Final = 256
"""Layer frames count modulo this."""
MAX_FRAGMENTS: Final = 8
"""Of a frame, and in a message."""
MAX_FRAGMENT_BYTES: Final = 1000
MAX_LAYER_BYTES: Final = MAX_FRAGMENTS * MAX_FRAGMENT_BYTES
MAX_UNFINISHED: Final = 4
"""Frames of which a receiver waits for the rest: at 25 frames a second a sixth of one, and 32 KB."""

_FIXED = struct.Struct(">BBH")  # number, flags, time
_KEY, _LAST, _INDEX_SHIFT, _WHOLE, _ZERO = 0x80, 0x40, 3, 0x04, 0x03
_WINDOW: Final = LAYER_NUMBERS // 2
_TIME_BYTES: Final = 5


def fragment_bytes(data_bytes: int) -> int:
    """Of a fragment in a message: so many bytes of data, and its header."""
    return _FIXED.size + len(leb128(data_bytes)) + data_bytes


@dataclass(frozen=True)
class LayerFrame:
    """One coded frame of the layer. Raises BadPacket when a field is out of its range."""

    number: int
    """0..255; counts coded layer frames and wraps."""
    time_ms: int
    """Capture time on the sender's clock, in milliseconds modulo 65536, as a motion packet's."""
    key: bool
    """Whether it can be decoded without any other."""
    data: bytes
    """An AV1 temporal unit without its temporal delimiter, 1 to MAX_LAYER_BYTES bytes."""
    whole: bool = False
    """Whether it is the camera's whole picture, to be shown as it is, and not the crop under the motion."""

    def __post_init__(self) -> None:
        _check("frame number", self.number, 0, LAYER_NUMBERS - 1)
        _check("frame time_ms", self.time_ms, 0, TIMES_MS - 1)
        if not 1 <= len(self.data) <= MAX_LAYER_BYTES:
            raise BadPacket(f"layer frame is {len(self.data)} bytes, allowed are 1 to {MAX_LAYER_BYTES}")

    def time_us(self, near_us: int) -> int:
        """Capture time in full: the moment nearest to `near_us` that ends in `time_ms`."""
        return time_in_full_us(self.time_ms, near_us)

    def fragments(self, most: int) -> list[LayerFragment]:
        """The frame in pieces of `most` bytes of data, the last one shorter. Raises BadPacket for more than eight."""
        _check("fragment data's limit", most, 1, MAX_FRAGMENT_BYTES)
        count = -(-len(self.data) // most)
        if count > MAX_FRAGMENTS:
            raise BadPacket(
                f"layer frame of {len(self.data)} bytes is {count} fragments of {most} bytes, most is {MAX_FRAGMENTS}"
            )
        return [
            LayerFragment(
                number=self.number,
                time_ms=self.time_ms,
                key=self.key,
                index=index,
                last=index == count - 1,
                data=self.data[index * most : (index + 1) * most],
                whole=self.whole,
            )
            for index in range(count)
        ]


@dataclass(frozen=True)
class LayerFragment:
    """A piece of a layer frame. Raises BadPacket when a field is out of its range.

    bytes(fragment) is what goes on the wire; LayerFragment.parse_run(data) reads any number of them.
    """

    number: int
    """Of the frame, as are the next two, and `whole`."""
    time_ms: int
    key: bool
    index: int
    """0..7: which piece of the frame."""
    last: bool
    """Whether the frame ends with it; piece 7 is always the last."""
    data: bytes
    """1 to MAX_FRAGMENT_BYTES bytes."""
    whole: bool = False

    def __post_init__(self) -> None:
        _check("fragment number", self.number, 0, LAYER_NUMBERS - 1)
        _check("fragment time_ms", self.time_ms, 0, TIMES_MS - 1)
        _check("fragment index", self.index, 0, MAX_FRAGMENTS - 1)
        if self.index == MAX_FRAGMENTS - 1 and not self.last:
            raise BadPacket(f"layer fragment {self.index} is not the last, and none can follow")
        if not 1 <= len(self.data) <= MAX_FRAGMENT_BYTES:
            raise BadPacket(f"layer fragment has {len(self.data)} bytes of data, allowed are 1 to {MAX_FRAGMENT_BYTES}")

    def __bytes__(self) -> bytes:
        flags = (_KEY if self.key else 0) | (_LAST if self.last else 0) | self.index << _INDEX_SHIFT
        flags |= _WHOLE if self.whole else 0
        return _FIXED.pack(self.number, flags, self.time_ms) + leb128(len(self.data)) + self.data

    @classmethod
    def parse_run(cls, data: bytes) -> tuple[LayerFragment, ...]:
        """Reads fragments one behind the other that fill `data` exactly; none where it is empty. Raises BadPacket."""
        found: list[LayerFragment] = []
        place = 0
        while place < len(data):
            if len(found) == MAX_FRAGMENTS:
                raise BadPacket(f"more than {MAX_FRAGMENTS} layer fragments in a message")
            fragment, place = cls._take(data, place)
            found.append(fragment)
        return tuple(found)

    @classmethod
    def _take(cls, data: bytes, start: int) -> tuple[LayerFragment, int]:
        """The fragment at `start`, and where it ends."""
        place = start + _FIXED.size
        if place >= len(data):
            raise BadPacket(f"layer fragment is cut after {len(data) - start} bytes, inside its header")
        number, flags, time_ms = _FIXED.unpack_from(data, start)
        if flags & _ZERO:
            raise BadPacket(f"layer fragment has flags {flags:08b}, the last two bits must be zero")
        length, place = data[place], place + 1
        if length > 127:
            if place == len(data):
                raise BadPacket("layer fragment is cut inside its length")
            if not 1 <= data[place] <= 127:
                raise BadPacket("layer fragment states its length in more digits than it needs")
            length, place = length & 127 | data[place] << 7, place + 1
        end = place + length
        if end > len(data):
            raise BadPacket(f"layer fragment of {length} bytes is cut after {len(data) - place}")
        fragment = cls(
            number=number,
            time_ms=time_ms,
            key=bool(flags & _KEY),
            index=flags >> _INDEX_SHIFT & MAX_FRAGMENTS - 1,
            last=bool(flags & _LAST),
            data=data[place:end],
            whole=bool(flags & _WHOLE),
        )
        return fragment, end


class LayerAssembly:
    """Puts fragments together that come in any order, some of them twice and some never.

    Frames are given in the order in which they become whole, each once. Numbers are compared modulo 256: up to 128
    ahead of the newest is newer, what lies further back than 127 is not known any more. Holds the pieces of at most
    MAX_UNFINISHED frames, the newest ones.
    """

    def __init__(self) -> None:
        self.given_up = 0
        """Frames dropped before all of their fragments had come."""
        self.unused = 0
        """Fragments dropped: repeated, or of a frame that was given or given up before."""
        self.refused = 0
        """Fragments dropped because they contradict another one of their frame."""
        self.forget()

    def forget(self) -> None:
        """Begins anew, with counts as they are: for a new connection, or when nothing has come for 20 s, after which
        numbers and times may have wrapped."""
        self._unfinished: dict[int, _Unfinished] = {}
        self._closed: set[int] = set()  # given or given up, as far back as the window goes
        self._newest: LayerFragment | None = None

    def add(self, fragment: LayerFragment) -> LayerFrame | None:
        """The whole frame with its last missing fragment, otherwise None."""
        number = fragment.number
        held = self._unfinished.get(number)
        if held is None:
            self._advance(fragment)
            if number in self._closed:
                self.unused += 1
                return None
            held = self._unfinished[number] = _Unfinished(fragment)
        elif held.contradicts(fragment):
            self.refused += 1
            return None
        elif fragment.index in held.pieces:
            self.unused += 1
            return None
        frame = held.add(fragment)
        if frame is not None:
            del self._unfinished[number]
            self._closed.add(number)
        elif len(self._unfinished) > MAX_UNFINISHED:
            self._give_up(max(self._unfinished, key=self._age))
        return frame

    def _advance(self, fragment: LayerFragment) -> None:
        """Moves the window to a fragment that is newer than all before."""
        newest = self._newest
        if newest is not None and self._age(fragment.number) < _WINDOW:
            later_ms = (fragment.time_ms - newest.time_ms) % TIMES_MS
            if fragment.number == newest.number or not 0 < later_ms < TIMES_MS // 2:
                return
            # Older by its number, newer by its time: more than 128 frames were lost in a row, or the sender began anew.
            # Without this all would be taken for repeats until the numbers are past the newest again, for 10 s or more.
            for number in list(self._unfinished):
                self._give_up(number)
            self._closed.clear()
        self._newest = fragment
        for number in list(self._unfinished):
            if self._age(number) >= _WINDOW:
                self._give_up(number)
        self._closed = {number for number in self._closed if self._age(number) < _WINDOW}

    def _age(self, number: int) -> int:
        """How many frames before the newest, modulo 256."""
        return 0 if self._newest is None else (self._newest.number - number) % LAYER_NUMBERS

    def _give_up(self, number: int) -> None:
        del self._unfinished[number]
        self._closed.add(number)
        self.given_up += 1


class _Unfinished:
    """The pieces of one frame that have come."""

    def __init__(self, first: LayerFragment) -> None:
        self._first = first
        self._last: int | None = None
        self.pieces: dict[int, LayerFragment] = {}

    def contradicts(self, other: LayerFragment) -> bool:
        """Whether `other` cannot be of the same frame."""
        first = self._first
        if (other.key, other.time_ms, other.whole) != (first.key, first.time_ms, first.whole):
            return True
        held = self.pieces.get(other.index)
        if held is not None:
            return held != other
        if other.last:
            return self._last is not None or other.index < max(self.pieces)
        return self._last is not None and other.index > self._last

    def add(self, fragment: LayerFragment) -> LayerFrame | None:
        self.pieces[fragment.index] = fragment
        if fragment.last:
            self._last = fragment.index
        if self._last is None or len(self.pieces) <= self._last:
            return None
        data = b"".join(self.pieces[index].data for index in range(self._last + 1))
        return LayerFrame(fragment.number, fragment.time_ms, fragment.key, data, fragment.whole)


@dataclass(frozen=True)
class TimedLayerFrame:
    """A layer frame in a stream file, with its time from the stream's start. Raises BadInput for a field out of range.

    time u40 | 1: key, else 0 u8 | data
    """

    time_us: int
    key: bool
    data: bytes
    """A `whole` one without any is no frame: it says that the camera is shown no more."""
    whole: bool = False
    """Whether it is the camera's whole picture; a record of a type of its own."""

    def __post_init__(self) -> None:
        if not 0 <= self.time_us < 1 << 8 * _TIME_BYTES:
            raise BadInput(f"layer frame time is {self.time_us} us, allowed is 0 to {(1 << 8 * _TIME_BYTES) - 1}")
        least = 0 if self.whole and not self.key else 1
        if not least <= len(self.data) <= MAX_LAYER_BYTES:
            raise BadInput(f"layer frame is {len(self.data)} bytes, allowed are {least} to {MAX_LAYER_BYTES}")

    def __bytes__(self) -> bytes:
        return self.time_us.to_bytes(_TIME_BYTES, "big") + bytes([self.key]) + self.data

    @classmethod
    def parse(cls, body: bytes, *, whole: bool = False) -> TimedLayerFrame:
        """Raises BadInput for bytes that are none."""
        start = _TIME_BYTES + 1
        if len(body) < start:
            raise BadInput(f"layer frame record is {len(body)} bytes, its time and flags need {start}")
        flags = body[_TIME_BYTES]
        if flags > 1:
            raise BadInput(f"layer frame record has flags {flags}, allowed are 0 and 1")
        return cls(int.from_bytes(body[:_TIME_BYTES], "big"), bool(flags), body[start:], whole)


def _check(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise BadPacket(f"layer {name} is {value}, allowed is {least} to {most}")
