"""Augmented faces for the landmark networks: other poses, other face shapes, other cameras.

A few hundred people are far from enough to know everybody's eyelids. A smooth random warp makes new face shapes out of
the ones at hand, and its labels stay exact because the landmarks are moved through the same map.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.model import landmarks as lm

SIZE = 256
LINE = ((np.arange(SIZE, dtype=np.float32) * 2 + 1) / SIZE - 1).astype(np.float32)


@dataclass(frozen=True)
class FaceSample:
    picture: NDArray[np.uint8]  # [256, 256, 3]
    points: NDArray[np.float32]  # [LANDMARKS, 3]
    is_face: bool


def augment_face(picture: NDArray[np.uint8], points: NDArray[np.float32], rng: np.random.Generator) -> FaceSample:
    """One random view of a labelled crop; about one in sixteen is made into something that is no face."""
    if rng.random() < 0.5:
        picture = np.ascontiguousarray(picture[:, ::-1])
        points = points[list(lm.MIRROR)] * np.array([-1, 1, 1], np.float32)
    if rng.random() < 0.06:
        return FaceSample(photograph(_no_face(picture, rng), rng), points, False)
    warped, moved = warp_face(picture, points, rng)
    return FaceSample(photograph(warped, rng), moved, True)


def warp_face(
    picture: NDArray[np.uint8], points: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The crop turned, zoomed, stretched, shifted and gently bent, and where its landmarks went."""
    linear = _linear(rng)
    centre = points[:, :2].mean(0)
    target = rng.normal(0, 0.09, 2) + rng.uniform(0.2, 1) * centre
    offset = centre - linear @ target
    bend = cv2.resize(
        rng.normal(0, 0.035, (5, 5, 2)).astype(np.float32) * np.float32(rng.random() < 0.6),
        (SIZE, SIZE),
        interpolation=cv2.INTER_CUBIC,
    )
    in_x, in_y = (
        (row[0] * LINE[None] + row[1] * LINE[:, None] + (shift + 1) + bend[..., axis]) * np.float32(SIZE / 2) - 0.5
        for axis, (row, shift) in enumerate(zip(linear.astype(np.float32), offset.astype(np.float32), strict=True))
    )
    warped = cv2.remap(
        picture, in_x, in_y, cv2.INTER_LINEAR,
        borderMode=int(rng.choice([cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT, cv2.BORDER_CONSTANT])),
    )  # fmt: skip
    moved = points.copy()
    moved[:, :2] = _through(points[:, :2], linear, offset, np.asarray(bend, np.float32))
    moved[:, 2] /= np.sqrt(abs(np.linalg.det(linear)))
    return np.asarray(warped, np.uint8), moved


def _linear(rng: np.random.Generator) -> NDArray[np.float64]:
    """Picture-to-source map: turn, zoom, stretch."""
    angle = np.deg2rad(rng.normal(0, 12))
    zoom = np.exp(rng.normal(0, 0.16))
    stretch = np.exp(rng.normal(0, 0.06))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix: NDArray[np.float64] = turn @ np.diag([zoom * stretch, zoom / stretch])
    return matrix


def _through(
    points: NDArray[np.float32],
    linear: NDArray[np.float64],
    offset: NDArray[np.float64],
    bend: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Solves linear @ o + offset + bend(o) = point for o by fixed-point steps; the bend is gentle enough."""
    inverse = np.linalg.inv(linear)
    out = (points - offset) @ inverse.T
    for _ in range(6):
        pixel = np.clip((out + 1) * (SIZE / 2) - 0.5, 0, SIZE - 1.001).astype(np.float32)
        shift = cv2.remap(bend, pixel[:, None, 0], pixel[:, None, 1], cv2.INTER_LINEAR)[:, 0]
        out = (points - offset - shift) @ inverse.T
    return out.astype(np.float32)


def photograph(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Another camera and another light: colour, gamma, blur, grain, compression, something in front of the face."""
    gain = np.exp(rng.normal(0, 0.18)) * np.exp(rng.normal(0, 0.08, 3))
    gamma = np.exp(rng.normal(0, 0.2))
    levels = np.arange(256, dtype=np.float32)[:, None] / 255
    table = np.clip((levels**gamma) * gain + rng.normal(0, 0.06), 0, 1) * 255
    out = cv2.LUT(picture, table.astype(np.uint8)[:, None, :])
    if rng.random() < 0.15:
        out = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < 0.3:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 2.2))
    if rng.random() < 0.2:
        small = int(rng.integers(72, 200))
        out = cv2.resize(cv2.resize(out, (small, small), interpolation=cv2.INTER_AREA), (SIZE, SIZE))
    if rng.random() < 0.3:
        grain = rng.standard_normal((SIZE, SIZE // 4, 3), np.float32) * np.float32(rng.uniform(2, 14))
        wide = cv2.resize(grain, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST)
        out = cv2.add(np.ascontiguousarray(out), wide, dtype=cv2.CV_8U)
    if rng.random() < 0.3:
        _, packed = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(12, 70))])
        out = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))
    if rng.random() < 0.15:
        out = np.ascontiguousarray(out)
        x, y = rng.integers(0, SIZE, 2)
        w, h = rng.integers(16, 72, 2)
        out[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return np.asarray(out, np.uint8)


def _no_face(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A corner blown up, or the blocks of a face in the wrong order: the same colours and edges, no face."""
    if rng.random() < 0.5:
        side = int(rng.integers(40, 80))
        x, y = rng.choice([0, SIZE - side], 2)
        return np.asarray(cv2.resize(picture[y : y + side, x : x + side], (SIZE, SIZE)), np.uint8)
    n = int(rng.choice([3, 4, 6]))
    b = SIZE // n
    blocks = [picture[i * b : (i + 1) * b, j * b : (j + 1) * b] for i in range(n) for j in range(n)]
    order = rng.permutation(n * n)
    rows = [np.concatenate([blocks[k] for k in order[i * n : (i + 1) * n]], 1) for i in range(n)]
    return np.asarray(cv2.resize(np.concatenate(rows, 0), (SIZE, SIZE)), np.uint8)
