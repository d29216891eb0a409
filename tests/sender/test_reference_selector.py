"""Further pictures found while a call runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from kilocall.api import StreamPlayer, open_family
from kilocall.model.family import Family, Picture
from kilocall.model.motion import Motion
from kilocall.proto.control import SourcePicture
from kilocall.proto.errors import BadInput
from kilocall.sample import sample_stream
from kilocall.sender.reference_search import Proposal
from kilocall.sender.reference_selector import FEWEST_PROBES, LOOK_EVERY_S, SEEK_EVERY_S, ReferenceSelector

WITHIN_S = 60.0


@pytest.fixture(scope="module")
def family() -> Family:
    return open_family(threads=1)


@pytest.fixture(scope="module")
def frames(family: Family) -> list[tuple[Picture, Motion]]:
    """A speaker in a darker room than in the source picture."""
    player = StreamPlayer(sample_stream("astronaut"), family=family)
    timed = [one.motion for one in player.motions()]
    return [((player.renderer.render(motion) * 0.75).astype(np.uint8), motion) for motion in timed[::10]]


@pytest.fixture(scope="module")
def source(family: Family) -> tuple[SourcePicture, Picture]:
    player = StreamPlayer(sample_stream("astronaut"), family=family)
    return player.source_picture, player.stream_source.picture


class Call:
    """A selector and what it finds; its clock goes on when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.found: list[tuple[str, SourcePicture]] = []
        self.news = threading.Event()
        self.selector = ReferenceSelector(
            self._found, lambda call: call(), pictures=2, kilobytes=14, clock=lambda: self.now
        )
        self.selector.start()
        self.selector.ready.result(WITHIN_S)

    def _found(self, base_hash: str, proposal: Proposal) -> None:
        self.found.append((base_hash, proposal.packed))
        self.news.set()

    def show(self, frames: list[tuple[Picture, Motion]]) -> None:
        for crop, motion in frames:
            self.now += LOOK_EVERY_S
            wait_for(self.selector.wants)
            self.selector.look(crop, motion, crop)
        self.now += SEEK_EVERY_S


def wait_for(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.fixture
def call() -> Iterator[Call]:
    made = Call()
    yield made
    made.selector.close()


def test_a_picture_is_found_once_enough_was_seen_and_no_second_one_beyond_the_budget(
    call: Call, frames: list[tuple[Picture, Motion]], source: tuple[SourcePicture, Picture]
) -> None:
    assert not call.selector.wants()  # there is no source picture to compare with
    call.selector.follow(*source)
    call.show(frames[: FEWEST_PROBES + 1])
    assert call.news.wait(WITHIN_S)
    base_hash, picture = call.found[0]
    assert base_hash == source[0].picture_hash
    assert 0 < len(picture.data) <= 14 * 1024 - len(source[0].data)
    call.selector.confirmed(picture.picture_hash)
    call.show(frames[-2:])
    call.selector.ask(lambda: None).result(WITHIN_S)
    assert len(call.found) == 1


def test_somebody_elses_picture_has_no_further_ones(
    call: Call, frames: list[tuple[Picture, Motion]], source: tuple[SourcePicture, Picture]
) -> None:
    call.selector.follow(*source)
    wait_for(call.selector.wants)
    call.selector.follow(None)
    call.selector.ask(lambda: None).result(WITHIN_S)
    call.now += 10
    assert not call.selector.wants()


@pytest.mark.parametrize(("pictures", "kilobytes"), [(9, 40), (8, 1000)])
def test_a_gallery_that_is_not_allowed_is_refused_before_anything_starts(pictures: int, kilobytes: float) -> None:
    with pytest.raises(BadInput, match="allowed"):
        ReferenceSelector(lambda base_hash, proposal: None, lambda call: None, pictures=pictures, kilobytes=kilobytes)
