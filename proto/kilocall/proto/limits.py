"""Numbers that every side and every format agrees on; to change one is to change the protocol version."""

from __future__ import annotations

__all__ = [
    "HISTORY",
    "LEVELS",
    "MAX_FRAMES",
    "MAX_PAYLOAD_BYTES",
    "MOST_PICTURES",
    "PROTOCOL_VERSION",
    "SEQUENCES",
]

PROTOCOL_VERSION = 1

MAX_FRAMES = 8
"""Most frames in a motion packet."""
LEVELS = 9
"""Quality levels, 0 the coarsest; a level up divides every quantiser step by the square root of two."""
SEQUENCES = 1 << 16
"""Packet sequence numbers count modulo this."""
HISTORY = 64
"""How many packets either side remembers; a packet refers at most HISTORY - 1 packets back."""
MAX_PAYLOAD_BYTES = 8192
"""Most bytes of coded motion in a packet; typical are 10 to 40."""
MOST_PICTURES = 8
"""Most pictures of one speaker that a receiver holds at a time, the source picture among them."""
