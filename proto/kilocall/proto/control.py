"""Control messages: everything two peers say beside motion, over an ordered, reliable channel.

Each is one msgpack array that begins with the message's type number. `parse_control` reads any of them;
`bytes(message)` writes it. Hashes are 64 hexadecimal digits here and 32 bytes on the wire.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass, field
from typing import ClassVar, Self, TypeVar

import msgpack

from kilocall.proto.errors import BadPacket
from kilocall.proto.limits import PROTOCOL_VERSION, SEQUENCES

__all__ = [
    "CONTROL_TYPES",
    "MAX_MESSAGE_BYTES",
    "MAX_PART_BYTES",
    "MAX_PERSONAL_BYTES",
    "MAX_PICTURE_BYTES",
    "MAX_PIECE_BYTES",
    "MAX_REFERENCE_BYTES",
    "PICTURE_FORMATS",
    "Acknowledge",
    "Bye",
    "Compared",
    "ControlMessage",
    "CropPlace",
    "FaceState",
    "HavePicture",
    "Hello",
    "MediaState",
    "Part",
    "PersonalPiece",
    "PictureRate",
    "ReceiverReport",
    "Recognise",
    "ReferenceOffer",
    "ReferencePiece",
    "Reveal",
    "SourcePicture",
    "WantPersonal",
    "WantPicture",
    "parse_control",
]

PICTURE_FORMATS = ("webp", "avif")
MAX_PICTURE_BYTES = 256 << 10
MAX_KEYPOINT_NUMBERS = 4096
MAX_MESSAGE_BYTES = MAX_PICTURE_BYTES + 4 * MAX_KEYPOINT_NUMBERS + 1024
MAX_PART_BYTES = 1000
MAX_PERSONAL_BYTES = 2_000_000
MAX_PIECE_BYTES = 16_000
MAX_REFERENCE_BYTES = 16 << 10
MAX_SIDE = 16384
MAX_TIME_US = 1 << 53


T = TypeVar("T")


class ControlMessage:
    """Base of the messages below. Making one with a field out of range raises BadPacket."""

    TYPE: ClassVar[int]
    FIELDS: ClassVar[int]

    def _fields(self) -> list[object]:
        raise NotImplementedError

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        """A message from its wire fields, which may be of any type; the number of them has been checked."""
        raise NotImplementedError

    def __bytes__(self) -> bytes:
        return bytes(msgpack.packb([self.TYPE, *self._fields()], use_single_float=True))


@dataclass(frozen=True)
class Hello(ControlMessage):
    """First message of each side: what both must share. Whoever finds a difference says Bye."""

    TYPE: ClassVar[int] = 1
    FIELDS: ClassVar[int] = 7

    family: str
    """Model family, for example "compact-256"."""
    weights_hash: str
    codebook_hash: str
    fps_numerator: int
    fps_denominator: int
    picture_size: int
    """Side of the square picture that the models work on, pixels."""
    version: int = PROTOCOL_VERSION

    def __post_init__(self) -> None:
        if _integer(self, "version", self.version, 0, 255) != PROTOCOL_VERSION:
            raise BadPacket(
                f"peer speaks protocol version {self.version}, this side speaks {PROTOCOL_VERSION}"
            )
        _text(self, "family", self.family, 64)
        _hash(self, "weights_hash", self.weights_hash)
        _hash(self, "codebook_hash", self.codebook_hash)
        _integer(self, "fps_numerator", self.fps_numerator, 1, 1_000_000)
        _integer(self, "fps_denominator", self.fps_denominator, 1, 1_000_000)
        if not 1 <= self.fps_numerator / self.fps_denominator <= 240:
            raise BadPacket(f"Hello fps is {self.fps_numerator}/{self.fps_denominator}, allowed is 1 to 240")
        _integer(self, "picture_size", self.picture_size, 16, 4096)

    def _fields(self) -> list[object]:
        weights, codebook = bytes.fromhex(self.weights_hash), bytes.fromhex(self.codebook_hash)
        fps = (self.fps_numerator, self.fps_denominator)
        return [self.version, self.family, weights, codebook, *fps, self.picture_size]

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        version, family, weights, codebook, numerator, denominator, size = fields
        return cls(
            family=_of(cls, "family", family, str),
            weights_hash=_hex(cls, "weights_hash", weights),
            codebook_hash=_hex(cls, "codebook_hash", codebook),
            fps_numerator=_of(cls, "fps_numerator", numerator, int),
            fps_denominator=_of(cls, "fps_denominator", denominator, int),
            picture_size=_of(cls, "picture_size", size, int),
            version=_of(cls, "version", version, int),
        )


@dataclass(frozen=True)
class SourcePicture(ControlMessage):
    """The picture that the receiver animates, or, without data, the offer of one that it may hold already."""

    TYPE: ClassVar[int] = 2
    FIELDS: ClassVar[int] = 4

    format: str
    """One of PICTURE_FORMATS."""
    data: bytes
    """The encoded picture, at most 256 KiB; empty: an offer, WantPicture asks for the rest."""
    picture_hash: str = ""
    """SHA-256 of the encoded picture; computed when left out."""
    keypoints: tuple[float, ...] | None = field(default=None)
    """The family's own numbers for this picture, rounded to float32; None: the receiver extracts them."""

    def __post_init__(self) -> None:
        if self.format not in PICTURE_FORMATS:
            raise BadPacket(
                f"SourcePicture format is {self.format!r}, allowed are {', '.join(PICTURE_FORMATS)}"
            )
        if len(self.data) > MAX_PICTURE_BYTES:
            raise BadPacket(f"SourcePicture data is {len(self.data)} bytes, most is {MAX_PICTURE_BYTES}")
        if not self.picture_hash and self.data:
            object.__setattr__(self, "picture_hash", hashlib.sha256(self.data).hexdigest())
        _hash(self, "picture_hash", self.picture_hash)
        if self.data and hashlib.sha256(self.data).hexdigest() != self.picture_hash:
            raise BadPacket("SourcePicture data does not have the stated hash")
        if self.keypoints is not None:
            if len(self.keypoints) > MAX_KEYPOINT_NUMBERS:
                count = len(self.keypoints)
                raise BadPacket(
                    f"SourcePicture keypoints has {count} numbers, most is {MAX_KEYPOINT_NUMBERS}"
                )
            rounded = tuple(_float32(self, "keypoints", value) for value in self.keypoints)
            object.__setattr__(self, "keypoints", rounded)

    def offer(self) -> SourcePicture:
        """The same picture without its data and numbers."""
        return SourcePicture(self.format, b"", self.picture_hash)

    def _fields(self) -> list[object]:
        keypoints = self.keypoints
        numbers = None if keypoints is None else struct.pack(f">{len(keypoints)}f", *keypoints)
        return [bytes.fromhex(self.picture_hash), PICTURE_FORMATS.index(self.format), self.data, numbers]

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        picture_hash, format_number, data, numbers = fields
        number = _of(cls, "format", format_number, int)
        if not 0 <= number < len(PICTURE_FORMATS):
            raise BadPacket(
                f"SourcePicture format is number {number}, allowed is 0 to {len(PICTURE_FORMATS) - 1}"
            )
        keypoints = None
        if numbers is not None:
            packed = _of(cls, "keypoints", numbers, bytes)
            if len(packed) % 4 or len(packed) > 4 * MAX_KEYPOINT_NUMBERS:
                raise BadPacket(
                    f"SourcePicture keypoints is {len(packed)} bytes, "
                    f"allowed are multiples of 4 up to {4 * MAX_KEYPOINT_NUMBERS}"
                )
            keypoints = struct.unpack(f">{len(packed) // 4}f", packed)
        digest = _hex(cls, "picture_hash", picture_hash)
        return cls(PICTURE_FORMATS[number], _of(cls, "data", data, bytes), digest, keypoints)


