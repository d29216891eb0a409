from __future__ import annotations

import os
from pathlib import Path
from typing import SupportsBytes

import pytest

from kilocall.control.exchange import PICTURES, Cache, Exchange, Kind
from kilocall.proto.control import (
    ControlMessage,
    HavePicture,
    SourcePicture,
    WantPicture,
    parse_control,
)
from kilocall.proto.errors import BadInput

SEVERAL = Kind("several", SourcePicture, 100, offers=3, every_us=1_000_000, kept=3)
"""Such as a speaker's further pictures would be."""


def picture(number: int) -> SourcePicture:
    return SourcePicture("webp", b"picture %d" % number)


class Party:
    """One side's exchange; what it says is a list."""

    def __init__(self, kind: Kind[SourcePicture], cache: Path | None = None) -> None:
        self.now_us = 0
        self.said: list[ControlMessage] = []
        self.dropped: list[str] = []
        self.got: list[SourcePicture] = []
        self.offered: list[tuple[str, bool]] = []
        self.confirmed: list[str] = []
        self.in_use: set[str] = set()
        self.exchange = Exchange(
            kind,
            say=self._say,
            drop=self.dropped.append,
            clock_us=lambda: self.now_us,
            got=self.got.append,
            offered=lambda name, first: self.offered.append((name, first)),
            confirmed=self.confirmed.append,
            in_use=lambda: self.in_use,
            cache_folder=cache,
        )

    def _say(self, message: SupportsBytes) -> None:
        self.said.append(parse_control(bytes(message)))


def converse(one: Party, other: Party) -> None:
    """Each hears what the other says, until both are silent."""
    while one.said or other.said:
        for speaker, listener in ((one, other), (other, one)):
            said, speaker.said = speaker.said, []
            for message in said:
                match message:
                    case SourcePicture():
                        listener.exchange.take(message)
                    case WantPicture(name):
                        assert listener.exchange.send(name)
                    case HavePicture(name):
                        assert listener.exchange.confirm(name)
                    case _:
                        pytest.fail(f"{message} belongs to no exchange")


def test_several_are_open_at_a_time_and_each_is_sent_once() -> None:
    sender, receiver = Party(SEVERAL), Party(SEVERAL)
    for number in range(3):
        sender.exchange.offer(picture(number))
    converse(sender, receiver)
    assert receiver.got == [picture(number) for number in range(3)]
    for got in receiver.got:
        receiver.exchange.ready(got.picture_hash)
    converse(sender, receiver)
    assert sender.confirmed == [picture(number).picture_hash for number in range(3)]
    assert sender.exchange.sent == 3
    assert sender.exchange.sent_bytes == sum(len(picture(number).data) for number in range(3))
    assert [first for _, first in receiver.offered] == [True, False, False]


def test_next_connection_sends_nothing_again() -> None:
    sender, receiver = Party(SEVERAL), Party(SEVERAL)
    for number in range(3):
        sender.exchange.offer(picture(number))
    converse(sender, receiver)
    for party in (sender, receiver):
        party.exchange.opened()
    converse(sender, receiver)
    assert sender.exchange.sent == 3
    assert receiver.exchange.from_cache == 3
    assert receiver.got[3:] == receiver.got[:3]


def test_no_more_are_offered_and_looked_at_than_the_kind_allows() -> None:
    sender, receiver = Party(SEVERAL), Party(SEVERAL)
    for number in range(5):
        sender.exchange.offer(picture(number))
    offers = [message for message in sender.said if isinstance(message, SourcePicture)]
    sender.said.clear()
    assert sender.exchange.send(picture(0).picture_hash)  # was offered, and is no more
    assert sender.said == []
    assert not sender.exchange.send(picture(9).picture_hash)
    assert sender.exchange.send(picture(4).picture_hash)
    for offer in offers:
        receiver.exchange.take(offer)
    assert len(receiver.said) == 3
    assert receiver.dropped == ["offers follow each other too fast"] * 2
    receiver.now_us += SEVERAL.every_us
    receiver.exchange.take(offers[3])
    assert len(receiver.said) == 4


def test_picture_that_a_newer_one_overtakes_is_nobodys_fault() -> None:
    sender, receiver = Party(PICTURES), Party(PICTURES)
    sender.exchange.offer(picture(0))
    receiver.exchange.take(picture(0).offer())
    receiver.now_us += PICTURES.every_us
    receiver.exchange.take(picture(1).offer())  # overtakes the parts of the one before
    receiver.exchange.take(picture(0))
    receiver.exchange.take(picture(1))
    assert receiver.got == [picture(1)]
    assert receiver.dropped == []


def test_what_is_too_large_is_neither_offered_nor_taken() -> None:
    large = SourcePicture("webp", bytes(101))
    sender, receiver = Party(SEVERAL), Party(SEVERAL)
    with pytest.raises(BadInput, match="101 bytes, most is 100"):
        sender.exchange.offer(large)
    assert sender.said == []
    receiver.exchange.take(large.offer())
    receiver.exchange.take(large)
    assert receiver.got == []
    assert receiver.dropped == ["SourcePicture of 101 bytes, most is 100"]


def test_what_is_in_use_outlives_newer_ones() -> None:
    receiver = Party(SEVERAL)
    receiver.in_use = {picture(0).picture_hash}
    for number in range(6):
        receiver.now_us += SEVERAL.every_us
        receiver.exchange.take(picture(number).offer())
        receiver.exchange.take(picture(number))
    held = [number for number in range(6) if receiver.exchange.get(picture(number).picture_hash)]
    assert held == [0, 4, 5]


def test_refused_one_is_not_held() -> None:
    receiver = Party(PICTURES)
    receiver.exchange.take(picture(0).offer())
    receiver.exchange.take(picture(0))
    receiver.exchange.refused(picture(0).picture_hash)
    assert receiver.exchange.get(picture(0).picture_hash) is None


def test_damaged_file_of_the_cache_is_asked_for_again(tmp_path: Path) -> None:
    Cache(PICTURES.name, SourcePicture, tmp_path).put(picture(0))
    (file,) = (tmp_path / "pictures").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    receiver = Party(PICTURES, tmp_path)
    receiver.exchange.take(picture(0).offer())
    assert receiver.said == [WantPicture(picture(0).picture_hash)]


def test_cache_keeps_so_many_files_and_no_more(tmp_path: Path) -> None:
    cache = Cache(PICTURES.name, SourcePicture, tmp_path)
    for number in range(70):
        cache.put(picture(number))
        os.utime(tmp_path / "pictures" / picture(number).picture_hash, (number, number))
    assert len(list((tmp_path / "pictures").iterdir())) == 64


def test_cache_that_cannot_be_written_costs_only_the_cache(tmp_path: Path) -> None:
    (tmp_path / "pictures").write_text("not a folder")
    receiver = Party(PICTURES, tmp_path)
    receiver.exchange.take(picture(0).offer())
    receiver.exchange.take(picture(0))
    assert receiver.got == [picture(0)]
