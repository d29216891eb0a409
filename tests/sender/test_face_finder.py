"""Faces are found where they are, and not where they are not."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from kilocall.sender.face_finder import FaceBox, FaceFinder

Picture = NDArray[np.uint8]
FACE = FaceBox(184, 70, 80, 100, 1.0)  # of the portrait, by eye


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return FaceFinder()


def test_the_portrait_has_one_face_at_its_place(finder: FaceFinder, astronaut: Picture) -> None:
    boxes = finder.find(astronaut)
    assert len(boxes) == 1
    assert boxes[0].overlap(FACE) > 0.7
    assert 0.2 < boxes[0].confidence <= 1


def test_a_mirrored_picture_gives_the_mirrored_box(finder: FaceFinder, astronaut: Picture) -> None:
    (box,) = finder.find(np.ascontiguousarray(astronaut[:, ::-1]))
    back = FaceBox(512 - box.x0 - box.width, box.y0, box.width, box.height, 1.0)
    assert back.overlap(FACE) > 0.7


@pytest.mark.parametrize("zoom", [0.5, 2.0, 3.0])
def test_the_box_grows_with_the_picture(finder: FaceFinder, astronaut: Picture, zoom: float) -> None:
    scaled = np.asarray(cv2.resize(astronaut, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA), np.uint8)
    box = finder.find(scaled)[0]
    unscaled = FaceBox(box.x0 / zoom, box.y0 / zoom, box.width / zoom, box.height / zoom, 1.0)
    assert unscaled.overlap(FACE) > 0.65


def test_two_faces_come_largest_first(finder: FaceFinder, wall: Picture, paste: Callable[..., Picture]) -> None:
    boxes = finder.find(paste(paste(wall, 150, 180, 0.9), 450, 170, 1.4))
    assert len(boxes) == 2
    assert boxes[0].width > boxes[1].width
    assert abs(boxes[0].centre[0] - 450) < 25
    assert abs(boxes[1].centre[0] - 150) < 25


def test_noise_and_flat_pictures_have_no_face(finder: FaceFinder, wall: Picture) -> None:
    rng = np.random.default_rng(1)
    assert finder.find(wall) == []
    assert finder.find(np.zeros((240, 320, 3), np.uint8)) == []
    for cells in (20, 45, 90):
        noise = rng.integers(0, 255, (cells, cells * 16 // 9, 3)).astype(np.uint8)
        assert finder.find(np.asarray(cv2.resize(noise, (640, 360)), np.uint8)) == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (8, 400, 3), (23, 23, 3)])
def test_pictures_too_small_for_a_face_have_none(finder: FaceFinder, shape: tuple[int, int, int]) -> None:
    assert finder.find(np.full(shape, 99, np.uint8)) == []


def test_looking_near_a_known_place_finds_the_face_again(finder: FaceFinder, astronaut: Picture) -> None:
    near = FaceBox(200, 90, 75, 92, 1.0)
    box = finder.find_near(astronaut, near)
    assert box is not None
    assert box.overlap(FACE) > 0.6


def test_looking_where_no_face_is_finds_none(finder: FaceFinder, astronaut: Picture) -> None:
    assert finder.find_near(astronaut, FaceBox(330, 330, 80, 100, 1.0)) is None
    assert finder.find_near(astronaut, FaceBox(-300, -300, 80, 100, 1.0)) is None
    assert finder.find_near(astronaut, FaceBox(900, 900, 80, 100, 1.0)) is None


def test_overlap_is_intersection_over_union() -> None:
    a = FaceBox(0, 0, 10, 10, 1)
    assert a.overlap(a) == 1
    assert a.overlap(FaceBox(10, 0, 10, 10, 1)) == 0
    assert a.overlap(FaceBox(5, 0, 10, 10, 1)) == pytest.approx(1 / 3)