@dataclass(frozen=True)
class CropPlace(ControlMessage):
    """Where the square that is coded lies in the sender's full frame, from `time_us` on."""

    TYPE: ClassVar[int] = 3
    FIELDS: ClassVar[int] = 6

    time_us: int
    """Capture time of the first frame this holds for; the clock of the motion packets, not cut to 65 s."""
    x0: float
    """Left edge in pixels of the full frame, rounded to float32; may lie outside."""
    y0: float
    side: float
    """Width and height in pixels, more than 0."""
    frame_width: int
    frame_height: int

    def __post_init__(self) -> None:
        _integer(self, "time_us", self.time_us, 0, MAX_TIME_US)
        for name in ("x0", "y0", "side"):
            value = _float32(self, name, getattr(self, name))
            least = -MAX_SIDE if name != "side" else 1
            if not least <= value <= 2 * MAX_SIDE:
                raise BadPacket(f"CropPlace {name} is {value:g}, allowed is {least} to {2 * MAX_SIDE}")
            object.__setattr__(self, name, value)
        _integer(self, "frame_width", self.frame_width, 1, MAX_SIDE)
        _integer(self, "frame_height", self.frame_height, 1, MAX_SIDE)

    def same_place(self, other: CropPlace | None) -> bool:
        """Whether only the time differs."""
        return other is not None and self._fields()[1:] == other._fields()[1:]

    def _fields(self) -> list[object]:
        return [self.time_us, self.x0, self.y0, self.side, self.frame_width, self.frame_height]

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        time_us, x0, y0, side, width, height = fields
        return cls(
            _of(cls, "time_us", time_us, int),
            _of(cls, "x0", x0, float),
            _of(cls, "y0", y0, float),
            _of(cls, "side", side, float),
            _of(cls, "frame_width", width, int),
            _of(cls, "frame_height", height, int),
        )


