"""Control messages: everything two peers say beside motion, over an ordered, reliable channel.

Each is one msgpack array: the message's type number, then its fields. `parse_control` reads any of them;
`bytes(message)` writes it. A message declares its number and, beside each field's type, what is allowed in it.
"""

# Annotations are read when a class is made, so they must not be postponed here.
import hashlib
import inspect
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Final, Self

import msgpack

from kilocall.proto.errors import BadPacket
from kilocall.proto.layer_frame import LAYER_NUMBERS
from kilocall.proto.limits import PROTOCOL_VERSION, SEQUENCES
from kilocall.proto.wire_fields import Choice, Data, Field, Flag, Float32, Float32s, HexDigest, Integer, OrNil, Text

__all__ = [
    "CONTROL_TYPES",
    "MAX_LAYER_BPS",
    "MAX_MESSAGE_BYTES",
    "MAX_PART_BYTES",
    "MAX_PERSONAL_BYTES",
    "MAX_PICTURE_BYTES",
    "MAX_PIECE_BYTES",
    "MAX_REFERENCE_BYTES",
    "PICTURE_FORMATS",
    "Acknowledge",
    "Bye",
    "CameraState",
    "Compared",
    "ControlMessage",
    "CropPlace",
    "FaceState",
    "HavePicture",
    "Hello",
    "LayerReport",
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
MAX_LAYER_BPS = 64_000
MAX_SIDE = 16384
MAX_TIME_US = 1 << 53


#: A SHA-256 in hexadecimal digits; 32 bytes on the wire.
Hash = Annotated[str, HexDigest()]
PictureFormat = Annotated[str, Choice(PICTURE_FORMATS)]
SequenceNumber = Annotated[int, Integer(0, SEQUENCES - 1)]
#: Capture time; the clock of the motion packets, not cut to 65 s.
CaptureTime = Annotated[int, Integer(0, MAX_TIME_US)]
#: At most a minute.
Milliseconds = Annotated[int, Integer(0, 60_000)]

CONTROL_TYPES: Final[dict[int, type["ControlMessage"]]] = {}
"""Message class by type number."""


class ControlMessage:
    """Base of the messages below. Making one with a field out of range raises BadPacket."""

    TYPE: ClassVar[int]
    KINDS: ClassVar[dict[str, Field[Any]]]
    """Of every field, in the order of the wire."""

    def __init_subclass__(cls, *, number: int, order: tuple[str, ...] = ()) -> None:
        """`order` is that of the fields on the wire, where they are declared in another."""
        kinds = {name: hint.__metadata__[0] for name, hint in inspect.get_annotations(cls).items()}
        cls.TYPE, cls.KINDS = number, {name: kinds[name] for name in order or kinds}
        CONTROL_TYPES[number] = cls

    def __post_init__(self) -> None:
        for name, kind in sorted(self.KINDS.items(), key=lambda item: item[1].depends):
            value = getattr(self, name)
            kept = kind.checked(f"{type(self).__name__} {name}", value, self)
            if kept is not value:
                object.__setattr__(self, name, kept)

    @classmethod
    def from_fields(cls, fields: list[object]) -> Self:
        """A message from its wire fields, which may be of any type and number. Raises BadPacket."""
        if len(fields) != len(cls.KINDS):
            raise BadPacket(f"{cls.__name__} has {len(fields)} fields, needs {len(cls.KINDS)}")
        read = zip(cls.KINDS.items(), fields, strict=True)
        return cls(**{name: kind.read(f"{cls.__name__} {name}", value) for (name, kind), value in read})

    def __bytes__(self) -> bytes:
        fields = [kind.write(getattr(self, name)) for name, kind in self.KINDS.items()]
        return bytes(msgpack.packb([self.TYPE, *fields], use_single_float=True))


class _Version(Integer):
    """This side's alone."""

    def checked(self, where: str, value: int, message: object) -> int:
        if super().checked(where, value, message) != PROTOCOL_VERSION:
            raise BadPacket(f"peer speaks protocol version {value}, this side speaks {PROTOCOL_VERSION}")
        return value


@dataclass(frozen=True)
class Hello(
    ControlMessage,
    number=1,
    order=("version", "family", "weights_hash", "codebook_hash", "fps_numerator", "fps_denominator", "picture_size"),
):
    """First message of each side: what both must share. Whoever finds a difference says Bye."""

    family: Annotated[str, Text(64)]
    """Model family, for example "compact-256"."""
    weights_hash: Hash
    codebook_hash: Hash
    fps_numerator: Annotated[int, Integer(1, 1_000_000)]
    fps_denominator: Annotated[int, Integer(1, 1_000_000)]
    picture_size: Annotated[int, Integer(16, 4096)]
    """Side of the square picture that the models work on, pixels."""
    version: Annotated[int, _Version(0, 255)] = PROTOCOL_VERSION

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.fps <= 240:
            raise BadPacket(f"Hello fps is {self.fps_numerator}/{self.fps_denominator}, allowed is 1 to 240")

    @property
    def fps(self) -> float:
        return self.fps_numerator / self.fps_denominator

    def same_weights(self, other: "Hello") -> bool:
        """Whether both sides' networks and coding are the same, and motion of one means the same to the other."""
        return (self.weights_hash, self.codebook_hash) == (other.weights_hash, other.codebook_hash)


@dataclass(frozen=True)
class SourcePicture(ControlMessage, number=2, order=("picture_hash", "format", "data", "keypoints")):
    """The picture that the receiver animates, or, without data, the offer of one that it may hold already."""

    format: PictureFormat
    data: Annotated[bytes, Data(0, MAX_PICTURE_BYTES)]
    """The encoded picture; empty: an offer, WantPicture asks for the rest."""
    picture_hash: Hash = ""
    """SHA-256 of the encoded picture; computed when left out."""
    keypoints: Annotated[tuple[float, ...] | None, Float32s(MAX_KEYPOINT_NUMBERS)] = None
    """The family's own numbers for this picture, rounded to float32; None: the receiver extracts them."""

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.data).hexdigest() if self.data else self.picture_hash
        if not self.picture_hash:
            object.__setattr__(self, "picture_hash", digest)
        super().__post_init__()
        if self.picture_hash != digest:
            raise BadPacket("SourcePicture data does not have the stated hash")

    def offer(self) -> "SourcePicture":
        """The same picture without its data and numbers."""
        return SourcePicture(self.format, b"", self.picture_hash)


