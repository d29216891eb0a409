from __future__ import annotations

from pathlib import Path
from typing import SupportsBytes

import pytest

from handshakes import shaken
from kilocall.control.acquaintance import Acquaintance
from kilocall.proto.control import Compared, Recognise, Reveal
from kilocall.proto.errors import BadInput, NotProven
from kilocall.proto.trust import Handshake
from meeting import SECRET


class Party:
    """One side of a call; what it says waits until the test brings it over."""

    def __init__(self, folder: Path | None) -> None:
        self.said: list[SupportsBytes] = []
        self.dropped: list[str] = []
        self.changes = 0
        self.acquaintance = Acquaintance(
            SECRET.name, say=self.said.append, drop=self.dropped.append, changed=self._changed, folder=folder
        )

    def _changed(self) -> None:
        self.changes += 1

    @property
    def verified(self) -> bool:
        return self.acquaintance.verified

    def press(self) -> None:
        self.acquaintance.compared(self.acquaintance.words)


def exchange(*parties: Party) -> None:
    """Brings all that is said to the other side, until nobody says anything more."""
    while any(party.said for party in parties):
        for party, other in (parties, parties[::-1]):
            said, party.said[:] = list(party.said), []
            for message in said:
                assert isinstance(message, Reveal | Recognise | Compared)
                other.acquaintance.take(message)


def connect(first: Party, second: Party) -> None:
    """Another connection of the two."""
    for party, handshake in zip((first, second), shaken(), strict=True):
        party.acquaintance.opened(handshake)
    exchange(first, second)
    assert first.acquaintance.words == second.acquaintance.words


def call(tmp_path: Path, one: str = "one", other: str = "other") -> tuple[Party, Party]:
    """A call of two computers, whose caches are there the next time."""
    first, second = Party(tmp_path / one), Party(tmp_path / other)
    connect(first, second)
    return first, second


def test_words_are_verified_where_somebody_has_compared_them() -> None:
    first, second = Party(None), Party(None)
    connect(first, second)
    assert not first.verified
    first.press()
    exchange(first, second)
    assert (first.verified, second.verified) == (True, False)
    connect(first, second)  # after a change of network
    assert (first.verified, second.verified) == (True, False)


def test_who_has_compared_recognises_the_other_side_in_the_next_call(tmp_path: Path) -> None:
    first, second = call(tmp_path)
    first.press()
    second.press()
    exchange(first, second)
    again = call(tmp_path)
    assert [party.verified for party in again] == [True, True]
    assert again[0].acquaintance.words != first.acquaintance.words


def test_another_computer_with_the_same_link_is_not_taken_for_the_other_side(tmp_path: Path) -> None:
    first, second = call(tmp_path)
    first.press()
    second.press()
    exchange(first, second)
    first, stranger = call(tmp_path, other="stranger")
    assert not first.verified
    assert first.acquaintance.expected
    # That the stranger says that it has compared changes nothing for the two others.
    stranger.press()
    exchange(first, stranger)
    assert not first.verified
    assert [party.verified for party in call(tmp_path)] == [True, True]


def test_proof_of_another_connection_proves_nothing(tmp_path: Path) -> None:
    first, second = call(tmp_path)
    first.press()
    exchange(first, second)
    mine, theirs = shaken()
    second.acquaintance.opened(theirs)
    second.acquaintance.take(Reveal(mine.nonce))
    proofs = [message for message in second.said if isinstance(message, Recognise)]
    assert len(proofs) == 1
    other_mine, other_theirs = shaken()
    first.acquaintance.opened(other_mine)
    first.acquaintance.take(Reveal(other_theirs.nonce))
    first.acquaintance.take(proofs[0])
    assert not first.verified


def test_words_of_an_earlier_connection_are_not_said_to_be_the_same() -> None:
    first, second = Party(None), Party(None)
    connect(first, second)
    before = first.acquaintance.words
    connect(first, second)
    with pytest.raises(BadInput, match="the words have changed with the connection"):
        first.acquaintance.compared(before)
    first.acquaintance.closed()
    with pytest.raises(BadInput, match="compare them again"):
        first.acquaintance.compared(())


def test_nonce_that_was_not_committed_to_is_refused_and_others_are_dropped() -> None:
    party = Party(None)
    handshakes: tuple[Handshake, Handshake] = shaken()
    party.acquaintance.take(Compared())
    party.acquaintance.opened(handshakes[0])
    party.acquaintance.take(Recognise(bytes(32)))
    with pytest.raises(NotProven):
        party.acquaintance.take(Reveal(bytes(32)))
    party.acquaintance.take(Reveal(handshakes[1].nonce))
    party.acquaintance.take(Reveal(handshakes[1].nonce))
    assert party.dropped == ["Compared before Reveal", "Recognise before Reveal", "second Reveal"]


def test_what_is_kept_is_for_nobody_else_and_a_broken_file_means_to_compare_again(tmp_path: Path) -> None:
    first, second = call(tmp_path)
    first.press()
    file = tmp_path / "one" / "links" / SECRET.name
    assert file.parent.stat().st_mode & 0o077 == 0
    assert SECRET.text not in file.read_text()
    file.write_text("{}]")
    exchange(first, second)
    assert [party.verified for party in call(tmp_path)] == [False, False]
