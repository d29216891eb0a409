"""What a signalling server allows.

The defaults are such that neither two people behind one NAT nor an office of twenty, who all come back at once after a
restart, ever meet a limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["SignallingSettings"]


@dataclass(frozen=True)
class SignallingSettings:
    """Limits of a signalling server. An address is one of IPv4, or a /64 of IPv6: that is what one customer gets."""

    most_rooms: int = 1000
    most_connections: int = 3000
    connections_per_address: int = 64
    """WebSockets open at once. TCP connections may be twice as many: who has more WebSockets is told why."""
    joins_per_second: float = 5.0
    """WebSockets that one address opens, on average."""
    join_burst: int = 60
    rooms_per_minute: float = 30.0
    """New rooms that one address makes, on average and at once."""
    join_within_s: float = 10.0
    request_within_s: float = 10.0
    """A TCP connection whose whole request has not come so long after it could is cut off."""
    answer_within_s: float = 300.0
    """Who has not taken an answer in so long is cut off: the page's longest file, packed, at 0.1 Mbit/s."""
    message_rate: float = 10.0
    """Messages a second from one party, on average."""
    message_burst: int = 30
    frame_rate: float = 20.0
    """WebSocket frames of any kind a second on one connection, on average."""
    frame_burst: int = 100
    come_back_within_s: float = 15.0
    """A party whose connection broke keeps its place so long; nobody else gets it."""
    empty_room_s: float = 60.0
    waiting_room_s: float = 3600.0
    """A room in which one party has waited so long is closed."""
    sweep_s: float = 1.0
    drain_s: float = 3.0
    """A signalling server that is told to end takes no new rooms for so long, while whoever directs parties to it
    notices; not when nobody is connected."""
    origins: tuple[str, ...] = ()
    """Pages that may connect, as `https://meet.example`, besides those of the server's own name."""
    proxies: tuple[str, ...] = ()
    """Addresses or networks whose X-Forwarded-For is believed."""
    turn_urls: tuple[str, ...] = ()
    """TURN servers that every party may use, as `turn:turn.example:3478`."""
    turn_secret: str = field(default="", repr=False)
    """What the TURN servers know too, to tell whom the signalling server has sent."""
    turn_valid_s: float = 12 * 3600.0
