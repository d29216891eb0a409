"""What keeps others out from between two parties of a call: the link's secret, tags of descriptions, words to compare.

The secret never leaves the two sides. What is derived from it, and from what they exchange, is in `wire.md` under
"Who the other side is"; nothing here needs more than HKDF, HMAC and SHA-256, so a browser can do the same.

    link = LinkSecret.make()                 link.token is all that a signalling server sees
    mine = Handshake(link.key, "tea", offers=True)
    mine.meet(their_commitment)              each side has sent its `commitment`
    tag = mine.seal(offer)                   goes with the offer
    mine.check(answer, their_tag)            NotProven: somebody may be in between
    mine.reveal(their_nonce)                 over the connection that was made; from then on there are `words`
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kilocall.proto.errors import BadInput, BadPacket, NotProven
from kilocall.proto.words import WORDS

__all__ = ["NOT_PROVEN", "ONE_WAY_ROOM", "SPOKEN_WORDS", "Handshake", "LinkSecret", "fingerprint", "fingerprint_lines"]

VERSION: Final = b"\x01"
ONE_WAY_ROOM: Final = "one-way"
"""Between the two services, which have no room."""
NONCE_BYTES: Final = 32
LEAST_SECRET_BYTES, MOST_SECRET_BYTES = 16, 48
SPOKEN_WORDS: Final = 4
"""One byte each: whoever is in between gets by them once in four thousand million calls."""
NOT_PROVEN: Final = "the other side could not prove that it has the link; somebody may be in between"

Role = Literal["offer", "answer"]
ROLES: Final[tuple[Role, Role]] = ("offer", "answer")

_FINGERPRINT: Final = re.compile(r"a=fingerprint:sha-256 ((?:[0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2})")


def derive(key: bytes, info: bytes, size: int = 32) -> bytes:
    """HKDF-SHA256 (RFC 5869) without salt."""
    return HKDF(algorithm=SHA256(), length=size, salt=None, info=info).derive(key)


def encode(*fields: bytes) -> bytes:
    """Each field behind its length as four bytes, so that no two lists of fields are the same bytes."""
    return b"".join(len(one).to_bytes(4, "big") + one for one in fields)


@dataclass(frozen=True)
class LinkSecret:
    """What stands behind the # of a call's link: 16 to 48 bytes. Raises BadInput for a text that is none."""

    text: str = field(repr=False)
    """base64url without padding."""

    def __post_init__(self) -> None:
        allowed = f"allowed are {LEAST_SECRET_BYTES} to {MOST_SECRET_BYTES} random bytes as base64url"
        hint = "leave it out and one is made, or copy the whole link"
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.text):
            raise BadInput(f"the link's secret holds other characters than letters, digits, - and _; {allowed}: {hint}")
        try:
            data = self.data
        except (binascii.Error, ValueError):
            raise BadInput(f"the link's secret of {len(self.text)} characters is not base64url; {allowed}") from None
        if not LEAST_SECRET_BYTES <= len(data) <= MOST_SECRET_BYTES:
            raise BadInput(f"the link's secret has {8 * len(data)} bits; {allowed}: {hint}")
        if base64url(data) != self.text:
            raise BadInput(f"the link's secret of {len(self.text)} characters is not base64url; {allowed}")

    @classmethod
    def make(cls) -> Self:
        """128 random bits."""
        return cls(base64url(secrets.token_bytes(LEAST_SECRET_BYTES)))

    @property
    def data(self) -> bytes:
        return base64.urlsafe_b64decode(self.text + "=" * (-len(self.text) % 4))

    @property
    def token(self) -> str:
        """What lets into the room: 32 bytes as base64url. Tells nothing about the secret or the key."""
        return base64url(derive(self.data, b"kilocall 1 join token"))

    @property
    def key(self) -> bytes:
        """What descriptions are authenticated with."""
        return derive(self.data, b"kilocall 1 description key")

    @property
    def name(self) -> str:
        """Under which a computer keeps what it knows about this link: 64 hexadecimal digits."""
        return derive(self.data, b"kilocall 1 local name").hex()


