"""Where the close-ups of eyes and mouth are cut from a crop, given its landmarks.

A region is a square that turns with the head: a 2x3 matrix that takes region coordinates (-1..1) to crop coordinates
(-1..1). The left eye's region is mirrored, so that one network sees right eyes only.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.model import landmarks as lm

#: Side of the whole crop as the first network sees it, and of a close-up, in pixels.
FACE_INPUT: Final = 128
REGION_INPUT: Final = 64

# Half sides in units of the distance between the eyes' centres, measured so that brows and open mouths fit.
EYE_REACH = 0.52
MOUTH_REACH = 0.78
# A profile view brings the eyes together; the face's height then says how large the head is.
PROFILE_RATIO = 0.75


def regions(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Matrices [3, 2, 3] of right eye, left eye, mouth for landmarks [LANDMARKS, 2] in crop coordinates."""
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
    eye = unit * EYE_REACH
    lift = y_axis * (-0.12 * unit)
    return np.stack(
        [
            np.column_stack((x_axis * eye, y_axis * eye, right + lift)),
            np.column_stack((-x_axis * eye, y_axis * eye, left + lift)),
            np.column_stack((x_axis * unit * MOUTH_REACH, y_axis * unit * MOUTH_REACH, mouth)),
        ]
    ).astype(np.float32)


def to_crop(matrix: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Region points [..., 2] in crop coordinates."""
    moved: NDArray[np.float32] = points @ matrix[:, :2].T + matrix[:, 2]
    return moved


def to_region(matrix: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Crop points [..., 2] in region coordinates: the inverse of `to_crop`."""
    inside: NDArray[np.float32] = (points - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    return inside


def pixel_matrix(matrix: NDArray[np.float32], crop_size: int, region_size: int) -> NDArray[np.float32]:
    """`matrix` as cv2.warpAffine wants it with WARP_INVERSE_MAP: region pixel index to crop pixel index."""
    scale = crop_size / region_size
    linear = matrix[:, :2] * scale
    # index = ((coordinate + 1) * size - 1) / 2 on both sides
    origin = ((matrix[:, :2] @ np.full(2, 1 / region_size - 1) + matrix[:, 2] + 1) * crop_size - 1) / 2
    return np.column_stack((linear, origin)).astype(np.float32)


def cut_regions(picture: NDArray[np.uint8], matrices: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Close-ups [3, 64, 64, 3] of a crop: right eye, left eye mirrored, mouth."""
    return np.stack(
        [
            cv2.warpAffine(
                picture,
                pixel_matrix(matrix, picture.shape[0], REGION_INPUT),
                (REGION_INPUT, REGION_INPUT),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            for matrix in matrices
        ]
    ).astype(np.uint8)
