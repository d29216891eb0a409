"""Both sides of the making of a connection, without the connection."""

from __future__ import annotations

import hashlib

from kilocall.proto.trust import Handshake, LinkSecret
from meeting import SECRET

ROOM = "tea"


def description(certificate: str = "offerer's") -> str:
    """The least SDP that names a certificate."""
    digest = hashlib.sha256(certificate.encode()).hexdigest().upper()
    pairs = ":".join(digest[i : i + 2] for i in range(0, 64, 2))
    return f"v=0\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=fingerprint:sha-256 {pairs}\r\n"


OFFER, ANSWER = description("offerer's"), description("answerer's")


def sides(secret: LinkSecret = SECRET, room: str = ROOM) -> tuple[Handshake, Handshake]:
    """The offering and the answering side, before anything was exchanged."""
    return Handshake(secret.key, room, offers=True), Handshake(secret.key, room, offers=False)


def met(secret: LinkSecret = SECRET) -> tuple[Handshake, Handshake]:
    """Both have each other's commitment."""
    offering, answering = sides(secret)
    offering.meet(answering.commitment)
    answering.meet(offering.commitment)
    return offering, answering


def shaken(secret: LinkSecret = SECRET) -> tuple[Handshake, Handshake]:
    """Both have each other's description, neither the other's nonce."""
    offering, answering = met(secret)
    answering.check(OFFER, offering.seal(OFFER))
    offering.check(ANSWER, answering.seal(ANSWER))
    return offering, answering
