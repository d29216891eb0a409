"""Detail from a source picture of twice the networks' size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from kilocall.model.compact.detail import Detail, halved

SIDE = 64
STILL = np.zeros((8, 8, 2), np.float32)
COPIED = np.zeros((SIDE // 2, SIDE // 2), np.float32)


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(4).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)


def test_at_rest_it_is_the_large_source_picture(picture: NDArray[np.uint8]) -> None:
    assert (Detail(picture).add(halved(picture), STILL, COPIED) == picture).all()


def test_painted_parts_get_no_detail(picture: NDArray[np.uint8]) -> None:
    made = np.random.default_rng(5).integers(0, 256, (SIDE // 2, SIDE // 2, 3)).astype(np.uint8)
    share = COPIED.copy()
    share[:, SIDE // 4 :] = 1
    out = Detail(picture).add(made, STILL, share)
    enlarged = cv2.resize(made, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    painted = slice(SIDE // 2 + 2, None)
    assert (out[:, painted] == enlarged[:, painted]).all()
    assert np.abs(out[:, : SIDE // 2 - 2].astype(int) - enlarged[:, : SIDE // 2 - 2]).mean() > 20


def test_detail_moves_with_the_face(picture: NDArray[np.uint8]) -> None:
    # 4 large pixels to the right: the source lies to the left of where it is seen.
    moved = STILL.copy()
    moved[..., 0] = -4 * 2 / SIDE
    there = np.roll(picture, 4, 1)
    out = Detail(picture).add(halved(there), moved, COPIED)
    inside = slice(8, -8)
    assert np.abs(out[:, inside].astype(int) - there[:, inside]).max() <= 1


def test_the_source_picture_is_not_written_to(picture: NDArray[np.uint8]) -> None:
    before = picture.copy()
    out = Detail(picture).add(halved(picture), STILL, COPIED)
    out[:] = 0
    assert (picture == before).all()