class Handshake:
    """One side of the making of one connection; with the next connection there is another.

    `key` is the link's, `offers` whether this side makes the offer; `nonce` is for tests.
    """

    def __init__(self, key: bytes, room: str, *, offers: bool, nonce: bytes | None = None) -> None:
        self.room = room
        self.nonce = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
        self.role: Role = "offer" if offers else "answer"
        self._key = key
        self._commitments: dict[Role, bytes] = {self.role: commit(self.nonce)}
        self._sdps: dict[Role, str] = {}
        self._their_nonce: bytes | None = None

    @property
    def their_role(self) -> Role:
        return "answer" if self.role == "offer" else "offer"

    @property
    def commitment(self) -> str:
        """To be sent first: 64 hexadecimal digits."""
        return self._commitments[self.role].hex()

    def meet(self, commitment: str) -> None:
        """Takes the other side's commitment, once. Raises NotProven for one that cannot be another side's."""
        theirs = _bytes_of(commitment)
        if len(theirs) != 32 or theirs == self._commitments[self.role] or self.their_role in self._commitments:
            raise NotProven(NOT_PROVEN)
        self._commitments[self.their_role] = theirs

    def seal(self, sdp: str) -> str:
        """The tag of this side's description, 64 hexadecimal digits; after `meet`, an answer's after `check`."""
        tag = self._tag(self.role, sdp)
        self._sdps[self.role] = sdp
        return tag.hex()

    def check(self, sdp: str, tag: str) -> None:
        """Takes the other side's description. Raises NotProven unless `tag` is its tag in this very handshake."""
        try:
            expected = self._tag(self.their_role, sdp)
        except BadPacket:
            raise NotProven(NOT_PROVEN) from None
        if not hmac.compare_digest(expected, _bytes_of(tag)):
            raise NotProven(NOT_PROVEN)
        self._sdps[self.their_role] = sdp

    def reveal(self, nonce: bytes) -> None:
        """Takes the other side's nonce. Raises NotProven for one that it had not committed to."""
        theirs = self._commitments.get(self.their_role)
        if theirs is None or len(nonce) != NONCE_BYTES or not hmac.compare_digest(commit(nonce), theirs):
            raise NotProven("the other side has not kept to what it had committed to; somebody may be in between")
        self._their_nonce = nonce

    @property
    def words(self) -> tuple[str, ...]:
        """What both sides must see the same; empty before the other side's nonce is known."""
        return tuple(WORDS[byte] for byte in self._shared(b"kilocall words", SPOKEN_WORDS))

    @property
    def acquaintance(self) -> bytes:
        """32 bytes that nobody but the two ends of this connection knows, to recognise each other by another time."""
        return self._shared(b"kilocall acquaintance", 32)

    def recognition(self, acquaintance: bytes, *, mine: bool) -> bytes:
        """What shows, in this connection alone, that its sender holds `acquaintance`: this side, or the other."""
        fields = self._transcript(b"kilocall recognition", self.role if mine else self.their_role)
        return hmac.digest(acquaintance, encode(*fields), "sha256")

    def _tag(self, role: Role, sdp: str) -> bytes:
        fingerprint(sdp)  # a description that two programs could read differently is worth no tag
        if len(self._commitments) < 2:
            raise NotProven(NOT_PROVEN)
        answers = b"" if role == "offer" else hashlib.sha256(self._sdps.get("offer", "").encode()).digest()
        commitments = (self._commitments[one] for one in ROLES)
        fields = (b"kilocall description", VERSION, role.encode(), self.room.encode(), *commitments, answers)
        return hmac.digest(self._key, encode(*fields, sdp.encode()), "sha256")

    def _transcript(self, label: bytes, *more: str) -> Sequence[bytes]:
        return (
            label,
            VERSION,
            *(one.encode() for one in more),
            self.room.encode(),
            *(self._commitments[role] for role in ROLES),
            *(fingerprint(self._sdps[role]) for role in ROLES),
        )

    def _shared(self, label: bytes, size: int) -> bytes:
        if self._their_nonce is None:
            return b""
        nonces = [self.nonce, self._their_nonce]
        if self.role == "answer":
            nonces.reverse()
        return derive(b"".join(nonces), encode(*self._transcript(label)), size)


def commit(nonce: bytes) -> bytes:
    """What is told of a nonce before it is revealed."""
    return hashlib.sha256(encode(b"kilocall commitment", VERSION, nonce)).digest()


def fingerprint(sdp: str) -> bytes:
    """SHA-256 of the DTLS certificate that a description names, the same in all its sections.

    Raises BadPacket for none, several, or one of another kind: programs differ in which of several they look at, and
    the one that is compared must be the one that counts.
    """
    found = set()
    for line in fingerprint_lines(sdp):
        match = _FINGERPRINT.fullmatch(line)
        if match is None:
            raise BadPacket(f"description has a fingerprint that is none of SHA-256: {line!r:.80}")
        found.add(bytes.fromhex(match[1].replace(":", "")))
    if len(found) != 1:
        raise BadPacket(f"description has {len(found)} fingerprints, needed is one")
    return found.pop()


def fingerprint_lines(sdp: str) -> list[str]:
    """Every line of a description that any program could take for a fingerprint. Raises BadPacket for other than ASCII.

    Beyond ASCII there are characters that only some programs take for the end of a line.
    """
    if re.search(r"[^\t\r\n\x20-\x7e]", sdp):
        raise BadPacket("description holds other characters than those of ASCII")
    return [line for line in re.split(r"[\r\n]+", sdp) if "fingerprint" in line.lower()]


def base64url(data: bytes) -> str:
    """Without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes_of(digits: str) -> bytes:
    """Of hexadecimal digits; nothing for what is none."""
    return bytes.fromhex(digits) if re.fullmatch(r"(?:[0-9a-f]{2})*", digits) else b""
