from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshakes import ANSWER, OFFER, ROOM, description, met, shaken, sides
from kilocall.proto.errors import BadInput, BadPacket, NotProven
from kilocall.proto.trust import Handshake, LinkSecret, fingerprint
from kilocall.proto.words import WORDS
from meeting import OTHER_SECRET, SECRET

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "trust.json").read_text())


# Golden values: what another program must come to as well


@pytest.mark.parametrize("vector", VECTORS["secrets"])
def test_token_key_and_name_of_a_secret_are_frozen(vector: dict[str, str]) -> None:
    secret = LinkSecret(vector["secret"])
    assert (secret.token, secret.key.hex(), secret.name) == (vector["token"], vector["key"], vector["name"])


@pytest.mark.parametrize("vector", VECTORS["handshakes"])
def test_tags_and_words_of_a_handshake_are_frozen(vector: dict[str, Any]) -> None:
    key, room = bytes.fromhex(vector["key"]), vector["room"]
    offering = Handshake(key, room, offers=True, nonce=bytes.fromhex(vector["offer_nonce"]))
    answering = Handshake(key, room, offers=False, nonce=bytes.fromhex(vector["answer_nonce"]))
    assert offering.commitment == vector["offer_commitment"]
    assert answering.commitment == vector["answer_commitment"]
    offering.meet(answering.commitment)
    answering.meet(offering.commitment)
    assert offering.seal(vector["offer"]) == vector["offer_tag"]
    answering.check(vector["offer"], vector["offer_tag"])
    assert answering.seal(vector["answer"]) == vector["answer_tag"]
    offering.check(vector["answer"], vector["answer_tag"])
    offering.reveal(answering.nonce)
    answering.reveal(offering.nonce)
    for side in (offering, answering):
        assert list(side.words) == vector["words"]
        assert side.acquaintance.hex() == vector["acquaintance"]
    assert offering.recognition(offering.acquaintance, mine=True).hex() == vector["offer_recognition"]
    assert answering.recognition(answering.acquaintance, mine=True).hex() == vector["answer_recognition"]


def test_golden_values_follow_from_hmac_and_sha_256_alone() -> None:
    """wire.md, once more, with nothing but the two functions: RFC 5869's extract and expand, and lengths."""

    def hkdf(key: bytes, info: bytes, size: int) -> bytes:
        extracted = hmac.digest(bytes(32), key, "sha256")
        return hmac.digest(extracted, info + b"\x01", "sha256")[:size]

    def fields(*values: bytes) -> bytes:
        return b"".join(len(value).to_bytes(4, "big") + value for value in values)

    secret = VECTORS["secrets"][0]
    data = base64.urlsafe_b64decode(secret["secret"] + "==")
    assert hkdf(data, b"kilocall 1 description key", 32).hex() == secret["key"]
    token = base64.urlsafe_b64encode(hkdf(data, b"kilocall 1 join token", 32)).rstrip(b"=").decode()
    assert token == secret["token"]

    hand = VECTORS["handshakes"][0]
    nonces = [bytes.fromhex(hand[f"{role}_nonce"]) for role in ("offer", "answer")]
    commitments = [hashlib.sha256(fields(b"kilocall commitment", b"\x01", nonce)).digest() for nonce in nonces]
    assert [one.hex() for one in commitments] == [hand["offer_commitment"], hand["answer_commitment"]]
    room, offer, answer = (hand[name].encode() for name in ("room", "offer", "answer"))
    begin = (b"kilocall description", b"\x01")
    said = fields(*begin, b"answer", room, *commitments, hashlib.sha256(offer).digest(), answer)
    assert hmac.digest(bytes.fromhex(hand["key"]), said, "sha256").hex() == hand["answer_tag"]
    said = fields(*begin, b"offer", room, *commitments, b"", offer)
    assert hmac.digest(bytes.fromhex(hand["key"]), said, "sha256").hex() == hand["offer_tag"]
    prints = [fingerprint(hand["offer"]), fingerprint(hand["answer"])]
    said = fields(b"kilocall words", b"\x01", room, *commitments, *prints)
    assert [WORDS[byte] for byte in hkdf(b"".join(nonces), said, 4)] == hand["words"]


