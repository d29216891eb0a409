"""The crop stands still when it can, moves smoothly when it must, and says where it was cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from kilocall.model.family import Track
from kilocall.proto.errors import NoFace
from kilocall.sender.capture import Frame
from kilocall.sender.crop_plan import PlanPart
from kilocall.sender.face_crop import (
    CROP_SIDE,
    CropPlace,
    CropPlan,
    FaceCropper,
    ReframePolicy,
    box_from_landmarks,
    cut,
    find_first_face,
    ideal_place,
    paste_back_matrix,
    plan_crops,
)
from kilocall.sender.face_finder import FaceBox, FaceFinder
from kilocall.sender.reframe import MAX_SPEED

Picture = NDArray[np.uint8]
HD = (1280, 720)


def face(x: float, y: float, height: float = 200.0) -> FaceBox:
    width = height * 0.84
    return FaceBox(x - width / 2, y - height / 2, width, height, 1.0)


def inside(box: FaceBox, place: CropPlace) -> bool:
    slack = 1e-6
    return (
        box.x0 >= place.x0 - slack
        and box.y0 >= place.y0 - slack
        and box.x0 + box.width <= place.x0 + place.side + slack
        and box.y0 + box.height <= place.y0 + place.side + slack
    )


def followed(boxes: Sequence[FaceBox], size: tuple[int, int] = HD) -> list[CropPlace]:
    """Places that a 25 fps live run gives: each is decided before its box is known."""
    policy = ReframePolicy(size)
    policy.restart(boxes[0])
    places = []
    for box in boxes:
        assert policy.place is not None
        places.append(policy.place)
        policy.step(box, 0.04)
    return places


def centre(place: CropPlace) -> tuple[float, float]:
    return place.x0 + place.side / 2, place.y0 + place.side / 2


# --- where a crop lies -------------------------------------------------------------------------------


def test_the_face_has_the_proportions_of_the_training_crops() -> None:
    box = face(640, 360)
    place = ideal_place(box, HD)
    assert (640 - place.x0) / place.side == pytest.approx(0.498)
    assert (360 - place.y0) / place.side == pytest.approx(0.533)
    assert max(box.width / place.side / 0.458, box.height / place.side / 0.543) == pytest.approx(1)


def test_a_crop_is_shifted_into_the_frame_where_a_little_suffices() -> None:
    place = ideal_place(face(640, 180), HD)
    assert place.y0 == 0
    assert (180 - place.y0) / place.side > 0.43


def test_a_crop_reaches_past_the_border_when_the_face_is_at_it() -> None:
    place = ideal_place(face(40, 360), HD)
    assert place.x0 < 0
    assert abs((40 - place.x0) / place.side - 0.398) < 1e-6


def test_a_face_as_tall_as_the_frame_gets_a_tighter_crop() -> None:
    box = face(640, 360, 480)
    assert ideal_place(box, HD).side == 720
    assert inside(box, ideal_place(box, HD))


def test_landmarks_map_to_the_frame_and_back() -> None:
    place = CropPlace(100, 50, 300)
    box = box_from_landmarks(np.array([[-1, -1], [1, 1], [0, 0]], np.float32), place)
    assert (box.x0, box.y0, box.width, box.height) == (100, 50, 300, 300)


# --- cutting -----------------------------------------------------------------------------------------


def test_a_crop_of_its_own_size_is_the_frame() -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (400, 500, 3)).astype(np.uint8)
    crop, place = cut(rgb, CropPlace(20.2, 30.4, 256.3))
    assert place == CropPlace(20, 30, 256)
    assert (crop == rgb[30:286, 20:276]).all()


def test_reducing_averages_rather_than_skips() -> None:
    stripes = np.zeros((768, 768, 3), np.uint8)
    stripes[:, ::3] = 255  # finer than the crop can hold: must become even grey
    crop, _ = cut(stripes, CropPlace(0, 0, 768))
    assert 84 <= crop.min() <= crop.max() <= 86


@pytest.mark.parametrize("side", [300, 420, 600, 700, 1300])
def test_reducing_by_a_fraction_hides_no_line_and_favours_none(side: int) -> None:
    lines = np.zeros((side, side, 3), np.uint8)
    lines[:, ::8] = 255
    crop, place = cut(lines, CropPlace(0, 0, side))
    assert place.side == side
    # Each line is as bright in all as its share of the width; sampling that skips pixels loses some of them whole.
    per_line = np.add.reduceat(crop[0, :, 0].astype(float), (np.arange(0, side, 8) * 256 / side).astype(int))
    wanted = 255 * 256 / side
    assert abs(per_line[1:-1].mean() - wanted) < 0.02 * wanted
    assert crop[0].astype(float).mean() == pytest.approx(255 / 8, rel=0.03)
    smallest, largest = np.percentile(np.convolve(crop[0, :, 0], np.ones(8 * 256 // side + 2)), (10, 90))
    assert smallest > 0.5 * wanted
    assert largest < 2.5 * wanted


@pytest.mark.parametrize(
    "place",
    [
        CropPlace(-60, -40, 300),
        CropPlace(350, 250, 300),
        CropPlace(-100, -100, 700),
        CropPlace(-30, 320, 120),
    ],
)
def test_past_the_border_colours_of_the_edge_fade_out(place: CropPlace) -> None:
    """Shapes inside are not seen again outside, and what comes next to the edge has its colours."""
    rgb = np.full((400, 500, 3), 90, np.uint8)
    rgb[8:-8:4, 8:-8] = 200
    rgb[:, :8:2] = rgb[:, -8::2] = rgb[:8:2] = rgb[-8::2] = 130
    crop, used = cut(rgb, place)
    assert crop.shape == (CROP_SIDE, CROP_SIDE, 3)
    x, y = ((np.arange(CROP_SIDE) + 0.5) * used.side / CROP_SIDE + start for start in (used.x0, used.y0))
    outside = ((x < -2) | (x > 502))[None] | ((y < -2) | (y > 402))[:, None]
    assert outside.any()
    assert 85 <= crop[outside].min() <= crop[outside].max() <= 135
    grey = crop[..., 0].astype(int)
    steps = [np.abs(np.diff(grey, axis=0, prepend=grey[:1])), np.abs(np.diff(grey, axis=1, prepend=grey[:, :1]))]
    assert max(step[outside].max() for step in steps) <= 12


def test_a_place_outside_the_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="outside the 500x400 frame"):
        cut(np.zeros((400, 500, 3), np.uint8), CropPlace(600, 0, 300))


@pytest.mark.parametrize("place", [CropPlace(60, 40, 320), CropPlace(101.5, 77.25, 200.5)])
def test_pasting_back_lands_where_it_was_cut(place: CropPlace) -> None:
    y, x = np.mgrid[0:400, 0:500]
    rgb = np.stack([x / 2, y / 2, np.zeros_like(x)], -1).astype(np.uint8)
    crop, used = cut(rgb, place)
    back = cv2.warpAffine(crop, paste_back_matrix(used), (500, 400), flags=cv2.INTER_LINEAR)
    there = (
        slice(int(used.y0) + 4, int(used.y0 + used.side) - 4),
        slice(int(used.x0) + 4, int(used.x0 + used.side) - 4),
    )
    assert np.abs(back[there].astype(int) - rgb[there]).max() <= 2


# --- when it moves -----------------------------------------------------------------------------------


def test_a_still_face_with_jitter_never_reframes() -> None:
    rng = np.random.default_rng(5)
    boxes = [face(640 + dx, 360 + dy, 200 + ds) for dx, dy, ds in rng.uniform(-3, 3, (500, 3))]
    assert len(set(followed(boxes))) == 1


def test_nodding_and_talking_do_not_reframe() -> None:
    boxes = [
        face(640 + 30 * math.sin(i / 9), 360 + 25 * math.sin(i / 5), 200 + 15 * math.sin(i / 2)) for i in range(300)
    ]
    assert len(set(followed(boxes))) == 1


def test_one_wild_box_does_not_reframe() -> None:
    boxes = [face(640, 360)] * 20 + [face(700, 360)] * 2 + [face(640, 360)] * 20
    assert len(set(followed(boxes))) == 1


def test_a_walk_across_the_picture_is_followed_smoothly() -> None:
    boxes = [face(300 + 5 * min(i, 130), 360) for i in range(200)]  # 125 px/s, a third of the crop
    places = followed(boxes)
    side = places[0].side
    steps = np.diff([centre(p)[0] for p in places])
    assert all(inside(b, p) for b, p in zip(boxes, places, strict=True))
    assert np.abs(steps).max() <= MAX_SPEED * side * 0.04 + 1e-6
    assert np.abs(np.diff(steps)).max() < 0.012 * side  # no jerk
    assert (steps >= -0.01).all()  # never back
    assert steps[-30:].max() == 0  # and at rest in the end
    assert abs(centre(places[-1])[0] - centre(ideal_place(boxes[-1], HD))[0]) < 0.13 * side


def test_a_reframing_is_over_within_a_second() -> None:
    boxes = [face(500, 360)] * 5 + [face(580, 360)] * 60
    places = followed(boxes)
    moving = [i for i, (a, b) in enumerate(pairwise(places)) if a != b]
    assert 10 <= len(moving) <= 28
    assert moving == list(range(moving[0], moving[0] + len(moving)))
    assert abs(centre(places[-1])[0] - centre(ideal_place(boxes[-1], HD))[0]) < 3


def test_a_face_that_runs_stays_inside() -> None:
    boxes = [face(200 + 35 * i, 360) for i in range(28)]  # 875 px/s
    places = followed(boxes)[1:]
    outside = [i for i, (b, p) in enumerate(zip(boxes[:-1], places, strict=True)) if not inside(b, p)]
    assert outside == []


def test_coming_closer_zooms_out() -> None:
    boxes = [face(640, 360, 150 + 2 * min(i, 75)) for i in range(150)]
    places = followed(boxes)
    assert places[-1].side > 1.6 * places[0].side
    assert all(inside(b, p) for b, p in zip(boxes, places, strict=True))


def test_a_cut_to_another_place_jumps_at_once() -> None:
    places = followed([face(300, 360)] * 5 + [face(900, 360)] * 5)
    assert len(set(places)) == 2
    assert centre(places[6]) == pytest.approx(centre(ideal_place(face(900, 360), HD)))


# --- the plan of a whole clip ------------------------------------------------------------------------


def test_a_plan_glides_between_its_parts_and_jumps_at_cuts() -> None:
    a, b, c = CropPlace(0, 0, 100), CropPlace(60, 0, 100), CropPlace(400, 0, 200)
    plan = CropPlan((PlanPart(0, a, False), PlanPart(1_000_000, b, True), PlanPart(3_000_000, c, False)), 1)
    assert plan.place_at(0) == plan.place_at(699_999) == a
    assert plan.place_at(1_000_000).x0 == pytest.approx(30)
    assert plan.place_at(1_300_001) == plan.place_at(2_999_999) == b
    assert plan.place_at(3_000_000) == c
    steps = np.diff([plan.place_at(t).x0 for t in range(600_000, 1_400_000, 10_000)])
    assert 0 <= steps.min() <= steps.max() < 2


def walk(paste: Callable[..., Picture], wall: Picture, xs: Sequence[float], zoom: float = 1.2) -> list[Frame]:
    return [Frame(paste(wall, x, 180, zoom), 40_000 * i, i) for i, x in enumerate(xs)]


def test_a_still_clip_is_planned_as_one_place(wall: Picture, paste: Callable[..., Picture]) -> None:
    frames = walk(paste, wall, [320 + 3 * math.sin(i) for i in range(20)])
    plan = plan_crops(frames)
    assert len(plan.parts) == 1
    assert plan.faces == 1
    crops = [FaceCropper(plan=plan).crop(f) for f in frames]
    assert len({c.place for c in crops}) == 1
    assert all(c.found for c in crops)


def test_a_planned_walk_has_few_parts_and_holds_the_face(wall: Picture, paste: Callable[..., Picture]) -> None:
    xs = [180 + 4.0 * i for i in range(70)]
    plan = plan_crops(walk(paste, wall, xs))
    assert 2 <= len(plan.parts) <= 6
    for i, x in enumerate(xs):
        place = plan.place_at(40_000 * i)
        assert place.x0 + 0.25 * place.side < x < place.x0 + 0.75 * place.side


def test_a_plan_jumps_exactly_at_a_cut(wall: Picture, paste: Callable[..., Picture]) -> None:
    other = np.ascontiguousarray(255 - wall[:, ::-1])
    frames = walk(paste, wall, [150] * 8) + [Frame(paste(other, 480, 180, 1.2), 40_000 * i, i) for i in range(8, 16)]
    plan = plan_crops(frames)
    assert len(plan.parts) == 2
    assert plan.parts[1].start_us == 320_000
    assert not plan.parts[1].eased


def test_a_clip_without_a_face_is_refused(wall: Picture) -> None:
    frames = [Frame(wall, 40_000 * i, i) for i in range(6)]
    with pytest.raises(NoFace, match="any of 6 frames"):
        plan_crops(frames)
    with pytest.raises(NoFace, match="any of 6 frames"):
        find_first_face(frames)
    with pytest.raises(NoFace, match="any of 0 frames"):
        find_first_face([])


def test_the_first_face_is_found_behind_empty_frames(wall: Picture, paste: Callable[..., Picture]) -> None:
    frames = [Frame(wall, 0, 0), Frame(wall, 40_000, 1), *walk(paste, wall, [320, 320])]
    frame, box = find_first_face(frames)
    assert frame is frames[2]
    assert abs(box.centre[0] - 320) < 20


# --- live --------------------------------------------------------------------------------------------


def tracked(points: NDArray[np.float32], certainty: float) -> Track:
    return Track(points, np.zeros(len(points), np.float32), np.zeros((0, 2), np.float32), certainty)


class CascadeTracker:
    """A landmark tracker in the form of a cascade: four corners of the face in the crop."""

    def __init__(self) -> None:
        self.finder = FaceFinder(search_side=128)

    def track(self, crop_rgb: Picture) -> Track:
        boxes = self.finder.find(crop_rgb)
        if not boxes:
            return tracked(np.zeros((4, 2), np.float32), 0.0)
        b = boxes[0]
        corners = [
            (b.x0, b.y0),
            (b.x0 + b.width, b.y0),
            (b.x0, b.y0 + b.height),
            (b.x0 + b.width, b.y0 + b.height),
        ]
        return tracked(np.array(corners, np.float32) / (CROP_SIDE / 2) - 1, 0.9)


@pytest.fixture(params=["cascade only", "with landmarks"])
def tracker(request: pytest.FixtureRequest) -> CascadeTracker | None:
    return CascadeTracker() if request.param == "with landmarks" else None


def test_a_still_face_is_found_in_every_frame_and_the_crop_rests(
    tracker: CascadeTracker | None, wall: Picture, paste: Callable[..., Picture]
) -> None:
    cropper = FaceCropper(tracker)
    crops = [cropper.crop(f) for f in walk(paste, wall, [320 + 2 * math.sin(2 * i) for i in range(30)])]
    assert all(c.found and c.faces == 1 for c in crops)
    assert not any(c.reframed for c in crops)
    assert {c.rgb.shape for c in crops} == {(256, 256, 3)}
    place = crops[0].place
    assert abs((320 - place.x0) / place.side - 0.498) < 0.08
    assert (crops[0].track is None) == (tracker is None)


def test_a_walking_face_stays_in_the_crop(
    tracker: CascadeTracker | None, wall: Picture, paste: Callable[..., Picture]
) -> None:
    cropper = FaceCropper(tracker)
    xs = [180 + 3.5 * i for i in range(80)]
    crops = [cropper.crop(f) for f in walk(paste, wall, xs)]
    assert all(c.found for c in crops)
    assert any(c.reframed for c in crops)
    assert all(
        c.place.x0 + 0.2 * c.place.side < x < c.place.x0 + 0.8 * c.place.side for c, x in zip(crops, xs, strict=True)
    )


def test_two_faces_follow_the_larger_and_warn_once(
    tracker: CascadeTracker | None, wall: Picture, paste: Callable[..., Picture]
) -> None:
    warnings: list[str] = []
    cropper = FaceCropper(tracker, on_warning=warnings.append)
    two = paste(paste(wall, 130, 180, 0.9), 460, 180, 1.3)
    crops = [cropper.crop(Frame(two, 40_000 * i, i)) for i in range(12)]
    assert {c.faces for c in crops} == {2}
    assert all(abs(c.place.x0 + c.place.side / 2 - 460) < 40 for c in crops)
    assert len(warnings) == 1
    assert "2 faces" in warnings[0]


def test_the_crop_stays_with_its_face_when_another_grows(wall: Picture, paste: Callable[..., Picture]) -> None:
    cropper = FaceCropper()
    for i in range(110):
        other = 0.8 + 0.012 * min(i, 60)
        if i % 5 == 0:
            frame = paste(paste(wall, 460, 180, 1.1), 140, 180, other)
        crop = cropper.crop(Frame(frame, 40_000 * i, i))
    assert abs(crop.place.x0 + crop.place.side / 2 - 460) < 40


def test_before_the_first_face_the_middle_is_cut(wall: Picture, paste: Callable[..., Picture]) -> None:
    cropper = FaceCropper()
    before = [cropper.crop(Frame(wall, 40_000 * i, i)) for i in range(7)]
    after = [cropper.crop(Frame(paste(wall, 500, 180, 1.2), 40_000 * i, i)) for i in range(7, 14)]
    assert not any(c.found for c in before)
    assert {c.place for c in before} == {CropPlace(140, 0, 360)}
    assert {c.faces for c in before} == {0}
    assert after[-1].found


def test_a_lost_face_is_reported_and_found_again_elsewhere(
    tracker: CascadeTracker | None, wall: Picture, paste: Callable[..., Picture]
) -> None:
    cropper = FaceCropper(tracker)
    seen, gone, back = paste(wall, 200, 180, 1.2), wall, paste(wall, 480, 180, 1.2)
    pictures = [seen] * 5 + [gone] * 30 + [back] * 10
    found = [cropper.crop(Frame(p, 40_000 * i, i)) for i, p in enumerate(pictures)]
    assert all(c.found for c in found[:5])
    assert not found[34].found
    assert found[34].place == found[4].place
    assert found[34].track is None
    assert found[-1].found
    assert abs(found[-1].place.x0 + found[-1].place.side / 2 - 480) < 40


def test_nonsense_from_the_tracker_falls_back_on_the_cascades(wall: Picture, paste: Callable[..., Picture]) -> None:
    class Nonsense:
        def track(self, crop_rgb: Picture) -> Track:
            return tracked(np.full((4, 2), np.nan, np.float32), 1.0)

    cropper = FaceCropper(Nonsense())
    crops = [cropper.crop(f) for f in walk(paste, wall, [320] * 12)]
    assert all(abs(c.place.x0 + c.place.side / 2 - 320) < 30 for c in crops)
    assert {c.track.certainty for c in crops if c.track is not None} == {0.0}


def test_a_change_of_frame_size_starts_anew(wall: Picture, paste: Callable[..., Picture]) -> None:
    cropper = FaceCropper()
    small = paste(wall, 320, 180, 1.2)
    large = np.asarray(cv2.resize(small, (1280, 720)), np.uint8)
    first = cropper.crop(Frame(small, 0, 0))
    second = cropper.crop(Frame(large, 40_000, 1))
    assert second.found
    assert second.place.side == pytest.approx(2 * first.place.side, rel=0.15)


def test_reset_forgets_everything(wall: Picture, paste: Callable[..., Picture]) -> None:
    cropper = FaceCropper()
    frames = walk(paste, wall, [320] * 3)
    first = [cropper.crop(f).place for f in frames]
    cropper.reset()
    assert [cropper.crop(f).place for f in frames] == first
