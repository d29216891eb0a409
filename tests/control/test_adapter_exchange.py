"""Speaker adapters between two parties: piece by piece, once, and only what was asked for."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import SupportsBytes

import numpy as np
import pytest

from kilocall.call.settings import settings_from
from kilocall.control.adapter_exchange import KEPT, MOST_OFFERS, MOST_TAKEN, TAKEN_IN_US, AdapterExchange
from kilocall.proto.control import MAX_PIECE_BYTES, PersonalPiece, WantPersonal, parse_control
from kilocall.proto.errors import BadInput, WrongFamily

FILE = np.random.default_rng(0).bytes(3 * MAX_PIECE_BYTES + 77)
HASH = hashlib.sha256(FILE).hexdigest()


class Party:
    """One side; what it says waits in a list."""

    def __init__(self, folder: Path | None = None, *, use: bool | None = True) -> None:
        """`use` is what becomes of a file here; None: it is still being made ready."""
        self.said: deque[bytes] = deque()
        self.drops: list[str] = []
        self.got: list[tuple[str, bytes]] = []
        self.use = use
        self.now_us = 0
        self.files = AdapterExchange(
            say=self._say, drop=self.drops.append, got=self._got, clock_us=lambda: self.now_us, folder=folder
        )

    def _say(self, message: SupportsBytes) -> None:
        self.said.append(bytes(message))

    def _got(self, file_hash: str, data: bytes) -> None:
        self.got.append((file_hash, data))
        if self.use:
            self.files.used(file_hash, len(data))
        elif self.use is False:
            self.files.refused(file_hash, "it does not fit")

    def hear(self, data: bytes) -> None:
        message = parse_control(data)
        if isinstance(message, PersonalPiece):
            self.files.take(message)
        else:
            assert isinstance(message, WantPersonal)
            self.files.send(message)


def talk(a: Party, b: Party, most: int = 100) -> int:
    """Lets both hear each other until they are silent; how many pieces with data there were."""
    pieces = 0
    for _ in range(most):
        if not a.said and not b.said:
            return pieces
        for one, other in ((a, b), (b, a)):
            while one.said:
                data = one.said.popleft()
                message = parse_control(data)
                pieces += isinstance(message, PersonalPiece) and bool(message.data)
                other.hear(data)
    raise AssertionError("they never stop")


def test_a_file_comes_over_in_pieces_and_is_confirmed_once_it_is_in_use() -> None:
    a, b = Party(), Party()
    a.files.offer(FILE)
    assert not a.files.confirmed
    assert talk(a, b) == 4
    assert b.got == [(HASH, FILE)]
    assert a.files.confirmed
    assert b.files.theirs == HASH
    assert not a.drops + b.drops


def test_another_connection_begins_anew_and_sends_nothing_twice() -> None:
    a, b = Party(), Party()
    a.files.offer(FILE)
    b.hear(a.said.popleft())
    a.hear(b.said.popleft())  # the first piece is lost with the connection
    a.said.clear()
    for party in (a, b):
        party.files.opened()
    assert talk(a, b) == 4
    assert len(b.got) == 1
    for party in (a, b):
        party.files.opened()
    assert talk(a, b) == 0  # it is in use already
    assert a.files.confirmed
    assert len(b.got) == 1


def test_the_next_call_finds_the_file_in_the_cache(tmp_path: Path) -> None:
    a = Party()
    a.files.offer(FILE)
    talk(a, Party(tmp_path))
    later = Party(tmp_path)
    a.files.opened()
    assert talk(a, later) == 0
    assert later.got == [(HASH, FILE)]
    assert later.files.from_cache == 1
    kept = next((tmp_path / "people").iterdir())
    kept.write_bytes(FILE[:-1])
    a.files.opened()
    assert talk(a, Party(tmp_path)) == 4  # damaged: as good as none


def test_only_the_last_few_files_are_kept(tmp_path: Path) -> None:
    for number in range(KEPT + 3):
        a, b = Party(), Party(tmp_path)
        a.files.offer(bytes([number]) * 100)
        talk(a, b)
    assert len(list((tmp_path / "people").iterdir())) == KEPT


def test_a_file_that_cannot_be_used_is_forgotten_and_nobody_waits(tmp_path: Path) -> None:
    a, b = Party(), Party(tmp_path, use=False)
    a.files.offer(FILE)
    talk(a, b)
    assert not a.files.confirmed
    assert b.files.theirs is None
    assert not list((tmp_path / "people").iterdir())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda piece: PersonalPiece(piece.file_hash, piece.size, piece.offset + 1, piece.data),
        lambda piece: PersonalPiece(piece.file_hash, piece.size + 1, piece.offset, piece.data),
        lambda piece: PersonalPiece("00" * 32, piece.size, piece.offset, piece.data),
    ],
)
def test_a_piece_that_was_not_asked_for_is_dropped(spoil: Callable[[PersonalPiece], PersonalPiece]) -> None:
    b = Party()
    b.files.take(PersonalPiece(HASH, len(FILE), 0, b""))
    b.files.take(spoil(PersonalPiece(HASH, len(FILE), 0, FILE[:1000])))
    assert len(b.drops) == 1
    assert not b.got


def test_another_content_than_was_offered_is_dropped() -> None:
    b = Party()
    b.files.take(PersonalPiece(HASH, 1000, 0, b""))
    b.files.take(PersonalPiece(HASH, 1000, 0, FILE[:1000]))
    assert b.drops == ["personal file without the hash that it was offered by"]
    assert not b.got


def test_offers_without_end_are_not_looked_at() -> None:
    b = Party()
    for number in range(MOST_OFFERS + 5):
        b.files.take(PersonalPiece(f"{number:02d}" * 32, 1000, 0, b""))
    assert len(b.said) == MOST_OFFERS
    assert len(b.drops) == 5


def offered(b: Party, data: bytes) -> None:
    """A peer that offers and sends a small file at once, whether it was asked or not."""
    file_hash = hashlib.sha256(data).hexdigest()
    b.files.take(PersonalPiece(file_hash, len(data), 0, b""))
    b.files.take(PersonalPiece(file_hash, len(data), 0, data))


@pytest.mark.parametrize("reconnect", [False, True])
def test_206_small_files_in_11_seconds_are_a_few_and_the_rest_is_dropped(tmp_path: Path, reconnect: bool) -> None:
    b = Party(tmp_path, use=False)
    for number in range(206):
        b.now_us = number * 11_000_000 // 206
        if reconnect:
            b.files.opened()
        offered(b, b"file %d" % number)
    assert len(b.got) == MOST_TAKEN
    assert len(b.drops) >= 206 - MOST_TAKEN


def test_the_same_file_offered_again_and_again_is_made_ready_once(tmp_path: Path) -> None:
    a, b = Party(), Party(tmp_path, use=None)
    a.files.offer(FILE)
    offer = a.said[0]
    talk(a, b)
    for _ in range(200):
        b.hear(offer)
        b.files.opened()
    assert len(b.got) == 1
    assert not b.said
    b.files.used(HASH, len(FILE))
    talk(b, a)
    assert a.files.confirmed


def test_a_cached_file_offered_again_and_again_is_made_ready_once(tmp_path: Path) -> None:
    a = Party()
    a.files.offer(FILE)
    offer = a.said[0]
    talk(a, Party(tmp_path))
    later = Party(tmp_path, use=None)
    for _ in range(200):
        later.hear(offer)
    assert len(later.got) == 1


def test_a_file_that_could_not_be_used_is_not_looked_at_again() -> None:
    b = Party(use=False)
    for _ in range(3):
        offered(b, b"nothing")
    assert len(b.got) == 1
    assert len(b.drops) == 4


def test_after_a_minute_another_file_is_welcome() -> None:
    b = Party()
    for number in range(MOST_TAKEN + 1):
        b.files.opened()
        offered(b, b"file %d" % number)
    assert len(b.got) == MOST_TAKEN
    b.now_us = TAKEN_IN_US
    b.files.opened()
    offered(b, b"another")
    assert len(b.got) == MOST_TAKEN + 1


def test_another_speaker_may_bring_the_file_of_the_one_before() -> None:
    b = Party()
    offered(b, FILE[:1000])
    b.files.forget()
    b.files.opened()
    offered(b, FILE[:1000])
    assert len(b.got) == 2


def test_a_piece_of_nothing_that_was_offered_is_not_sent() -> None:
    a = Party()
    a.files.send(WantPersonal(HASH, 0))
    a.files.offer(FILE)
    a.said.clear()
    a.files.send(WantPersonal("00" * 32, 0))
    a.files.send(WantPersonal(HASH, len(FILE) + 1))
    assert len(a.drops) == 3
    assert not a.said


def test_a_file_that_is_too_large_or_none_is_refused_before_the_call(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="2000000"):
        Party().files.offer(bytes(2_000_001))
    file = tmp_path / "me.safetensors"
    with pytest.raises(BadInput, match=r"me\.safetensors"):
        settings_from(room="r", personal=file)
    file.write_bytes(b"no such file")
    with pytest.raises(BadInput, match="not a personal file"):
        settings_from(room="r", personal=file)
    with pytest.raises(BadInput, match="facevid2vid"):
        settings_from(room="r", personal=file, family="facevid2vid")


def test_a_file_of_other_weights_is_refused_before_the_call(tmp_path: Path) -> None:
    from kilocall.model.compact.speaker_adapter import SpeakerAdapter

    file = tmp_path / "me.safetensors"
    nothing = {"a": np.zeros(1, np.float16)}
    file.write_bytes(bytes(SpeakerAdapter.between(nothing, nothing, family="compact-256", base="0" * 64)))
    with pytest.raises(WrongFamily, match="000000000000"):
        settings_from(room="r", personal=file)
