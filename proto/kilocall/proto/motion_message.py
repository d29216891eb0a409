"""What one message of the data channel `motion` holds: a motion packet, and behind it fragments of the layer.

A message without fragments is the motion packet, byte for byte. Programs that do not know fragments refuse a message
with any: they are sent only to who has asked for the layer (`control.LayerReport`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kilocall.proto.errors import BadPacket
from kilocall.proto.layer_frame import MAX_FRAGMENTS, LayerFragment
from kilocall.proto.limits import MAX_PAYLOAD_BYTES
from kilocall.proto.motion_packet import HEADER_BYTES, MotionPacket

__all__ = ["MAX_LAYERED_BYTES", "MotionMessage"]

MAX_LAYERED_BYTES: Final = 1100
"""Most bytes of a message with fragments: what SCTP sends as one DATA chunk (`runtime/aiortc_fixes/sctp.py`). A longer
one would be cut in two IP packets, and be lost with either, its motion too."""

#: Bytes of an extension value's header by its first byte, and of its body where that is fixed.
_FIXED_BODIES: Final = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_LENGTH_BYTES: Final = {0xC7: 1, 0xC8: 2, 0xC9: 4}


@dataclass(frozen=True)
class MotionMessage:
    """One message. Raises BadPacket for too many fragments or bytes.

    bytes(message) is what goes on the wire; MotionMessage.parse(data) is its inverse.
    """

    packet: MotionPacket
    fragments: tuple[LayerFragment, ...] = ()
    """At most MAX_FRAGMENTS, of one or more layer frames."""

    def __post_init__(self) -> None:
        if not self.fragments:
            return
        if len(self.fragments) > MAX_FRAGMENTS:
            raise BadPacket(f"motion message has {len(self.fragments)} layer fragments, most is {MAX_FRAGMENTS}")
        _check_size(len(bytes(self)))

    def __bytes__(self) -> bytes:
        return bytes(self.packet) + b"".join(bytes(fragment) for fragment in self.fragments)

    @classmethod
    def parse(cls, data: bytes) -> MotionMessage:
        """Reads one message that fills `data` exactly. Raises BadPacket with the reason."""
        most = HEADER_BYTES + 2 + MAX_PAYLOAD_BYTES
        if len(data) > most:
            raise BadPacket(f"motion message is {len(data)} bytes, most is {most}")
        end = _packet_end(data)
        if end < len(data):
            _check_size(len(data))
        return cls(MotionPacket.parse(data[:end]), LayerFragment.parse_run(data[end:]))


def _packet_end(data: bytes) -> int:
    """Where the extension value ends that `data` begins with; the end of `data` where it is none or cut."""
    first = data[0] if data else 0
    if first in _FIXED_BODIES:
        end = 2 + _FIXED_BODIES[first]
    elif first in _LENGTH_BYTES:
        size = _LENGTH_BYTES[first]
        end = 2 + size + int.from_bytes(data[1 : 1 + size], "big")
    else:
        return len(data)
    return min(end, len(data))


def _check_size(size: int) -> None:
    if size > MAX_LAYERED_BYTES:
        raise BadPacket(f"motion message with layer fragments is {size} bytes, most is {MAX_LAYERED_BYTES}")
