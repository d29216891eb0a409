"""What a coded clip costs on the wire over IPv4: RTP for video, a data channel for motion, both ways.

Video: every picture is cut into RTP packets as the payload format of its codec says (RFC 6184 H.264, 7741 VP8, 7798
HEVC, 9328 VVC, 9628 VP9, AV1 RTP 1.0), each with 20 bytes IP, 8 UDP, 12 RTP and 10 of SRTP's tag. That favours video:
browsers add 8 to 16 bytes of header extensions and with AES-GCM 6 of a longer tag. One RTCP report a second each way.

Motion, and a video layer in its messages: `kilocall.proto.wire_cost` has the bytes of a data-channel message. They are
acknowledged by a SACK after DELAYED_SACK_S or SACK_EVERY messages; in a call of two most of those ride on the other
side's motion for less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydantic import BaseModel

from kilocall.bench.quality.codecs import Format
from kilocall.proto.control import Part, SourcePicture
from kilocall.proto.layer_frame import fragment_bytes
from kilocall.proto.wire_cost import DELAYED_SACK_S, SACK_BYTES, message_bytes

__all__ = [
    "CALLS_S",
    "Flow",
    "Wire",
    "data_channel_flow",
    "packet_bytes",
    "picture_messages",
    "rtp_flow",
    "rtp_payloads",
]

#: Lengths of a call, seconds, over which the first picture is spread.
CALLS_S: Final = (10, 60, 600)

IP_UDP_BYTES: Final = 28
RTP_BYTES: Final = 12
SRTP_TAG_BYTES: Final = 10
#: Bytes of an RTP payload at most; WebRTC keeps whole packets below 1200.
RTP_MOST: Final = 1160
#: Sender report of 28 and description of 28 bytes with a name of 16; SRTCP adds 4 and a tag of 10.
RTCP_SENDER_BYTES: Final = IP_UDP_BYTES + 28 + 28 + 14
#: Receiver report of 32, with the same.
RTCP_RECEIVER_BYTES: Final = IP_UDP_BYTES + 32 + 28 + 14
#: As the peers here do it, see runtime/aiortc_fixes/.
SACK_EVERY: Final = 8

_NAL_HEADER: Final[dict[str, int]] = {"h264": 1, "hevc": 2, "vvc": 2}
#: With a picture number of 15 bits, as browsers and aiortc send it.
_DESCRIPTOR: Final[dict[str, int]] = {"vp8": 4, "vp9": 3}
_AGGREGATE_MOST: Final = 9


class Flow(BaseModel):
    """Bytes of IP packets. `first` is the key frame or the source picture, `steady_bps` all after it."""

    first_bytes: int
    first_packets: int
    steady_bps: float
    back_bps: float


class Wire(BaseModel):
    """One way of sending, kbit/s."""

    how: str
    forward_kbps: float  # after the first picture
    back_kbps: float  # acknowledgements or RTCP, and the sender's RTCP
    first_bytes: int
    call_kbps: dict[int, float]  # forward and back, first picture included, for calls of so many seconds

    @classmethod
    def of(cls, how: str, flow: Flow) -> Wire:
        total = flow.steady_bps + flow.back_bps
        return cls(
            how=how,
            forward_kbps=flow.steady_bps / 1000,
            back_kbps=flow.back_bps / 1000,
            first_bytes=flow.first_bytes,
            call_kbps={seconds: (total + 8 * flow.first_bytes / seconds) / 1000 for seconds in CALLS_S},
        )


def rtp_payloads(parts: Sequence[int], format: Format, most: int = RTP_MOST) -> list[int]:
    """Payload sizes of the RTP packets that carry one coded picture, whose parts have these sizes."""
    if format in _DESCRIPTOR:
        return _cut(sum(parts), most - _DESCRIPTOR[format], _DESCRIPTOR[format])
    if format == "av1":
        # One byte of aggregation header a packet; every OBU but the last of a packet states its length.
        sizes = [part + _leb128_bytes(part) for part in parts[:-1]] + list(parts[-1:])
        return _cut(sum(sizes), most - 1, 1)
    header = _NAL_HEADER[format]
    payloads: list[int] = []
    gathered: list[int] = []

    def flush() -> None:
        if gathered:
            alone = len(gathered) == 1
            payloads.append(gathered[0] if alone else header + sum(2 + size for size in gathered))
            gathered.clear()

    for part in parts:
        if part > most:
            flush()
            # A fragment replaces the NAL header by one of its own and a fragment header.
            payloads += _cut(part - header, most - header - 1, header + 1)
            continue
        if header + sum(2 + size for size in (*gathered, part)) > most or len(gathered) == _AGGREGATE_MOST:
            flush()
        gathered.append(part)
    flush()
    return payloads


def packet_bytes(payload: int, *, extension: int = 0, tag: int = SRTP_TAG_BYTES) -> int:
    """Bytes of the IPv4 packet around an RTP payload; `extension` is that of all header extensions together."""
    return IP_UDP_BYTES + RTP_BYTES + extension + payload + tag


def rtp_flow(units: Sequence[Sequence[int]], seconds: float, format: Format) -> Flow:
    """Video of `seconds` whose coded pictures have parts of these sizes; the first is the key frame."""
    packets = [[packet_bytes(payload) for payload in rtp_payloads(unit, format)] for unit in units]
    rest = sum(map(sum, packets[1:]))
    # The rate of all after the first, as if it went on: the first picture takes its time in the clip too.
    span = seconds * (len(units) - 1) / len(units) if len(units) > 1 else seconds
    return Flow(
        first_bytes=sum(packets[0]),
        first_packets=len(packets[0]),
        steady_bps=8 * rest / span,
        back_bps=8.0 * (RTCP_SENDER_BYTES + RTCP_RECEIVER_BYTES),
    )


def data_channel_flow(
    messages: Sequence[int], source_bytes: int, seconds: float, first_layer: Sequence[int] = ()
) -> Flow:
    """Messages of these sizes, and the source picture before them. The pieces of a video layer's first frame have so
    many bytes; they ride in messages that go anyway, and are not counted in their sizes."""
    forward = sum(message_bytes(size) for size in messages)
    sacks = min(len(messages), max(seconds / DELAYED_SACK_S, len(messages) / SACK_EVERY))
    pictures = [message_bytes(size) for size in picture_messages(source_bytes)]
    return Flow(
        # Every second part of a picture is answered at once.
        first_bytes=sum(pictures) + SACK_BYTES * -(-len(pictures) // 2) + sum(map(fragment_bytes, first_layer)),
        first_packets=len(pictures),
        steady_bps=8 * forward / seconds,
        back_bps=8 * SACK_BYTES * sacks / seconds,
    )


def picture_messages(source_bytes: int) -> list[int]:
    """Sizes of the control messages that carry a source picture; none for one of 0 bytes."""
    if not source_bytes:
        return []
    whole = bytes(SourcePicture(format="avif", data=bytes(source_bytes)))
    return [len(bytes(part)) for part in Part.split(whole)]


def _cut(size: int, most: int, header: int) -> list[int]:
    """Sizes of the fewest equal pieces of at most `most` bytes, each with its header."""
    count = -(-size // most)
    return [size // count + (number < size % count) + header for number in range(count)] if size else []


def _leb128_bytes(value: int) -> int:
    return max(1, -(-value.bit_length() // 7))
