"""Which points of a face the compact family follows.

The training labels are MediaPipe face meshes (478 points). The family follows a subset of them, chosen where faces
move (lips, lids, irises, brows) and where heads end (oval). All index tuples below count within that subset, so
nothing but this module knows mesh numbers.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

MESH_POINTS: Final = 478

_LIPS_OUTER = (61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91)
_LIPS_INNER = (78, 81, 13, 311, 308, 402, 14, 178)
_RIGHT_EYE = (33, 160, 159, 158, 133, 153, 145, 144)  # the subject's right: left in the picture
_LEFT_EYE = (263, 387, 386, 385, 362, 380, 374, 373)
_IRISES = (468, 473)
_RIGHT_BROW = (70, 105, 107)
_LEFT_BROW = (300, 334, 336)
_NOSE = (168, 5, 1, 2, 98, 327)
_OVAL = (10, 103, 332, 21, 251, 234, 454, 132, 361, 172, 397, 150, 379, 152)
_CHEEKS = (50, 280, 205, 425, 151)

#: Mesh number of every followed point, in the family's order.
MESH_INDEX: Final[tuple[int, ...]] = (
    *_LIPS_OUTER,
    *_LIPS_INNER,
    *_RIGHT_EYE,
    *_LEFT_EYE,
    *_IRISES,
    *_RIGHT_BROW,
    *_LEFT_BROW,
    *_NOSE,
    *_OVAL,
    *_CHEEKS,
)
LANDMARKS: Final = len(MESH_INDEX)


def _within(mesh: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(MESH_INDEX.index(number) for number in mesh)


OUTER_LIPS: Final = _within(_LIPS_OUTER)
INNER_LIPS: Final = _within(_LIPS_INNER)
RIGHT_EYE: Final = _within(_RIGHT_EYE)
LEFT_EYE: Final = _within(_LEFT_EYE)
RIGHT_IRIS: Final = _within((468,))[0]
LEFT_IRIS: Final = _within((473,))[0]
#: Iris and rim of either eye; the rim's corners are its first and fifth point, the outer one first.
EYES: Final = ((RIGHT_IRIS, RIGHT_EYE), (LEFT_IRIS, LEFT_EYE))
RIGHT_BROW: Final = _within(_RIGHT_BROW)
LEFT_BROW: Final = _within(_LEFT_BROW)
NOSE: Final = _within(_NOSE)
OVAL: Final = _within(_OVAL)
CHEEKS: Final = _within(_CHEEKS)

#: What the close-up networks look at again, in the order of their outputs. The left eye is shown mirrored to the
#: right eye's network, so both tuples list matching points.
RIGHT_EYE_REGION: Final = (*RIGHT_EYE, RIGHT_IRIS, *RIGHT_BROW)
LEFT_EYE_REGION: Final = (*LEFT_EYE, LEFT_IRIS, *LEFT_BROW)
MOUTH_REGION: Final = (*OUTER_LIPS, *INNER_LIPS)

#: (upper, lower) point pairs whose distance says how far a lid or the lips are open.
LID_PAIRS: Final = (
    *zip(_within((160, 159, 158)), _within((144, 145, 153)), strict=True),
    *zip(_within((387, 386, 385)), _within((373, 374, 380)), strict=True),
)
LIP_PAIRS: Final = tuple(zip(_within((81, 13, 311)), _within((178, 14, 402)), strict=True))

_MIRROR_PAIRS = (
    (61, 291), (40, 270), (37, 267), (91, 321), (84, 314), (78, 308), (81, 311), (178, 402),
    *zip(_RIGHT_EYE, _LEFT_EYE, strict=True),
    (468, 473),
    *zip(_RIGHT_BROW, _LEFT_BROW, strict=True),
    (98, 327), (103, 332), (21, 251), (234, 454), (132, 361), (172, 397), (150, 379), (50, 280), (205, 425),
)  # fmt: skip


def _mirror() -> tuple[int, ...]:
    order = list(range(LANDMARKS))
    for right, left in _MIRROR_PAIRS:
        a, b = MESH_INDEX.index(right), MESH_INDEX.index(left)
        order[a], order[b] = b, a
    return tuple(order)


#: Permutation that relabels the points of a picture flipped left to right.
MIRROR: Final = _mirror()


def importance() -> NDArray[np.float32]:
    """Weight of each point [LANDMARKS]: lips and lids are watched, the outline of the head is vague."""
    weight = np.ones(LANDMARKS, np.float32)
    weight[list(OUTER_LIPS)] = 1.5
    weight[list(INNER_LIPS)] = 2.0
    weight[[*RIGHT_EYE, *LEFT_EYE, RIGHT_IRIS, LEFT_IRIS]] = 2.0
    weight[[*OVAL, *CHEEKS]] = 0.5
    return weight


def mean_opening(points: NDArray[np.float32], pairs: tuple[tuple[int, int], ...]) -> NDArray[np.float32]:
    """Mean distance of the point pairs, for points [..., LANDMARKS, 2]: how far lids or lips are open."""
    upper, lower = [a for a, _ in pairs], [b for _, b in pairs]
    distance: NDArray[np.float32] = np.linalg.norm(points[..., upper, :] - points[..., lower, :], axis=-1)
    return np.asarray(distance.mean(axis=-1), np.float32)


def gaze(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far irises lie from the middles of their eyes along the line between the corners, mean of both eyes, for
    points [..., LANDMARKS, 2]. To the picture's right is positive.
    """
    each = []
    for (iris, eye), (left, right) in zip(EYES, ((0, 4), (4, 0)), strict=True):
        along = points[..., eye[right], :] - points[..., eye[left], :]
        aside = points[..., iris, :] - points[..., list(eye), :].mean(-2)
        each.append((aside * along).sum(-1) / np.maximum(np.linalg.norm(along, axis=-1), 1e-6))
    return np.asarray(np.mean(each, 0), np.float32)
