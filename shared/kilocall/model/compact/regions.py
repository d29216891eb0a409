"""Where the refinement of a face and the close-ups of eyes and mouth are cut from a crop, given its landmarks.

A region is a square that turns with the head: a 2x3 matrix that takes region coordinates (-1..1) to crop coordinates
(-1..1). The left eye's region is mirrored, so that one network sees right eyes only; so is the refinement's, because a
network errs otherwise on a mirrored face, and the mean of both errs less.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.model import landmarks as lm

_Array = NDArray[np.float32]

#: Side of the whole crop as the first network sees it, and of a close-up, in pixels.
FACE_INPUT: Final = 128
REGION_INPUT: Final = 64

# Half sides in units of the distance between the eyes' centres, measured so that brows and open mouths fit.
EYE_REACH = 0.52
MOUTH_REACH = 0.78
FACE_REACH = 2.4
# A profile view brings the eyes together; the face's height then says how large the head is.
PROFILE_RATIO = 0.75
# Looks that differ by this many pixels of a 256x256 crop are no longer two measurements of one face: the first one was
# far out, and counts little.
LOOKS_APART_PX = 3.0


def regions(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Matrices [3, 2, 3] of right eye, left eye, mouth for landmarks [LANDMARKS, 2] in crop coordinates."""
    right, left, mouth, unit, x_axis, y_axis = _head(points)
    eye = unit * EYE_REACH
    lift = y_axis * (-0.12 * unit)
    return np.stack(
        [
            np.column_stack((x_axis * eye, y_axis * eye, right + lift)),
            np.column_stack((-x_axis * eye, y_axis * eye, left + lift)),
            np.column_stack((x_axis * unit * MOUTH_REACH, y_axis * unit * MOUTH_REACH, mouth)),
        ]
    ).astype(np.float32)


def face_region(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Matrix [2, 3] of the refinement's cut for landmarks [LANDMARKS, 2]: the face upright, central, mirrored."""
    right, left, mouth, unit, x_axis, y_axis = _head(points)
    reach = unit * FACE_REACH
    return np.column_stack((-x_axis * reach, y_axis * reach, (right + left + mouth) / 3)).astype(np.float32)


def refined_points(
    first: NDArray[np.float32], second: NDArray[np.float32], matrix: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Points and depths [LANDMARKS, 3] of the whole crop and of `face_region` `matrix` as one, in crop coordinates.

    The mean where they agree, the refinement where the first was far out: it sees the face upright and in the middle.
    """
    turned = second[list(lm.MIRROR)]
    reach = float(np.hypot(*matrix[:, 1]))
    again = np.column_stack((to_crop(matrix, turned[:, :2]), turned[:, 2] * reach))
    apart = float(np.linalg.norm(first[:, :2] - again[:, :2], axis=1).mean()) * 128 / LOOKS_APART_PX
    weight = 0.5 / (1 + apart**4)
    mixed: NDArray[np.float32] = (weight * first + (1 - weight) * again).astype(np.float32)
    return mixed


def _head(points: NDArray[np.float32]) -> tuple[_Array, _Array, _Array, float, _Array, _Array]:
    """Centres of right eye, left eye and mouth [2], the head's size, its axes to the right and down [2]."""
    right = points[list(lm.RIGHT_EYE)].mean(0)
    left = points[list(lm.LEFT_EYE)].mean(0)
    mouth = points[list(lm.OUTER_LIPS)].mean(0)
    across = left - right
    down = mouth - (left + right) / 2
    unit = max(float(np.hypot(*across)), PROFILE_RATIO * float(np.hypot(*down)), 1e-3)
    # The axis between the eyes tells the roll; when they nearly coincide the line to the mouth does.
    x_axis = across + np.array([down[1], -down[0]], np.float32)
    x_axis /= max(float(np.hypot(*x_axis)), 1e-6)
    y_axis = np.array([-x_axis[1], x_axis[0]], np.float32)
    return right, left, mouth, unit, x_axis, y_axis


def to_crop(matrix: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Region points [..., 2] in crop coordinates."""
    moved: NDArray[np.float32] = points @ matrix[:, :2].T + matrix[:, 2]
    return moved


def pixel_matrix(matrix: NDArray[np.float32], crop_size: int, region_size: int) -> NDArray[np.float32]:
    """`matrix` as cv2.warpAffine wants it with WARP_INVERSE_MAP: region pixel index to crop pixel index."""
    scale = crop_size / region_size
    linear = matrix[:, :2] * scale
    # index = ((coordinate + 1) * size - 1) / 2 on both sides
    origin = ((matrix[:, :2] @ np.full(2, 1 / region_size - 1) + matrix[:, 2] + 1) * crop_size - 1) / 2
    return np.column_stack((linear, origin)).astype(np.float32)


def cut_regions(picture: NDArray[np.uint8], matrices: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Close-ups [3, 64, 64, 3] of a crop: right eye, left eye mirrored, mouth."""
    return np.stack([_cut(picture, matrix, REGION_INPUT) for matrix in matrices])


def cut_face(picture: NDArray[np.uint8], matrix: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The refinement's picture [128, 128, 3] of a crop."""
    return _cut(picture, matrix, FACE_INPUT)


def _cut(picture: NDArray[np.uint8], matrix: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    inside = pixel_matrix(matrix, picture.shape[0], size)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(picture, inside, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, np.uint8)
