"""What a connection to the other party is made with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from aiortc.rtcicetransport import parse_stun_turn_uri

from kilocall.proto.errors import BadInput
from kilocall.runtime.aiortc_fixes import TurnServer

__all__ = ["IceServer", "PeerSettings"]

TRANSPORTS: Final = (("stun", None), ("turn", "udp"), ("turn", "tcp"), ("turns", "tcp"))


@dataclass(frozen=True)
class IceServer:
    """A STUN or TURN server, for example `stun:host`, `turn:host:3478` or `turns:host:443`, which is over TLS."""

    url: str
    username: str | None = None
    credential: str | None = None

    def check(self) -> None:
        """BadInput for an address that is none of a STUN or TURN server."""
        allowed = "allowed are stun:HOST, turn:HOST, turn:HOST?transport=tcp and turns:HOST"
        try:
            parsed = parse_stun_turn_uri(self.url)
        except ValueError as error:
            raise BadInput(f"ICE server {self.url!r}: {error}; {allowed}") from None
        if (parsed["scheme"], parsed.get("transport")) not in TRANSPORTS:
            raise BadInput(f"ICE server {self.url!r}: no such transport here; {allowed}")

    def as_turn(self) -> TurnServer:
        """For a TURN server."""
        parsed = parse_stun_turn_uri(self.url)
        return TurnServer(
            host=parsed["host"],
            port=parsed["port"],
            transport=parsed["transport"],
            tls=parsed["scheme"] == "turns",
            username=self.username,
            password=self.credential,
        )

    @property
    def relays(self) -> bool:
        """Whether it is a TURN server."""
        return self.url.startswith("turn")


@dataclass(frozen=True)
class PeerSettings:
    """What a connection is made with."""

    ice_servers: tuple[IceServer, ...] = ()
    """None: then nobody but the other party is ever contacted."""
    relay_only: bool = False
    """Only through the TURN server, so that the other party does not learn this machine's address."""
    loopback: Literal["exclude", "include", "only"] = "exclude"
    """Whether 127.0.0.1 is offered; for two parties on one machine."""
    audio: bool = True
    """Whether there is a speech track each way; both sides must agree."""
    audio_bitrate_bps: int = 12_000
    audio_packet_ms: int = 60
    connect_timeout_s: float = 15.0
    vanished_after_s: float = 9.0
    """A connection on which nothing at all arrives for so long is given up."""
    motion_backlog_bytes: int = 400
    """Motion is dropped while more than this waits to be sent."""
    bulk_bps: int = 48_000
    """Most that messages of several parts (pictures) take, after a first burst of 8 KiB."""
    inbox_messages: int = 64