@dataclass(frozen=True)
class CropPlace(ControlMessage, number=3):
    """Where the square that is coded lies in the sender's full frame, from `time_us` on."""

    time_us: CaptureTime
    """Of the first frame this holds for."""
    x0: Annotated[float, Float32(-MAX_SIDE, 2 * MAX_SIDE)]
    """Left edge in pixels of the full frame; may lie outside."""
    y0: Annotated[float, Float32(-MAX_SIDE, 2 * MAX_SIDE)]
    side: Annotated[float, Float32(1, 2 * MAX_SIDE)]
    """Width and height in pixels."""
    frame_width: Annotated[int, Integer(1, MAX_SIDE)]
    frame_height: Annotated[int, Integer(1, MAX_SIDE)]

    def same_place(self, other: "CropPlace | None") -> bool:
        """Whether only the time differs."""
        return other is not None and replace(other, time_us=self.time_us) == self


@dataclass(frozen=True)
class Acknowledge(ControlMessage, number=4):
    """The receiver has decoded this motion packet and will hold its state for the next 63 packets."""

    sequence: SequenceNumber


@dataclass(frozen=True)
class Bye(ControlMessage, number=5):
    """The last message of a side."""

    reason: Annotated[str, Text(200)]
    """For people."""


@dataclass(frozen=True)
class WantPicture(ControlMessage, number=6):
    """Answer to an offered picture that the receiver does not hold."""

    picture_hash: Hash


@dataclass(frozen=True)
class ReceiverReport(ControlMessage, number=7):
    """What became of the sender's motion packets since the report before; every second or two.

    The sender knows when it sent packet `highest`, so its round trip time is now - then - held_ms.
    """

    highest: SequenceNumber
    """Sequence number of the newest motion packet that has arrived."""
    held_ms: Milliseconds
    """From its arrival to this report."""
    interval_ms: Milliseconds
    """What the counts below cover."""
    expected: SequenceNumber
    """Packets that should have arrived: how far `highest` has moved."""
    lost: Annotated[int, Integer(0, lambda report: report.expected)]
    """How many of them had not arrived."""
    late: SequenceNumber
    """How many arrived too late to be played."""
    delay_ms: Milliseconds
    """How much longer than the shortest of late the packets' way now takes."""
    received_bytes: Annotated[int, Integer(0, (1 << 32) - 1)]
    """Everything that arrived from this peer, IP headers included."""


@dataclass(frozen=True)
class FaceState(ControlMessage, number=8):
    """Whether the sender sees a face; while it does not, no motion is sent."""

    seen: Annotated[bool, Flag()]
    time_us: CaptureTime
    """Since when."""


@dataclass(frozen=True)
class Part(ControlMessage, number=9):
    """A piece of a message longer than MAX_PART_BYTES, so that motion gets through between the pieces.

    The parts of one message follow each other without those of another between them; whole messages may.
    """

    left: Annotated[int, Integer(0, MAX_MESSAGE_BYTES)]
    """Bytes of the message after this part; 0: this is the last."""
    data: Annotated[bytes, Data(1, MAX_PART_BYTES)]

    @classmethod
    def split(cls, message: bytes) -> list["Part"]:
        """Parts that together are `message`."""
        size = len(message)
        return [
            cls(max(0, size - start - MAX_PART_BYTES), message[start : start + MAX_PART_BYTES])
            for start in range(0, size, MAX_PART_BYTES)
        ]