@dataclass(frozen=True)
class Acknowledge(ControlMessage):
    """The receiver has decoded this motion packet and will hold its state for the next 63 packets."""

    TYPE: ClassVar[int] = 4
    FIELDS: ClassVar[int] = 1

    sequence: int

    def __post_init__(self) -> None:
        _integer(self, "sequence", self.sequence, 0, SEQUENCES - 1)

    def _fields(self) -> list[object]:
        return [self.sequence]

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        return cls(_of(cls, "sequence", fields[0], int))


@dataclass(frozen=True)
class Bye(ControlMessage):
    """The last message of a side."""

    TYPE: ClassVar[int] = 5
    FIELDS: ClassVar[int] = 1

    reason: str
    """For people; at most 200 bytes of UTF-8."""

    def __post_init__(self) -> None:
        _text(self, "reason", self.reason, 200)

    def _fields(self) -> list[object]:
        return [self.reason]

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        return cls(_of(cls, "reason", fields[0], str))


@dataclass(frozen=True)
class WantPicture(ControlMessage):
    """Answer to an offered picture that the receiver does not hold."""

    TYPE: ClassVar[int] = 6
    FIELDS: ClassVar[int] = 1

    picture_hash: str

    def __post_init__(self) -> None:
        _hash(self, "picture_hash", self.picture_hash)

    def _fields(self) -> list[object]:
        return [bytes.fromhex(self.picture_hash)]

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        return cls(_hex(cls, "picture_hash", fields[0]))


@dataclass(frozen=True)
class ReceiverReport(ControlMessage):
    """What became of the sender's motion packets since the report before; every second or two.

    The sender knows when it sent packet `highest`, so its round trip time is now - then - held_ms.
    """

    TYPE: ClassVar[int] = 7
    FIELDS: ClassVar[int] = 8

    highest: int
    """Sequence number of the newest motion packet that has arrived."""
    held_ms: int
    """From its arrival to this report, at most 60 s."""
    interval_ms: int
    """What the counts below cover, at most 60 s."""
    expected: int
    """Packets that should have arrived: how far `highest` has moved."""
    lost: int
    """How many of them had not arrived, 0 to `expected`."""
    late: int
    """How many arrived too late to be played."""
    delay_ms: int
    """How much longer than the shortest of late the packets' way now takes, at most 60 s."""
    received_bytes: int
    """Everything that arrived from this peer, IP headers included."""

    def __post_init__(self) -> None:
        _integer(self, "highest", self.highest, 0, SEQUENCES - 1)
        for name in ("held_ms", "interval_ms", "delay_ms"):
            _integer(self, name, getattr(self, name), 0, 60_000)
        _integer(self, "expected", self.expected, 0, SEQUENCES - 1)
        _integer(self, "lost", self.lost, 0, self.expected)
        _integer(self, "late", self.late, 0, SEQUENCES - 1)
        _integer(self, "received_bytes", self.received_bytes, 0, (1 << 32) - 1)

    def _fields(self) -> list[object]:
        times = (self.held_ms, self.interval_ms)
        return [self.highest, *times, self.expected, self.lost, self.late, self.delay_ms, self.received_bytes]

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        names = ("highest", "held_ms", "interval_ms", "expected", "lost", "late", "delay_ms", "received_bytes")
        return cls(*(_of(cls, name, value, int) for name, value in zip(names, fields, strict=True)))


