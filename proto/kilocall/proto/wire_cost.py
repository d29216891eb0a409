"""What coded motion costs on the wire: headers and acknowledgements included, both directions.

Measured with aiortc 1.16.0 and ChaCha20-Poly1305: a data-channel message of n bytes is an IP packet of pad4(n) + 85
bytes on IPv4 (20 IP + 8 UDP + 29 DTLS + 12 SCTP + 16 DATA chunk), and aiortc answers every one with a SACK of 85 bytes.
IPv6 adds 20 bytes to each, and AES-GCM, which aiortc prefers by itself, 8.
"""

from __future__ import annotations

from dataclasses import dataclass

from kilocall.proto.errors import BadInput
from kilocall.proto.limits import MAX_FRAMES
from kilocall.proto.motion_packet import HEADER_BYTES

__all__ = ["DELAYED_SACK_S", "MESSAGE_OVERHEAD_BYTES", "SACK_BYTES", "WireCost", "message_bytes", "wire_cost"]

MESSAGE_OVERHEAD_BYTES = 85
SACK_BYTES = 85
IPV6_BYTES = 20
DELAYED_SACK_S = 0.4
"""How long kilocall waits before it acknowledges (RFC 9260 allows 0.5); one SACK then covers all in between."""


@dataclass(frozen=True)
class WireCost:
    """Bits a second on the wire at a number of frames per packet."""

    frames_per_packet: int
    payload_bps: float
    """Coded motion alone."""
    forward_bps: float
    """IP packets from sender to receiver."""
    sack_bps: float
    """IP packets back, when every message is answered by a SACK of its own, as aiortc does."""
    delayed_sack_bps: float
    """IP packets back, with at most one SACK in DELAYED_SACK_S."""


def message_bytes(size: int, *, ipv6: bool = False) -> int:
    """Bytes of the IP packet that carries a data-channel message of `size` bytes."""
    return (size + 3) // 4 * 4 + MESSAGE_OVERHEAD_BYTES + (IPV6_BYTES if ipv6 else 0)


def wire_cost(bits_per_frame: float, fps: float, frames_per_packet: int = 3, *, ipv6: bool = False) -> WireCost:
    """Cost of motion of `bits_per_frame` on average. Raises BadInput for a number out of range."""
    if bits_per_frame < 0 or not 0 < fps <= 240 or not 1 <= frames_per_packet <= MAX_FRAMES:
        raise BadInput(
            f"wire cost of {bits_per_frame} bits a frame, {fps} fps, {frames_per_packet} frames a packet; "
            f"allowed are 0 or more, up to 240, 1 to {MAX_FRAMES}"
        )
    packets = fps / frames_per_packet
    payload = bits_per_frame * frames_per_packet / 8
    # Sizes vary from packet to packet, so that padding costs its mean of 1.5 bytes.
    forward = HEADER_BYTES + payload + 1.5 + message_bytes(0, ipv6=ipv6)
    sack = SACK_BYTES + (IPV6_BYTES if ipv6 else 0)
    return WireCost(
        frames_per_packet=frames_per_packet,
        payload_bps=bits_per_frame * fps,
        forward_bps=8 * forward * packets,
        sack_bps=8 * sack * packets,
        delayed_sack_bps=8 * sack * min(packets, 1 / DELAYED_SACK_S),
    )
