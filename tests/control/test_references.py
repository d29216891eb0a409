"""Further pictures between two parties: in the background, once, and only what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import SupportsBytes

import pytest

from kilocall.call.settings import settings_from
from kilocall.control.references import MOST, MOST_OFFERS, PIECE_BYTES, PIECE_EVERY_US, ReferenceExchange
from kilocall.proto.control import (
    ControlMessage,
    HavePicture,
    ReferenceOffer,
    ReferencePiece,
    SourcePicture,
    WantPicture,
    parse_control,
)
from kilocall.proto.errors import BadInput
from links import run, two_peers

BASE, OTHER_BASE = "0f" * 32, "a5" * 32


def picture(number: int = 0, size: int = 2000) -> SourcePicture:
    return SourcePicture("avif", bytes([number]) * size)


class Party:
    """One side; what it says is a list, and what it gets can be used at once."""

    def __init__(self, folder: Path | None = None) -> None:
        self.said: list[ControlMessage] = []
        self.drops: list[str] = []
        self.got: list[tuple[str, str, bytes]] = []
        self.confirmed: list[str] = []
        self.references = ReferenceExchange(
            say=self._say,
            drop=self.drops.append,
            got=self._got,
            confirmed=self.confirmed.append,
            cache_folder=folder,
        )
        self.references.show(BASE)

    def _say(self, message: SupportsBytes) -> None:
        self.said.append(parse_control(bytes(message)))

    def _got(self, base_hash: str, picture_hash: str, data: bytes) -> None:
        self.got.append((base_hash, picture_hash, data))
        self.references.ready(picture_hash)

    def hear(self, message: ControlMessage) -> None:
        match message:
            case ReferenceOffer():
                self.references.take_offer(message)
            case ReferencePiece():
                self.references.take_piece(message)
            case WantPicture(name):
                assert self.references.send(name)
            case HavePicture(name):
                assert self.references.confirm(name)
            case _:
                pytest.fail(f"{message} is not expected")


def converse(a: Party, b: Party) -> None:
    while a.said or b.said:
        for speaker, listener in ((a, b), (b, a)):
            said, speaker.said = speaker.said, []
            for message in said:
                listener.hear(message)


def sender(*pictures: SourcePicture) -> Party:
    party = Party()
    party.references.follow(BASE)
    party.references.base_confirmed(BASE)
    for one in pictures:
        assert party.references.offer(BASE, one)
    return party


def send_all(a: Party, b: Party, *, from_us: int = 0, most: int = 100) -> int:
    """Lets time go by until nothing more is sent; pieces that went over."""
    pieces = 0
    converse(a, b)
    for number in range(most):
        a.references.tick(from_us + number * PIECE_EVERY_US)
        if not a.said:
            break
        pieces += 1
        converse(a, b)
    return pieces


def test_a_picture_goes_over_in_pieces_and_is_confirmed() -> None:
    a, b = sender(picture()), Party()
    assert send_all(a, b) == -(-2000 // PIECE_BYTES)
    assert b.got == [(BASE, picture().picture_hash, picture().data)]
    assert a.confirmed == [picture().picture_hash]
    assert a.references.sent_bytes == 2000
    assert list(b.references.held.values()) == [picture()]


def test_pieces_are_seconds_apart() -> None:
    a, b = sender(picture()), Party()
    converse(a, b)
    sent = []
    for now_us in range(0, 20_000_000, 250_000):
        a.references.tick(now_us)
        if a.said:
            sent.append(now_us)
            converse(a, b)
    assert sent == [0, PIECE_EVERY_US, 2 * PIECE_EVERY_US]


def test_nothing_is_offered_before_the_source_picture_is_held() -> None:
    a = Party()
    a.references.follow(BASE)
    a.references.offer(BASE, picture())
    assert a.said == []
    a.references.base_confirmed(OTHER_BASE)
    assert a.said == []
    a.references.base_confirmed(BASE)
    assert a.said == [ReferenceOffer(BASE, picture().picture_hash, "avif", 2000)]


def test_after_a_lost_connection_it_begins_anew_and_what_is_held_is_not_sent_again(tmp_path: Path) -> None:
    a, b = sender(picture(1), picture(2)), Party(tmp_path)
    converse(a, b)
    for number in range(4):  # the first is whole, the second is not
        a.references.tick(number * PIECE_EVERY_US)
        converse(a, b)
    assert [name for _, name, _ in b.got] == [picture(1).picture_hash]
    a.references.opened()
    b.references.opened()
    assert a.references.confirmed == set()
    a.references.base_confirmed(BASE)
    assert send_all(a, b, from_us=100_000_000) == -(-2000 // PIECE_BYTES)
    assert a.references.confirmed == {picture(1).picture_hash, picture(2).picture_hash}
    assert b.references.from_cache == 1


def test_the_next_call_finds_it_in_the_cache(tmp_path: Path) -> None:
    send_all(sender(picture()), Party(tmp_path))
    a, later = sender(picture()), Party(tmp_path)
    assert send_all(a, later) == 0
    assert later.got == [(BASE, picture().picture_hash, picture().data)]
    assert a.references.sent_bytes == 0


def test_another_source_picture_ends_what_is_on_its_way() -> None:
    a, b = sender(picture()), Party()
    converse(a, b)
    a.references.follow(OTHER_BASE)
    a.references.tick(0)
    assert a.said == []
    assert not a.references.offer(BASE, picture())


def test_a_picture_that_never_arrives_is_never_held() -> None:
    a, b = sender(picture(1), picture(2)), Party()
    converse(a, b)
    a.references.tick(0)
    a.said.clear()  # lost with its connection
    a.references.tick(PIECE_EVERY_US)
    converse(a, b)
    assert b.got == []
    assert b.references.held == {}
    assert a.references.confirmed == set()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda piece: ReferencePiece(piece.picture_hash, piece.offset + 1, piece.data),
        lambda piece: ReferencePiece("00" * 32, piece.offset, piece.data),
        lambda piece: ReferencePiece(piece.picture_hash, piece.offset, piece.data + b"more"),
    ],
)
def test_a_piece_that_was_not_asked_for_is_dropped(spoil: Callable[[ReferencePiece], ReferencePiece]) -> None:
    b = Party()
    whole = picture(size=500)
    b.hear(ReferenceOffer(BASE, whole.picture_hash, "avif", 500))
    b.hear(spoil(ReferencePiece(whole.picture_hash, 0, whole.data)))
    assert b.got == []
    assert len(b.drops) == 1


def test_another_content_than_was_offered_is_dropped() -> None:
    b = Party()
    b.hear(ReferenceOffer(BASE, picture(1, 500).picture_hash, "avif", 500))
    b.hear(ReferencePiece(picture(1, 500).picture_hash, 0, picture(2, 500).data))
    assert b.got == []
    assert "hash" in b.drops[0]


def test_offers_without_end_are_not_looked_at() -> None:
    b = Party()
    for number in range(MOST_OFFERS + 3):
        b.hear(ReferenceOffer(BASE, f"{number:064x}", "avif", 500))
    assert len(b.said) == MOST_OFFERS
    assert len(b.drops) == 3
    assert b.references.coming == MOST


def test_one_too_many_or_too_large_is_refused() -> None:
    a = sender(*(picture(number) for number in range(MOST)))
    with pytest.raises(BadInput, match="most are 8"):
        a.references.offer(BASE, picture(MOST))
    with pytest.raises(BadInput, match="1 to 16384"):
        a.references.offer(BASE, picture(0, 16_385))


def test_it_goes_over_a_real_connection_beside_motion() -> None:
    async def talk() -> None:
        async with two_peers() as (first, second):
            a, b = sender(picture()), Party()
            for number in range(12):
                for speaker, peer in ((a, first), (b, second)):
                    said, speaker.said = speaker.said, []
                    assert all(peer.send_control(bytes(message)) for message in said)
                assert first.send_motion(b"motion %d" % number)
                got = await second.motion.get()
                assert got is not None
                assert got.data == b"motion %d" % number
                for listener, peer, expected in ((b, second, number in (0, 2, 3, 4)), (a, first, number in (1, 5))):
                    message = await peer.control.get() if expected else None
                    if message is not None:
                        listener.hear(parse_control(message.data))
                a.references.tick(number * PIECE_EVERY_US)
            assert a.confirmed == [picture().picture_hash]
            assert [data for _, _, data in b.got] == [picture().data]

    run(talk())


def test_a_call_sends_further_pictures_unless_bits_are_to_be_saved() -> None:
    assert settings_from(room="r").pictures == 8
    assert settings_from(room="r", saver=True).pictures == 0
    assert settings_from(room="r", saver=True, gallery=3).pictures == 3
    for wrong in ({"gallery": 9}, {"gallery": -1}, {"gallery_kb": 0}):
        with pytest.raises(BadInput, match=next(iter(wrong))):
            settings_from(room="r", **wrong)