def test_the_list_of_words_is_frozen() -> None:
    assert hashlib.sha256(" ".join(WORDS).encode()).hexdigest() == VECTORS["words_sha256"]


# The words


def test_words_are_256_and_no_two_are_a_letter_apart() -> None:
    assert len(set(WORDS)) == 256
    assert all(word.isascii() and word.isalpha() and word.islower() and 4 <= len(word) <= 9 for word in WORDS)
    marked = [word[:place] + "_" + word[place + 1 :] for word in WORDS for place in range(len(word))]
    assert len(set(marked)) == len(marked)
    shorter = {one.replace("_", "") for one in marked}
    assert not shorter & set(WORDS)


# Secrets


def test_secrets_are_random_and_never_shown_by_accident() -> None:
    made = {LinkSecret.make() for _ in range(50)}
    assert len(made) == 50
    assert all(len(secret.data) == 16 and secret.text not in repr(secret) for secret in made)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "other characters than"),
        ("tea time", "other characters than"),
        ("a+/aaaaaaaaaaaaaaaaaaaaaaa", "other characters than"),
        ("0123456789", "not base64url|56 bits"),
        ("AAECAwQFBgcICQoLDA0O", "has 120 bits; allowed are 16 to 48 random bytes as base64url"),
        ("A" * 21, "is not base64url"),
        ("AAECAwQFBgcICQoLDA0ODx", "is not base64url"),  # bits behind the last byte
        ("A" * 68, "has 408 bits"),
    ],
)
def test_secret_that_is_none_is_refused_with_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        LinkSecret(text)


def test_what_is_derived_from_a_secret_differs() -> None:
    derived = {x for secret in (SECRET, OTHER_SECRET) for x in (secret.token, secret.key.hex(), secret.name)}
    assert len(derived) == 6
    assert SECRET.data.hex() not in derived


# Descriptions


def test_descriptions_are_taken_with_their_tags_and_both_come_to_the_same_words() -> None:
    offering, answering = shaken()
    assert offering.words == answering.words == ()
    offering.reveal(answering.nonce)
    answering.reveal(offering.nonce)
    assert offering.words == answering.words
    assert len(offering.words) == 4
    assert offering.acquaintance == answering.acquaintance


@pytest.mark.parametrize("tag", ["", "0f", "0f" * 32, "no digits", "0F" * 32])
def test_description_without_its_tag_is_refused(tag: str) -> None:
    _, answering = met()
    with pytest.raises(NotProven, match="could not prove that it has the link; somebody may be in between"):
        answering.check(OFFER, tag)


def test_description_that_was_changed_is_refused() -> None:
    offering, answering = met()
    tag = offering.seal(OFFER)
    with pytest.raises(NotProven):
        answering.check(OFFER.replace("m=application 9", "m=application 8"), tag)
    answering.check(OFFER, tag)


def test_description_of_another_handshake_is_refused() -> None:
    old_offering, old_answering = met()
    old_tag = old_offering.seal(OFFER)
    old_answering.check(OFFER, old_tag)
    for repeated in ("nobody", "offer", "answer"):
        offering, answering = sides()
        # Whoever replays may repeat old commitments as well; one side's is new.
        offering.meet(old_answering.commitment if repeated == "answer" else answering.commitment)
        answering.meet(old_offering.commitment if repeated == "offer" else offering.commitment)
        with pytest.raises(NotProven):
            answering.check(OFFER, old_tag)


def test_own_description_that_comes_back_is_refused() -> None:
    offering, _ = met()
    tag = offering.seal(OFFER)
    with pytest.raises(NotProven):
        offering.check(OFFER, tag)


def test_own_commitment_that_comes_back_and_a_second_one_are_refused() -> None:
    offering, answering = sides()
    with pytest.raises(NotProven):
        offering.meet(offering.commitment)
    offering.meet(answering.commitment)
    with pytest.raises(NotProven):
        offering.meet(answering.commitment)