@dataclass(frozen=True)
class FaceState(ControlMessage):
    """Whether the sender sees a face; while it does not, no motion is sent."""

    TYPE: ClassVar[int] = 8
    FIELDS: ClassVar[int] = 2

    seen: bool
    time_us: int
    """Since when; the clock of the motion packets, not cut to 65 s."""

    def __post_init__(self) -> None:
        _integer(self, "time_us", self.time_us, 0, MAX_TIME_US)

    def _fields(self) -> list[object]:
        return [self.seen, self.time_us]

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        return cls(_of(cls, "seen", fields[0], bool), _of(cls, "time_us", fields[1], int))


@dataclass(frozen=True)
class Part(ControlMessage):
    """A piece of a message longer than MAX_PART_BYTES, so that motion gets through between the pieces.

    The parts of one message follow each other without those of another between them; whole messages may.
    """

    TYPE: ClassVar[int] = 9
    FIELDS: ClassVar[int] = 2

    left: int
    """Bytes of the message after this part; 0: this is the last."""
    data: bytes
    """1 to MAX_PART_BYTES bytes."""

    def __post_init__(self) -> None:
        _integer(self, "left", self.left, 0, MAX_MESSAGE_BYTES)
        if not 1 <= len(self.data) <= MAX_PART_BYTES:
            raise BadPacket(f"Part data is {len(self.data)} bytes, allowed are 1 to {MAX_PART_BYTES}")

    @classmethod
    def split(cls, message: bytes) -> list[Part]:
        """Parts that together are `message`."""
        size = len(message)
        return [
            cls(max(0, size - start - MAX_PART_BYTES), message[start : start + MAX_PART_BYTES])
            for start in range(0, size, MAX_PART_BYTES)
        ]

    def _fields(self) -> list[object]:
        return [self.left, self.data]

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        return cls(_of(cls, "left", fields[0], int), _of(cls, "data", fields[1], bytes))


@dataclass(frozen=True)
class HavePicture(ControlMessage):
    """Answer to a picture, offered or whole: the receiver is ready to move it.

    The sender's motion refers to it from then on; a FaceState says from which frame.
    """

    TYPE: ClassVar[int] = 10
    FIELDS: ClassVar[int] = 1

    picture_hash: str

    def __post_init__(self) -> None:
        _hash(self, "picture_hash", self.picture_hash)

    def _fields(self) -> list[object]:
        return [bytes.fromhex(self.picture_hash)]

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        return cls(_hex(cls, "picture_hash", fields[0]))


@dataclass(frozen=True)
class MediaState(ControlMessage):
    """What the sender has switched off on purpose, for the other side to show; both on until it is sent."""

    TYPE: ClassVar[int] = 11
    FIELDS: ClassVar[int] = 2

    muted: bool
    camera_off: bool

    def _fields(self) -> list[object]:
        return [self.muted, self.camera_off]

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        return cls(_of(cls, "muted", fields[0], bool), _of(cls, "camera_off", fields[1], bool))


@dataclass(frozen=True)
class PersonalPiece(ControlMessage):
    """A piece of a file that makes the receiver's renderer the sender's own, or, with no data, the offer of one.

    Pieces are asked for one by one, so that pictures get through between them.
    """

    TYPE: ClassVar[int] = 12
    FIELDS: ClassVar[int] = 4

    file_hash: str
    """SHA-256 of the whole file."""
    size: int
    """Bytes of the whole file, 1 to MAX_PERSONAL_BYTES."""
    offset: int
    """Where in the file the piece begins."""
    data: bytes
    """At most MAX_PIECE_BYTES."""

    def __post_init__(self) -> None:
        _hash(self, "file_hash", self.file_hash)
        _integer(self, "size", self.size, 1, MAX_PERSONAL_BYTES)
        if len(self.data) > MAX_PIECE_BYTES:
            raise BadPacket(f"PersonalPiece data is {len(self.data)} bytes, most is {MAX_PIECE_BYTES}")
        _integer(self, "offset", self.offset, 0, self.size - len(self.data))

    def _fields(self) -> list[object]:
        return [bytes.fromhex(self.file_hash), self.size, self.offset, self.data]

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        file_hash, size, offset, data = fields
        return cls(
            _hex(cls, "file_hash", file_hash),
            _of(cls, "size", size, int),
            _of(cls, "offset", offset, int),
            _of(cls, "data", data, bytes),
        )


