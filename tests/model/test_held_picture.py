"""Pictures that are moved on from one that the networks made."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from kilocall.api import StreamPlayer
from kilocall.model.compact.family import CompactFamily
from kilocall.model.compact.held_picture import MOST_HELD
from kilocall.model.family import Array, Made, Source
from kilocall.model.metrics import psnr
from kilocall.model.motion import Motion
from kilocall.receiver.render import HOLD_FROM_S, FaceRenderer, makes_slowly
from kilocall.sample import sample_stream

#: Frames of a lively part of the sample.
FIRST, COUNT = 40, 24


class Counting:
    """A renderer, and how often its networks run."""

    def __init__(self, player: StreamPlayer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = 0
        assert isinstance(player.family, CompactFamily)
        field = player.family.motion_field()

        def counted(**inputs: Array) -> dict[str, Array]:
            self.made += 1
            return field(**inputs)

        with monkeypatch.context() as patched:
            patched.setattr(player.family, "motion_field", lambda: counted)
            self.renderer = player.family.renderer(player.renderer.source)


@pytest.fixture(scope="module")
def player() -> StreamPlayer:
    return StreamPlayer(sample_stream("astronaut"), threads=1)


@pytest.fixture(scope="module")
def motions(player: StreamPlayer) -> list[Motion]:
    return [timed.motion for timed in player.motions()][FIRST : FIRST + COUNT]


@pytest.fixture
def counting(player: StreamPlayer, monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(player, monkeypatch)


@pytest.fixture(scope="module")
def wanted(player: StreamPlayer, motions: list[Motion]) -> list[Made]:
    renderer = player.family.renderer(player.renderer.source)
    return [renderer.make(motion) for motion in motions]


def shifted(motion: Motion, across: float) -> Motion:
    x, y = motion.translation
    return replace(motion, translation=(x + across, y))


def test_a_frame_that_does_not_follow_is_made_anew(counting: Counting, motions: list[Motion]) -> None:
    counting.renderer.make(motions[0], hold=1.0)
    counting.renderer.make(motions[0], hold=1.0)
    assert counting.made == 1
    counting.renderer.restart()
    counting.renderer.make(motions[0], hold=1.0)
    assert counting.made == 2


def test_what_is_moved_on_is_nearly_what_the_networks_make(
    counting: Counting, motions: list[Motion], wanted: list[Made]
) -> None:
    shown = [counting.renderer.make(motion, hold=1.0) for motion in motions]
    assert COUNT / (MOST_HELD + 1) <= counting.made < 0.7 * COUNT
    pictures, truth = [one.picture for one in shown], [one.picture for one in wanted]
    # The same number of made pictures, each standing until the next, is what it is to be better than.
    standing = [truth[number - number % 2] for number in range(COUNT)]
    assert psnr(pictures, truth) > max(42.0, psnr(standing, truth) + 6)
    assert min(psnr([a], [b]) for a, b in zip(pictures, truth, strict=True)) > 36
    for one, other in zip(shown, wanted, strict=True):
        assert one.placement is not None
        assert other.placement is not None
        for name, most in (("displacement", 0.004), ("painted", 0.05), ("visible", 0.05), ("speaking", 0.02)):
            a, b = getattr(one.placement, name), getattr(other.placement, name)
            assert a.shape == b.shape, name
            assert np.abs(a - b).mean() < most, name


def test_without_hold_every_picture_is_made_and_is_the_same_to_the_bit(
    counting: Counting, motions: list[Motion], wanted: list[Made]
) -> None:
    renderer = counting.renderer
    renderer.make(motions[0], hold=1.0)
    for motion, made in zip(motions[:6], wanted, strict=False):
        np.testing.assert_array_equal(renderer.make(motion).picture, made.picture)


def test_a_picture_is_moved_on_for_a_few_frames_while_little_moves(counting: Counting, player: StreamPlayer) -> None:
    renderer, rest = counting.renderer, player.renderer.source.pose
    for number in range(3 * (MOST_HELD + 1)):
        renderer.make(shifted(rest, 0.001 * number), hold=1.0)
    assert counting.made == 3
    renderer.make(shifted(rest, 0.08), hold=1.0)
    assert counting.made == 4
    # At half the rate twice as far, over half as many frames.
    renderer.make(shifted(rest, 0.08 + 0.05), hold=2.0)
    assert counting.made == 4
    renderer.make(shifted(rest, 0.08 + 0.05), hold=1.0)
    assert counting.made == 5


def test_a_mouth_that_opens_within_a_face_at_rest_is_made_anew(
    counting: Counting, player: StreamPlayer, motions: list[Motion]
) -> None:
    renderer, source = counting.renderer, player.renderer.source
    renderer.make(source.pose, hold=1.0)
    wide = max(motions, key=lambda motion: float(np.abs(motion.expression).sum()))
    renderer.make(replace(source.pose, expression=wide.expression), hold=1.0)
    assert counting.made == 2


def test_a_renderer_holds_what_it_is_told_to_and_passes_it_on(
    player: StreamPlayer, motions: list[Motion], wanted: list[Made]
) -> None:
    plain, holding = (FaceRenderer(player.family, player.renderer.source) for _ in range(2))
    holding.hold = 1.0
    differ = [bool((holding.render(motion) != plain.render(motion)).any()) for motion in motions[: 2 * (MOST_HELD + 1)]]
    assert any(differ)
    assert not all(differ)
    assert holding.made_by(player.family).hold == 1.0


class Timed:
    """A family whose pictures take so long each, the first excepted."""

    def __init__(self, *took_s: float, can_hold: bool = True) -> None:
        self.took_s = list(took_s)
        self.can_hold = can_hold

    def renderer(self, source: Source) -> Timed:
        return self

    def make(self, motion: Motion, *, hold: float = 0.0) -> Made:
        time.sleep(self.took_s.pop(0))
        return Made(np.zeros((4, 4, 3), np.uint8))


@pytest.mark.parametrize(
    ("took", "slow"),
    [((4, 2, 2, 2, 2), True), ((4, 2, 2, 0, 0), False), ((9, 0, 0), False), ((9, 5, 5), True)],
    ids=["slow", "once quick", "quick", "very slow"],
)
def test_a_processor_is_slow_if_no_picture_is_made_quickly(
    player: StreamPlayer, took: tuple[float, ...], slow: bool
) -> None:
    family = Timed(*(HOLD_FROM_S * each for each in took))
    assert makes_slowly(family, player.renderer.source) == slow  # type: ignore[arg-type]


def test_a_family_that_moves_nothing_on_makes_one_picture_and_no_more(player: StreamPlayer) -> None:
    family = Timed(HOLD_FROM_S, can_hold=False)
    assert not makes_slowly(family, player.renderer.source)  # type: ignore[arg-type]
    assert family.took_s == []