@dataclass(frozen=True)
class HavePicture(ControlMessage, number=10):
    """Answer to a picture, offered or whole: the receiver is ready to move it.

    The sender's motion refers to it from then on; a FaceState says from which frame.
    """

    picture_hash: Hash


@dataclass(frozen=True)
class MediaState(ControlMessage, number=11):
    """What the sender has switched off on purpose, for the other side to show; both on until it is sent."""

    muted: Annotated[bool, Flag()]
    camera_off: Annotated[bool, Flag()]


@dataclass(frozen=True)
class PersonalPiece(ControlMessage, number=12):
    """A piece of a file that makes the receiver's renderer the sender's own, or, with no data, the offer of one.

    Pieces are asked for one by one, so that pictures get through between them.
    """

    file_hash: Hash
    """Of the whole file."""
    size: Annotated[int, Integer(1, MAX_PERSONAL_BYTES)]
    """Bytes of the whole file."""
    offset: Annotated[int, Integer(0, lambda piece: piece.size - len(piece.data))]
    """Where in the file the piece begins."""
    data: Annotated[bytes, Data(0, MAX_PIECE_BYTES)]


@dataclass(frozen=True)
class WantPersonal(ControlMessage, number=13):
    """Asks for the next piece of an offered speaker adapter; `offset` is its size once all is there and can be used."""

    file_hash: Hash
    offset: Annotated[int, Integer(0, MAX_PERSONAL_BYTES)]


@dataclass(frozen=True)
class ReferenceOffer(ControlMessage, number=14):
    """A further picture of the speaker of a source picture. WantPicture asks for it, HavePicture says that it is held.

    Motion never refers to it: who receives it shows each frame on the picture that is nearest.
    """

    base_hash: Hash
    """Of the source picture."""
    picture_hash: Hash
    """Of the picture's data."""
    format: PictureFormat
    size: Annotated[int, Integer(1, MAX_REFERENCE_BYTES)]
    """Bytes of data."""


@dataclass(frozen=True)
class ReferencePiece(ControlMessage, number=15):
    """Some bytes of an offered picture that was asked for, in order, some seconds apart."""

    picture_hash: Hash
    offset: Annotated[int, Integer(0, lambda piece: MAX_REFERENCE_BYTES - len(piece.data))]
    """Where in the picture's data the piece begins."""
    data: Annotated[bytes, Data(1, MAX_PART_BYTES)]


@dataclass(frozen=True)
class Reveal(ControlMessage, number=16):
    """The nonce that this side had committed to before the connection was made; see `trust.py`."""

    nonce: Annotated[bytes, Data(32, 32)]


@dataclass(frozen=True)
class Recognise(ControlMessage, number=17):
    """Shows that this side was there when the words of an earlier connection were compared."""

    proof: Annotated[bytes, Data(32, 32)]


@dataclass(frozen=True)
class Compared(ControlMessage, number=18):
    """The person on this side has said that the words of this connection are the same."""


@dataclass(frozen=True)
class PictureRate(ControlMessage, number=19):
    """How many pictures a second the sender of this message can show; more of them are of no use to it.

    Not said by who can show all. Who does not know the message sends on as before.
    """

    millihertz: Annotated[int, Integer(1000, 240_000)]
    """Pictures in a thousand seconds."""

    @property
    def fps(self) -> float:
        return self.millihertz / 1000


@dataclass(frozen=True)
class LayerReport(ControlMessage, number=20):
    """What the sender of this message can take of the layer, and what has become of it.

    Who has not said it is sent no layer. Who does not know the message sends none.
    """

    wanted_bps: Annotated[int, Integer(0, MAX_LAYER_BPS)]
    """0: none, the other side is to stop."""
    newest: Annotated[int | None, OrNil(Integer(0, LAYER_NUMBERS - 1))]
    """Number of the layer frame that was decoded last; None: none yet."""
    key_needed: Annotated[bool, Flag()]
    """Frames are missing: nothing more can be decoded until a key frame comes."""


@dataclass(frozen=True)
class CameraState(ControlMessage, number=21):
    """Whether the layer is what the sender's camera sees, to be shown as it is, from `time_us` on.

    Said with each connection, which tells the other side that this one can show it as well. Who has not said it is sent
    none.
    """

    shown: Annotated[bool, Flag()]
    time_us: CaptureTime
    """Of the first frame this holds for."""


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
        raise BadPacket(f"peer speaks protocol version {fields[0]!r:.20}, this side speaks {PROTOCOL_VERSION}")
    return message.from_fields(fields)
