"""The motion packet: a few frames of coded motion, as one msgpack extension value.

    C7 length 01 | sequence u16 | time u16 | level 4, frames - 1 3, back 6, spacing 11 bits | payload

An extension value instead of an array: 10 bytes of header instead of 13, and at ten packets a second every
saved group of four bytes is 320 bit/s. The extension code is the packet's protocol version. Numbers are
big-endian. `wire.md` beside this file has an example.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol

import msgpack

from kilocall.proto.errors import BadPacket
from kilocall.proto.limits import HISTORY, LEVELS, MAX_FRAMES, MAX_PAYLOAD_BYTES, PROTOCOL_VERSION, SEQUENCES

__all__ = [
    "HEADER_BYTES",
    "MAX_SPACING_US",
    "SPACING_UNIT_US",
    "TIMES_MS",
    "Coded",
    "MotionPacket",
    "time_in_full_us",
    "wire_time_ms",
]

SPACING_UNIT_US = 100
MAX_SPACING_US = 2047 * SPACING_UNIT_US
TIMES_MS = 1 << 16
"""Packet times count milliseconds modulo this, 65.5 s."""

_FIXED = struct.Struct(">HHBH")  # sequence, time, then 24 bits
HEADER_BYTES = 3 + _FIXED.size
"""Bytes of a packet beside its payload, for the usual payload of 10 to 248 bytes."""


class Coded(Protocol):
    """Coded frames as the codec makes and reads them; `MotionPacket` has all of it, too."""

    @property
    def sequence(self) -> int: ...
    @property
    def reference(self) -> int | None: ...
    @property
    def level(self) -> int: ...
    @property
    def frame_count(self) -> int: ...
    @property
    def payload(self) -> bytes: ...


@dataclass(frozen=True)
class MotionPacket:
    """One packet. Raises BadPacket when a field is out of its range.

    bytes(packet) is what goes on the wire; MotionPacket.parse(data) is its inverse.
    """

    sequence: int
    """0..65535; counts packets and wraps."""
    time_ms: int
    """Time of the first frame on the sender's clock, in milliseconds modulo 65536."""
    spacing_us: int
    """Time from frame to frame, a multiple of 100 up to 204700; 0 only when there is one frame."""
    frame_count: int
    """1..8."""
    reference: int | None
    """Sequence number of the packet that the first frame is predicted from, 1..63 back; None: key packet."""
    level: int
    """Quality level 0..8."""
    payload: bytes
    """Range-coded motion, at most MAX_PAYLOAD_BYTES."""

    def __post_init__(self) -> None:
        _check("sequence", self.sequence, 0, SEQUENCES - 1)
        _check("time_ms", self.time_ms, 0, TIMES_MS - 1)
        _check("frame_count", self.frame_count, 1, MAX_FRAMES)
        _check("level", self.level, 0, LEVELS - 1)
        _check("spacing_us", self.spacing_us, 0 if self.frame_count == 1 else SPACING_UNIT_US, MAX_SPACING_US)
        if self.spacing_us % SPACING_UNIT_US:
            raise BadPacket(f"motion packet spacing_us is {self.spacing_us}, not a multiple of {SPACING_UNIT_US}")
        if self.reference is not None:
            _check("reference", self.reference, 0, SEQUENCES - 1)
            _check("reference's distance", self.back, 1, HISTORY - 1)
        if len(self.payload) > MAX_PAYLOAD_BYTES:
            raise BadPacket(f"motion packet payload is {len(self.payload)} bytes, most is {MAX_PAYLOAD_BYTES}")

    @classmethod
    def carry(cls, coded: Coded, time_us: int, spacing_us: int) -> MotionPacket:
        """A packet for coded frames, the first captured at `time_us`; times are rounded to fit."""
        units = (spacing_us + SPACING_UNIT_US // 2) // SPACING_UNIT_US
        return cls(
            sequence=coded.sequence,
            time_ms=wire_time_ms(time_us),
            spacing_us=0 if coded.frame_count == 1 else max(1, min(units, 2047)) * SPACING_UNIT_US,
            frame_count=coded.frame_count,
            reference=coded.reference,
            level=coded.level,
            payload=coded.payload,
        )

    @property
    def is_key(self) -> bool:
        """Whether the packet can be decoded without any other."""
        return self.reference is None

    @property
    def back(self) -> int:
        """How many packets back the reference is; 0 for a key packet."""
        return 0 if self.reference is None else (self.sequence - self.reference) % SEQUENCES

    def time_us(self, near_us: int) -> int:
        """Time of the first frame in full: the moment nearest to `near_us` that ends in `time_ms`."""
        return time_in_full_us(self.time_ms, near_us)

    def frame_times_us(self, near_us: int) -> list[int]:
        """Times of all frames in full, see `time_us`."""
        first = self.time_us(near_us)
        return [first + index * self.spacing_us for index in range(self.frame_count)]

    def __bytes__(self) -> bytes:
        bits = self.level << 20 | (self.frame_count - 1) << 17 | self.back << 11 | self.spacing_us // SPACING_UNIT_US
        fixed = _FIXED.pack(self.sequence, self.time_ms, bits >> 16, bits & 0xFFFF)
        return bytes(msgpack.packb(msgpack.ExtType(PROTOCOL_VERSION, fixed + self.payload)))

    @classmethod
    def parse(cls, data: bytes) -> MotionPacket:
        """Reads one packet that fills `data` exactly. Raises BadPacket with the reason."""
        most = HEADER_BYTES + 2 + MAX_PAYLOAD_BYTES
        if len(data) > most:
            raise BadPacket(f"motion packet is {len(data)} bytes, most is {most}")
        try:
            value = msgpack.unpackb(data, max_ext_len=most, max_array_len=0, max_map_len=0)
        # The library raises subclasses of ValueError, and its own for a value that breaks off or nests.
        except (ValueError, msgpack.UnpackException) as error:
            raise BadPacket(f"motion packet of {len(data)} bytes is not one msgpack value: {error}") from None
        if not isinstance(value, msgpack.ExtType):
            raise BadPacket(f"motion packet is a msgpack {type(value).__name__}, not an extension value")
        if value.code != PROTOCOL_VERSION:
            raise BadPacket(f"motion packet has protocol version {value.code}, this side reads {PROTOCOL_VERSION}")
        body: bytes = value.data
        if len(body) < _FIXED.size:
            raise BadPacket(f"motion packet body is {len(body)} bytes, its header needs {_FIXED.size}")
        sequence, time_ms, high, low = _FIXED.unpack_from(body)
        bits = high << 16 | low
        back = bits >> 11 & 63
        packet = cls(
            sequence=sequence,
            time_ms=time_ms,
            spacing_us=(bits & 2047) * SPACING_UNIT_US,
            frame_count=(bits >> 17 & 7) + 1,
            reference=(sequence - back) % SEQUENCES if back else None,
            level=bits >> 20,
            payload=body[_FIXED.size :],
        )
        if bytes(packet) != data:
            raise BadPacket("motion packet states its length in more bytes than it needs")
        return packet


def wire_time_ms(time_us: int) -> int:
    """A capture time as a packet has it: rounded to milliseconds, modulo TIMES_MS."""
    return (time_us + 500) // 1000 % TIMES_MS


def time_in_full_us(time_ms: int, near_us: int) -> int:
    """The moment nearest to `near_us` that a packet has as `time_ms`."""
    near_ms = near_us // 1000
    ahead = (time_ms - near_ms + TIMES_MS // 2) % TIMES_MS - TIMES_MS // 2
    return (near_ms + ahead) * 1000


def _check(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise BadPacket(f"motion packet {name} is {value}, allowed is {least} to {most}")