def test_another_secret_room_or_offer_gives_another_tag() -> None:
    offering, answering = met()
    for key, room in ((OTHER_SECRET.key, ROOM), (SECRET.key, "coffee")):
        stranger = Handshake(key, room, offers=True, nonce=offering.nonce)
        stranger.meet(answering.commitment)
        assert stranger.commitment == offering.commitment
        with pytest.raises(NotProven):
            answering.check(OFFER, stranger.seal(OFFER))
    # An answer belongs to the offer that its side has seen.
    offering.seal(OFFER)
    misled = Handshake(SECRET.key, ROOM, offers=True, nonce=offering.nonce)
    misled.meet(answering.commitment)
    other = description("somebody in between")
    answering.check(other, misled.seal(other))
    with pytest.raises(NotProven):
        offering.check(ANSWER, answering.seal(ANSWER))


def test_a_description_before_the_commitments_proves_nothing() -> None:
    offering, answering = sides()
    with pytest.raises(NotProven):
        answering.check(OFFER, "0f" * 32)
    with pytest.raises(NotProven):
        offering.seal(OFFER)


# Nonces and words


def test_nonce_that_was_not_committed_to_is_refused() -> None:
    offering, answering = shaken()
    for nonce in (b"", bytes(32), offering.nonce):
        with pytest.raises(NotProven, match="has not kept to what it had committed to"):
            offering.reveal(nonce)
    assert offering.words == ()
    offering.reveal(answering.nonce)
    assert offering.words


def test_words_differ_when_somebody_in_between_has_the_link_and_relays_commitments_and_nonces() -> None:
    """All that such a one can change are the descriptions, and their fingerprints are in the words."""
    alice, bob = met()
    mallory_to_bob = Handshake(SECRET.key, ROOM, offers=True, nonce=alice.nonce)
    mallory_to_alice = Handshake(SECRET.key, ROOM, offers=False, nonce=bob.nonce)
    mallory_to_bob.meet(bob.commitment)
    mallory_to_alice.meet(alice.commitment)
    middle = description("somebody in between")
    bob.check(middle, mallory_to_bob.seal(middle))
    mallory_to_alice.check(OFFER, alice.seal(OFFER))
    alice.check(middle, mallory_to_alice.seal(middle))
    bob.seal(ANSWER)
    alice.reveal(bob.nonce)
    bob.reveal(alice.nonce)
    assert alice.words != bob.words
    assert alice.acquaintance != bob.acquaintance


def test_recognition_holds_for_one_side_of_one_connection() -> None:
    offering, answering = shaken()
    again, _ = shaken()
    key = bytes(range(32))
    proofs = [offering.recognition(key, mine=True), answering.recognition(key, mine=True)]
    assert proofs[0] == answering.recognition(key, mine=False)
    assert proofs[1] == offering.recognition(key, mine=False)
    assert len({*proofs, again.recognition(key, mine=True), offering.recognition(bytes(32), mine=True)}) == 4


# Fingerprints


def test_fingerprint_is_that_of_all_sections() -> None:
    twice = OFFER + OFFER.partition("v=0\r\n")[2].lower().replace("sha-256 ", "sha-256 ")
    assert fingerprint(twice) == fingerprint(OFFER) == hashlib.sha256(b"offerer's").digest()


@pytest.mark.parametrize(
    "sdp",
    [
        "",
        "v=0\r\n",
        OFFER + ANSWER,
        OFFER + "a=fingerprint:sha-1 00:11\r\n",
        OFFER + "a=Fingerprint:SHA-256 00\r\n",
        OFFER.replace("sha-256", "sha-512"),
        OFFER.replace(" ", "\u2028"),
        OFFER + " a=fingerprint:sha-256 " + ":".join(["00"] * 32),
        OFFER + "s=\x0ba=fingerprint:sha-256 " + ":".join(["00"] * 32),
    ],
)
def test_description_that_two_programs_could_read_differently_is_refused(sdp: str) -> None:
    with pytest.raises(BadPacket, match="description"):
        fingerprint(sdp)


@given(st.text(max_size=200), st.text(max_size=70))
def test_nothing_but_the_tag_proves_anything(sdp: str, tag: str) -> None:
    _, answering = met()
    with pytest.raises(NotProven):
        answering.check(sdp, tag)
