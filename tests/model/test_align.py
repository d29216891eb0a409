"""Implicit keypoints placed by comparing the frame with the receiver's copy of the source picture."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from kilocall.model.compact.align import LOOK, Alignment, look_at
from kilocall.model.compact.family import CompactFamily, jacobian
from kilocall.model.compact.held_field import HELD_WITHIN, MOST_HELD, HeldField
from kilocall.model.family import Array, Family, Picture, Source, Track, place
from kilocall.model.interior import BASIS
from kilocall.model.metrics import psnr
from kilocall.model.motion import Motion
from kilocall.model.reference_pictures import refer, retarget_to
from kilocall.sample.perform import portrait
from kilocall.sender.keypoint_aligner import KeypointAligner
from kilocall.sender.motion import MotionExtractor

FIELD = LOOK // 2
CHIN = 0.25  # of the portrait's crop: below it are neck and shoulders
IMPLICIT = slice(-len(BASIS) - 10, -len(BASIS))


@pytest.fixture(scope="module")
def crop(family: Family) -> Picture:
    return np.asarray(cv2.resize(portrait(), (family.size, family.size), interpolation=cv2.INTER_AREA), np.uint8)


@pytest.fixture(scope="module")
def source(family: Family, crop: Picture) -> Source:
    return family.source(crop)


def shrugged(picture: Picture, up_px: float) -> Picture:
    """The same face over shoulders that have risen."""
    rows, columns = (a.astype(np.float32) for a in np.mgrid[: len(picture), : len(picture)])
    below = np.clip((rows / len(picture) * 2 - 1 - CHIN) / 0.2, 0, 1)
    return np.asarray(cv2.remap(picture, columns, rows + up_px * below, cv2.INTER_CUBIC), np.uint8)


def placed(family: Family, source: Source, frame: Picture, times: int) -> tuple[Motion, Motion]:
    """As the detector has it and as it is placed, after so many equal frames."""
    extractor = MotionExtractor(family, source, smooth=False)
    for number in range(times):
        found = extractor.extract(frame, number * 40_000)
    assert extractor.plain is not None
    return extractor.plain, found


def test_a_shift_is_found_to_a_tenth_of_a_pixel() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (300, 300, 3), np.uint8)
    large = np.asarray(cv2.GaussianBlur(noise, (0, 0), 5), np.uint8)
    source, frame = (np.ascontiguousarray(large[y : y + 256, x : x + 256]) for x, y in ((20, 20), (22, 17)))
    alignment = Alignment(source)
    whole = np.ones((1, FIELD, FIELD), np.float32)
    for _ in range(8):
        moved = np.zeros((1, 2), np.float32) if alignment.moved is None else alignment.moved
        displacement = np.broadcast_to(-moved.reshape(1, 1, 2), (FIELD, FIELD, 2)).astype(np.float32)
        alignment.step(look_at(frame), displacement, whole)
    assert alignment.moved is not None
    # Pixels of 256; a tenth: the pictures are of whole grey levels, seen at a quarter of their size.
    assert alignment.moved[0] * LOOK == pytest.approx([-2, 3], abs=0.1)


@pytest.fixture
def field(family: Family, source: Source) -> HeldField:
    assert isinstance(family, CompactFamily)
    cue = family.appearance(source.picture)["motion_cue"]
    return HeldField(family.motion_field(), cue, source.keypoints)


def moved(source: Source, across: float, yaw: float = 0.0) -> tuple[Array, Array]:
    """Driving keypoints and jacobian of the source's head, moved across by crop units and turned."""
    pose = source.pose
    x, y = pose.translation
    motion = Motion((pose.rotation[0] + yaw, *pose.rotation[1:]), (x + across, y), pose.scale, pose.expression)
    head = place(source.shape, motion)
    return np.concatenate((head, source.implicit)).astype(np.float32), jacobian(pose, motion)


