from __future__ import annotations

import numpy as np
import pytest

from kilocall.proto.control import SourcePicture
from kilocall.proto.errors import BadInput
from kilocall.sender.own_pictures import OwnPictures, OwnSource


def source(number: int, *, taken_at: str = "12:00") -> OwnSource:
    return OwnSource(SourcePicture("webp", b"%d" % number), np.zeros((8, 8, 3), np.uint8), taken_at)


def test_a_picture_that_was_offered_waits_until_motion_refers_to_it() -> None:
    pictures = OwnPictures(None)
    assert pictures.waiting is None
    first, second = source(1), source(2)
    pictures.offered(first)
    assert pictures.waiting is first
    pictures.adopted(first)
    assert (pictures.source, pictures.waiting) == (first, None)
    pictures.offered(second)
    assert (pictures.source, pictures.waiting) == (first, second)
    assert pictures.is_offered(second.packed.picture_hash)
    assert not pictures.is_offered(first.packed.picture_hash)  # of two the newest holds


def test_what_was_offered_before_can_be_used_again_but_not_for_ever() -> None:
    pictures = OwnPictures(None)
    offered = [source(number) for number in range(8)]
    for one in [*offered, offered[6]]:
        pictures.offered(one)
    assert list(pictures.recent) == [offered[6], offered[7], *offered[5:1:-1]]
    assert pictures.used_before(offered[2].id) is offered[2]
    with pytest.raises(BadInput, match="none of the recent ones"):
        pictures.used_before(offered[1].id)


@pytest.mark.parametrize(("taken_at", "what"), [("12:00", "is taken"), ("", "rests")])
def test_somebody_else_is_told_once_and_what_becomes_of_the_source_picture(taken_at: str, what: str) -> None:
    pictures = OwnPictures(None)
    pictures.offered(source(1, taken_at=taken_at))
    pictures.adopted(source(1, taken_at=taken_at))
    assert pictures.mind("same") is None
    assert what in (pictures.mind("another") or "")
    assert pictures.mind("another") is None
    assert pictures.another
    pictures.adopted(source(2))
    assert not pictures.another