@dataclass(frozen=True)
class WantPersonal(ControlMessage):
    """Asks for the next piece of an offered speaker adapter; `offset` is its size once all is there and can be used."""

    TYPE: ClassVar[int] = 13
    FIELDS: ClassVar[int] = 2

    file_hash: str
    offset: int

    def __post_init__(self) -> None:
        _hash(self, "file_hash", self.file_hash)
        _integer(self, "offset", self.offset, 0, MAX_PERSONAL_BYTES)

    def _fields(self) -> list[object]:
        return [bytes.fromhex(self.file_hash), self.offset]

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        return cls(_hex(cls, "file_hash", fields[0]), _of(cls, "offset", fields[1], int))


@dataclass(frozen=True)
class ReferenceOffer(ControlMessage):
    """A further picture of the speaker of a source picture. WantPicture asks for it, HavePicture says that it is held.

    Motion never refers to it: who receives it shows each frame on the picture that is nearest.
    """

    TYPE: ClassVar[int] = 14
    FIELDS: ClassVar[int] = 4

    base_hash: str
    """SHA-256 of the source picture."""
    picture_hash: str
    """SHA-256 of the picture's data."""
    format: str
    size: int
    """Bytes of data, 1 to MAX_REFERENCE_BYTES."""

    def __post_init__(self) -> None:
        _hash(self, "base_hash", self.base_hash)
        _hash(self, "picture_hash", self.picture_hash)
        if self.format not in PICTURE_FORMATS:
            raise BadPacket(f"ReferenceOffer format is {self.format!r}, allowed are {', '.join(PICTURE_FORMATS)}")
        _integer(self, "size", self.size, 1, MAX_REFERENCE_BYTES)

    def _fields(self) -> list[object]:
        number = PICTURE_FORMATS.index(self.format)
        return [bytes.fromhex(self.base_hash), bytes.fromhex(self.picture_hash), number, self.size]

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        base_hash, picture_hash, format_number, size = fields
        number = _of(cls, "format", format_number, int)
        if not 0 <= number < len(PICTURE_FORMATS):
            raise BadPacket(f"ReferenceOffer format is number {number}, allowed is 0 to {len(PICTURE_FORMATS) - 1}")
        digests = (_hex(cls, "base_hash", base_hash), _hex(cls, "picture_hash", picture_hash))
        return cls(*digests, PICTURE_FORMATS[number], _of(cls, "size", size, int))


@dataclass(frozen=True)
class ReferencePiece(ControlMessage):
    """Some bytes of an offered picture that was asked for, in order, some seconds apart."""

    TYPE: ClassVar[int] = 15
    FIELDS: ClassVar[int] = 3

    picture_hash: str
    offset: int
    """Where in the picture's data the piece begins."""
    data: bytes
    """1 to MAX_PART_BYTES bytes."""

    def __post_init__(self) -> None:
        _hash(self, "picture_hash", self.picture_hash)
        if not 1 <= len(self.data) <= MAX_PART_BYTES:
            raise BadPacket(f"ReferencePiece data is {len(self.data)} bytes, allowed are 1 to {MAX_PART_BYTES}")
        _integer(self, "offset", self.offset, 0, MAX_REFERENCE_BYTES - len(self.data))

    def _fields(self) -> list[object]:
        return [bytes.fromhex(self.picture_hash), self.offset, self.data]

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        picture_hash, offset, data = fields
        return cls(
            _hex(cls, "picture_hash", picture_hash), _of(cls, "offset", offset, int), _of(cls, "data", data, bytes)
        )


@dataclass(frozen=True)
class Reveal(ControlMessage):
    """The nonce that this side had committed to before the connection was made; see `trust.py`."""

    TYPE: ClassVar[int] = 16
    FIELDS: ClassVar[int] = 1

    nonce: bytes
    """32 bytes."""

    def __post_init__(self) -> None:
        _thirty_two(self, "nonce", self.nonce)

    def _fields(self) -> list[object]:
        return [self.nonce]

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        return cls(_of(cls, "nonce", fields[0], bytes))


@dataclass(frozen=True)
class Recognise(ControlMessage):
    """Shows that this side was there when the words of an earlier connection were compared."""

    TYPE: ClassVar[int] = 17
    FIELDS: ClassVar[int] = 1

    proof: bytes
    """32 bytes."""

    def __post_init__(self) -> None:
        _thirty_two(self, "proof", self.proof)

    def _fields(self) -> list[object]:
        return [self.proof]

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        return cls(_of(cls, "proof", fields[0], bytes))


@dataclass(frozen=True)
class Compared(ControlMessage):
    """The person on this side has said that the words of this connection are the same."""

    TYPE: ClassVar[int] = 18
    FIELDS: ClassVar[int] = 0

    def _fields(self) -> list[object]:
        return []

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        return cls()