def test_a_held_field_is_nearly_that_of_the_network(field: HeldField, source: Source) -> None:
    field.expect(*moved(source, 0.06, yaw=0.1))
    made = field.at(*moved(source, 0.06, yaw=0.1))
    keypoints, turned = moved(source, 0.06 + 0.6 * HELD_WITHIN, yaw=0.13)
    field.expect(keypoints, turned)
    held = field.at(keypoints, turned)
    assert field.made == 1
    field.reset()
    field.expect(keypoints, turned)
    wanted = field.at(keypoints, turned)
    assert field.made == 2
    # A quarter of what it would be off if it stood still.
    assert np.abs(held - wanted).mean() < 0.25 * np.abs(made - wanted).mean()


def test_a_field_is_held_for_a_few_frames_and_over_little_movement(field: HeldField, source: Source) -> None:
    for number in range(1, 2 * MOST_HELD + 3):
        field.expect(*moved(source, 0.0))
        assert field.made == 1 + (number - 1) // (MOST_HELD + 1)
    before = field.made
    field.expect(*moved(source, 1.5 * HELD_WITHIN))
    assert field.made == before + 1


@pytest.mark.parametrize("light", [0.7, 0.85, 1.0])
def test_the_source_picture_itself_stays_at_rest(family: Family, source: Source, crop: Picture, light: float) -> None:
    crop = np.asarray(cv2.convertScaleAbs(crop, alpha=light), np.uint8)
    plain, found = placed(family, source, crop, 4)
    # In another light the detector itself is off by more.
    assert np.abs(found.expression[IMPLICIT]).max() * LOOK < (0.3 if light == 1 else 2)
    np.testing.assert_array_equal(np.delete(found.vector, np.r_[IMPLICIT]), np.delete(plain.vector, np.r_[IMPLICIT]))


@pytest.mark.parametrize("up_px", [4.0, -4.0])
def test_shoulders_are_shown_where_they_are(family: Family, source: Source, crop: Picture, up_px: float) -> None:
    frame = shrugged(crop, up_px)
    renderer = family.renderer(source)
    by_detector, after_one, after_six = (
        psnr([renderer.render(motion)], [frame])
        for motion in (*placed(family, source, frame, 1), placed(family, source, frame, 6)[1])
    )
    assert after_one > by_detector + 0.3
    assert after_six > by_detector + 1


def test_a_cut_starts_anew(family: Family, source: Source, crop: Picture) -> None:
    extractor = MotionExtractor(family, source, smooth=False)
    for number in range(6):
        extractor.extract(shrugged(crop, 4), number * 40_000)
    extractor.reset()
    again = extractor.extract(crop, 240_000)
    np.testing.assert_array_equal(again.vector, placed(family, source, crop, 1)[1].vector)


def test_tracks_without_a_look_are_left_as_they_are(family: Family, source: Source, crop: Picture) -> None:
    track: Track = replace(family.track(shrugged(crop, 4)), look=None)
    extractor = MotionExtractor(family, source, smooth=False)
    np.testing.assert_array_equal(extractor.from_track(track, 0).vector, family.motion(track, source).vector)


def test_on_a_further_picture_frames_are_placed_by_that_picture(family: Family, source: Source, crop: Picture) -> None:
    other = shrugged(np.asarray(cv2.convertScaleAbs(crop, alpha=0.8), np.uint8), 6)
    reference = refer(family, other, source)
    aligner = KeypointAligner(family, source)
    aligner.set_references([reference])
    track = family.track(other)
    for _ in range(3):
        found = aligner.align(family.motion(track, source), track)
    # The further picture itself is at rest on it.
    assert np.abs(retarget_to(found, reference).expression).max() < 0.02
    aligner.set_references([])
    assert len(aligner.references) == 1


def test_the_next_three_frames_take_over_the_refinement(family: Family, crop: Picture) -> None:
    tracks = [family.track(crop)]
    for _ in range(4):
        tracks.append(family.track(crop, tracks[-1]))
    refinements = [track.refinement for track in tracks]
    assert [one.lent for one in refinements if one is not None] == [0, 1, 2, 3, 0]
    np.testing.assert_allclose(tracks[3].points, tracks[0].points, atol=1e-5)
    np.testing.assert_array_equal(tracks[4].points, tracks[0].points)


def test_a_face_that_has_moved_away_is_looked_at_again(family: Family, crop: Picture) -> None:
    moved = np.roll(crop, 12, 1)
    refinement = family.track(moved, family.track(crop)).refinement
    assert refinement is not None
    assert refinement.lent == 0
