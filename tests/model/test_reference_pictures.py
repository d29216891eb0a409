"""On which picture a frame is shown, and what its motion is there."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kilocall.api import StreamPlayer
from kilocall.model.family import Family, Picture
from kilocall.model.reference_pictures import (
    FADE_FRAMES,
    Choice,
    Chooser,
    Distance,
    base_reference,
    check_reference_budget,
    refer,
    retarget_to,
)
from kilocall.proto.errors import BadInput, NoFace


def far(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


@pytest.fixture(scope="module")
def frame(player: StreamPlayer) -> Picture:
    """One in which head and lips have moved."""
    return next(player.frames(from_us=2_000_000)).rgb


def test_the_nearest_picture_is_shown_at_first_without_a_fade() -> None:
    assert Chooser().choose(far(0.3, 0.1, 0.2)) == Choice(1)


def test_a_picture_that_is_hardly_nearer_is_not_shown() -> None:
    chooser = Chooser(nearer=0.8)
    chooser.choose(far(0.1, 0.2))
    assert chooser.choose(far(0.1, 0.081)) == Choice(0)
    assert chooser.choose(far(0.1, 0.079)).picture == 1


def test_a_change_is_faded_and_nothing_changes_within_a_fade() -> None:
    chooser = Chooser(fade_frames=3)
    chooser.choose(far(0.1, 0.3, 0.3))
    shown = [chooser.choose(far(0.3, 0.1, 0.3)), *(chooser.choose(far(0.3, 0.3, 0.0)) for _ in range(2))]
    assert shown == [Choice(1, 0, 0.25), Choice(1, 0, 0.5), Choice(1, 0, 0.75)]
    assert chooser.choose(far(0.3, 0.3, 0.0)) == Choice(2, 1, 0.25)


def test_after_a_reset_nothing_is_faded() -> None:
    chooser = Chooser()
    chooser.choose(far(0.1, 0.3))
    chooser.reset()
    assert chooser.choose(far(0.3, 0.1)) == Choice(1)


def test_a_picture_that_comes_later_is_shown_from_then_on() -> None:
    chooser = Chooser(fade_frames=0)
    assert chooser.choose(far(0.2)) == Choice(0)
    assert chooser.choose(far(0.2, 0.1)) == Choice(1)


#: Not st.floats: a network that ran before may have switched off subnormal numbers, and hypothesis minds that.
distances = st.lists(
    st.lists(st.integers(0, 1000).map(lambda thousandths: thousandths / 1000), min_size=3, max_size=3),
    min_size=1,
    max_size=40,
)


@given(distances)
def test_choices_depend_on_the_distances_alone(frames: list[list[float]]) -> None:
    one, other = Chooser(), Chooser()
    assert [one.choose(far(*row)) for row in frames] == [other.choose(far(*row)) for row in frames]


@given(distances)
def test_a_picture_that_is_not_held_is_never_referred_to(frames: list[list[float]]) -> None:
    """Whatever arrives when: the third picture comes half way, as one that was lost at first does."""
    chooser = Chooser()
    for number, row in enumerate(frames):
        held = 2 if number < len(frames) // 2 else 3
        choice = chooser.choose(far(*row[:held]))
        assert choice.picture < held
        assert choice.before is None or choice.before < held


@given(distances)
@example([[0.1, 1.0, 1.0], *[[1.0, 0.1, 1.0]] * 4])  # a fade from its beginning to its end
def test_shares_of_a_fade_grow(frames: list[list[float]]) -> None:
    chooser = Chooser()
    choices = [chooser.choose(far(*row)) for row in frames]
    for before, after in pairwise(choices):
        if before.before is not None and before.share < FADE_FRAMES / (FADE_FRAMES + 1):
            assert (after.picture, after.before) == (before.picture, before.before)
            assert after.share > before.share


@pytest.mark.parametrize(("nearer", "fade"), [(0.0, 2), (1.1, 2), (0.8, -1)])
def test_settings_that_mean_nothing_are_refused(nearer: float, fade: int) -> None:
    with pytest.raises(BadInput, match="allowed"):
        Chooser(nearer=nearer, fade_frames=fade)


@pytest.mark.parametrize(("pictures", "kilobytes", "said"), [(9, 40, "0 to 8"), (-1, 40, "0 to 8"), (8, 0, "1 to 256")])
def test_a_gallery_that_is_not_allowed_is_refused(pictures: int, kilobytes: float, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        check_reference_budget(pictures, kilobytes)


def test_at_its_own_motion_a_reference_is_at_rest(family: Family, player: StreamPlayer, frame: Picture) -> None:
    reference = refer(family, frame, player.stream_source)
    still = retarget_to(reference.motion, reference)
    assert still.rotation == pytest.approx(reference.source.pose.rotation, abs=1e-4)
    assert still.translation == pytest.approx(reference.source.pose.translation, abs=1e-5)
    assert still.scale == pytest.approx(reference.source.pose.scale, rel=1e-5)
    assert not still.expression.any()


def test_motion_on_a_reference_puts_the_points_where_it_puts_the_sources(
    family: Family, player: StreamPlayer, frame: Picture
) -> None:
    base = player.stream_source
    reference = refer(family, frame, base)
    for timed, _ in zip(player.motions(), range(60), strict=False):
        wanted = family.keypoints(base, timed.motion)
        made = family.keypoints(reference.source, retarget_to(timed.motion, reference))
        # The two pictures' landmarks are each found with an error of a pixel or so; a pixel is 1/128.
        assert np.linalg.norm(made - wanted, axis=-1).mean() < 2.5 / 128


def test_distance_is_nought_from_itself_and_grows_with_the_turn(family: Family, player: StreamPlayer) -> None:
    base = player.stream_source
    distance = Distance(family, base)
    own = [base_reference(family, base)]
    assert distance.to(base.pose, own)[0] == pytest.approx(0, abs=1e-6)
    turns = []
    for angle in (0.05, 0.1, 0.2):
        yaw, pitch, roll = base.pose.rotation
        turned = replace(base.pose, rotation=(yaw + angle, pitch, roll))
        turns.append(float(distance.to(turned, own)[0]))
    assert turns == sorted(turns)
    assert turns[0] > 0


def test_a_picture_without_a_face_is_no_reference(family: Family, player: StreamPlayer) -> None:
    with pytest.raises(NoFace):
        refer(family, np.full((256, 256, 3), 90, np.uint8), player.stream_source)