@dataclass(frozen=True)
class PictureRate(ControlMessage):
    """How many pictures a second the sender of this message can show; more of them are of no use to it.

    Not said by who can show all. Who does not know the message sends on as before.
    """

    TYPE: ClassVar[int] = 19
    FIELDS: ClassVar[int] = 1

    millihertz: int
    """Pictures in a thousand seconds, 1000 to 240000."""

    def __post_init__(self) -> None:
        _integer(self, "millihertz", self.millihertz, 1000, 240_000)

    @property
    def fps(self) -> float:
        return self.millihertz / 1000

    def _fields(self) -> list[object]:
        return [self.millihertz]

    @classmethod
    def _from(cls, fields: list[object]) -> Self:
        return cls(_of(cls, "millihertz", fields[0], int))


CONTROL_TYPES: dict[int, type[ControlMessage]] = {
    message.TYPE: message
    for message in (
        Hello,
        SourcePicture,
        CropPlace,
        Acknowledge,
        Bye,
        WantPicture,
        ReceiverReport,
        FaceState,
        Part,
        HavePicture,
        MediaState,
        PersonalPiece,
        WantPersonal,
        ReferenceOffer,
        ReferencePiece,
        Reveal,
        Recognise,
        Compared,
        PictureRate,
    )
}
"""Message class by type number."""


def parse_control(data: bytes) -> ControlMessage:
    """Reads one message that fills `data` exactly. Raises BadPacket with the reason."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise BadPacket(f"control message is {len(data)} bytes, most is {MAX_MESSAGE_BYTES}")
    try:
        value = msgpack.unpackb(data, max_array_len=16, max_map_len=0, max_ext_len=0, use_list=True)
    # The library raises subclasses of ValueError, and its own for a value that breaks off or nests too deep.
    except (ValueError, msgpack.UnpackException) as error:
        raise BadPacket(f"control message of {len(data)} bytes is not one msgpack value: {error}") from None
    if not isinstance(value, list) or not value or type(value[0]) is not int:
        raise BadPacket("control message is not a msgpack array that begins with a type number")
    number, *fields = value
    message = CONTROL_TYPES.get(number)
    if message is None:
        known = ", ".join(f"{key} {kind.__name__}" for key, kind in CONTROL_TYPES.items())
        raise BadPacket(f"control message has type {number}, known are {known}")
    if message is Hello and fields and fields[0] != PROTOCOL_VERSION:
        # Before the fields are counted: another version may well have more of them.
        raise BadPacket(
            f"peer speaks protocol version {fields[0]!r:.20}, this side speaks {PROTOCOL_VERSION}"
        )
    if len(fields) != message.FIELDS:
        raise BadPacket(f"{message.__name__} has {len(fields)} fields, needs {message.FIELDS}")
    return message._from(fields)


def _of(message: type[ControlMessage], name: str, value: object, kind: type[T]) -> T:
    # Not isinstance: True is an int.
    if type(value) is not kind:
        raise BadPacket(f"{message.__name__} {name} is of type {type(value).__name__}, not {kind.__name__}")
    return value


def _hex(message: type[ControlMessage], name: str, value: object) -> str:
    return _of(message, name, value, bytes).hex()


def _hash(message: ControlMessage, name: str, value: str) -> None:
    if len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise BadPacket(f"{type(message).__name__} {name} is {value!r:.80}, not 64 hexadecimal digits")


def _thirty_two(message: ControlMessage, name: str, value: bytes) -> None:
    if len(value) != 32:
        raise BadPacket(f"{type(message).__name__} {name} is {len(value)} bytes, not 32")


def _text(message: ControlMessage, name: str, value: str, most: int) -> None:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise BadPacket(f"{type(message).__name__} {name} holds half a surrogate pair") from None
    if size > most:
        raise BadPacket(f"{type(message).__name__} {name} is {size} bytes, most is {most}")


def _integer(message: ControlMessage, name: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise BadPacket(f"{type(message).__name__} {name} is {value}, allowed is {least} to {most}")
    return value


def _float32(message: ControlMessage, name: str, value: float) -> float:
    try:
        rounded: float = struct.unpack(">f", struct.pack(">f", value))[0]
    except OverflowError:
        rounded = math.inf
    if not math.isfinite(rounded):
        raise BadPacket(f"{type(message).__name__} {name} is {value}, not a finite float32")
    return rounded
