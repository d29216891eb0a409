"""Frames shown on several pictures of one speaker."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kilocall.api import StreamPlayer
from kilocall.model.family import Family, Picture
from kilocall.model.motion import Motion
from kilocall.model.reference_pictures import FADE_FRAMES
from kilocall.proto.errors import BadInput, NoFace
from kilocall.proto.limits import MOST_PICTURES
from kilocall.receiver.reference_renderer import ReferenceRenderer, faded
from kilocall.receiver.render import FaceRenderer, View


@pytest.fixture(scope="module")
def motions(player: StreamPlayer) -> list[Motion]:
    return [timed.motion for timed in player.motions()]


@pytest.fixture(scope="module")
def moved(player: StreamPlayer, motions: list[Motion]) -> Motion:
    """The frame furthest from the source picture."""
    rest = np.array(player.stream_source.pose.translation)
    return max(motions, key=lambda motion: float(np.abs(np.array(motion.translation) - rest).sum()))


@pytest.fixture(scope="module")
def marked(family: Family, player: StreamPlayer, moved: Motion) -> Picture:
    """How the speaker looks in that frame, with a corner that no other picture has."""
    picture = family.renderer(player.stream_source).render(moved)
    picture[:24, :24] = (255, 0, 255)
    return picture


def is_marked(picture: Picture) -> float:
    """0..1: how much of the corner's colour is there."""
    corner = picture[4:12, 4:12].astype(float).mean((0, 1))
    return float(np.clip((corner[0] - corner[1]) / 255, 0, 1))


def test_one_picture_gives_what_it_always_gave(family: Family, player: StreamPlayer, motions: list[Motion]) -> None:
    alone, gallery = family.renderer(player.stream_source), ReferenceRenderer(family, player.stream_source)
    for motion in motions[::40]:
        np.testing.assert_array_equal(gallery.render(motion), alone.render(motion))
    assert gallery.changes == 0


def test_a_frame_is_shown_on_the_picture_that_is_nearest(
    family: Family, player: StreamPlayer, moved: Motion, marked: Picture
) -> None:
    gallery = ReferenceRenderer(family, player.stream_source)
    gallery.add(marked)
    assert is_marked(gallery.render(moved)) > 0.5
    gallery.restart()
    assert is_marked(gallery.render(player.stream_source.pose)) < 0.1
    assert gallery.shown == [1, 1]


def test_a_change_is_a_fade_between_both(family: Family, player: StreamPlayer, moved: Motion, marked: Picture) -> None:
    gallery = ReferenceRenderer(family, player.stream_source)
    gallery.add(marked)
    shown = [is_marked(gallery.render(player.stream_source.pose))]
    shown += [is_marked(gallery.render(moved)) for _ in range(FADE_FRAMES + 1)]
    assert shown[0] < 0.1 < shown[1] < shown[2] < shown[3]
    assert gallery.changes == 1


def test_light_is_faded_and_what_moved_is_seen_once(player: StreamPlayer) -> None:
    old = player.stream_source.picture
    darker = (old * 0.8).astype(np.uint8)
    half = faded(darker, old, 0.5)
    np.testing.assert_allclose(half, (darker.astype(float) + old) / 2, atol=1.5)
    aside = np.roll(old, 12, axis=1)
    switched = faded(aside, old, 0.5)
    face = slice(64, 192)  # the wall behind is even: there both look alike
    off = np.abs(switched[face, face].astype(float) - aside[face, face]).mean()
    twice = np.abs(old[face, face].astype(float) - aside[face, face]).mean() / 2
    assert off < 0.25 * twice
    np.testing.assert_array_equal(faded(old, aside, 1.0), old)


def test_the_same_motions_give_the_same_pictures(
    family: Family, player: StreamPlayer, motions: list[Motion], marked: Picture
) -> None:
    made = []
    for _ in range(2):
        gallery = ReferenceRenderer(family, player.stream_source)
        gallery.add(marked)
        made.append([gallery.render(motion) for motion in motions[::10]])
    np.testing.assert_array_equal(made[0], made[1])


def test_no_more_than_eight_and_none_without_a_face(family: Family, player: StreamPlayer, marked: Picture) -> None:
    renderer = FaceRenderer(family, player.stream_source)
    with pytest.raises(NoFace):
        renderer.add_picture(np.zeros((256, 256, 3), np.uint8))
    assert renderer.pictures == 1
    for _ in range(MOST_PICTURES - 1):
        renderer.add_picture(marked)
    with pytest.raises(BadInput, match="most are 8"):
        renderer.add_picture(marked)
    assert renderer.pictures == MOST_PICTURES


def test_somebody_elses_picture_takes_no_further_ones(family: Family, player: StreamPlayer, marked: Picture) -> None:
    stranger = family.source(np.ascontiguousarray(marked[:, ::-1]))
    with pytest.raises(BadInput, match="somebody else"):
        FaceRenderer(family, player.stream_source, stranger).add_picture(marked)


def test_the_picture_is_chosen_by_the_turned_head(family: Family, player: StreamPlayer) -> None:
    """A viewer who turns the head gets the picture in which it is turned."""
    base = player.stream_source
    looking_aside = FaceRenderer(family, base)
    looking_aside.view = View(yaw=18)
    turned = looking_aside.render(base.pose)
    turned[:24, :24] = (255, 0, 255)
    renderer = FaceRenderer(family, base)
    renderer.add_picture(turned)
    assert is_marked(renderer.render(base.pose)) < 0.1
    renderer.restart()
    renderer.view = View(yaw=18)
    assert is_marked(renderer.render(base.pose)) > 0.5


def test_a_picture_that_does_not_follow_is_moved_on_from_none_before(
    family: Family, player: StreamPlayer, motions: list[Motion]
) -> None:
    """As after seeking, where a slow processor shows most pictures moved on."""
    renderer = FaceRenderer(family, player.stream_source)
    anew = renderer.render(motions[41])
    renderer.hold = 1.0
    renderer.render(motions[40])
    assert (renderer.render(motions[41]) != anew).any()
    renderer.restart()
    np.testing.assert_array_equal(renderer.render(motions[41]), anew)


def test_pictures_of_either_size_come_out_as_large_as_the_source(
    family: Family, player: StreamPlayer, moved: Motion, marked: Picture
) -> None:
    large = np.asarray(cv2.resize(player.stream_source.picture, (512, 512)), np.uint8)
    gallery = ReferenceRenderer(family, family.source(large))
    gallery.add(marked)
    assert gallery.render(moved).shape == (512, 512, 3)
    small = ReferenceRenderer(family, player.stream_source)
    small.add(np.asarray(cv2.resize(marked, (512, 512)), np.uint8))
    assert small.render(moved).shape == (256, 256, 3)
