"""Rotations and shape fits. Right-handed picture coordinates: x right, y down, z away from the camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def rotation_matrix(yaw: float, pitch: float, roll: float) -> Array:
    """R = R_z(roll) R_x(pitch) R_y(yaw) [3, 3], radians; positive yaw turns the face to the right of the picture,
    positive pitch looks down, positive roll tilts clockwise."""
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (np.cos, np.sin))
    about_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_x @ about_y, np.float32)


def rotation_angles(matrix: Array) -> tuple[float, float, float]:
    """(yaw, pitch, roll) of `rotation_matrix`; the pitch is taken in -90..90 degrees."""
    pitch = float(np.arcsin(np.clip(matrix[2, 1], -1, 1)))
    yaw = float(np.arctan2(matrix[2, 0], matrix[2, 2]))
    roll = float(np.arctan2(-matrix[0, 1], matrix[1, 1]))
    return yaw, pitch, roll


def similarity(points: Array, shape: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Weighted Procrustes: R [..., 3, 3], t [..., 3], s [...] with points = s R shape + t in the least-squares sense.

    `points` [..., K, 3], `shape` [K, 3], `weight` [K] (Umeyama 1991).
    """
    w = (weight / weight.sum())[:, None]
    centre_p = (points * w).sum(-2, keepdims=True)
    centre_s = (shape * w).sum(-2, keepdims=True)
    p, s = points - centre_p, shape - centre_s
    covariance = np.swapaxes(p * w, -1, -2) @ s
    u, d, vt = np.linalg.svd(covariance.astype(np.float64))
    sign = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    flip = np.ones((*sign.shape, 3))
    flip[..., 2] = sign
    rotation = (u * flip[..., None, :]) @ vt
    scale = (d * flip).sum(-1) / ((s**2) * w).sum()
    translation = centre_p[..., 0, :] - scale[..., None] * (rotation @ centre_s[0])
    return rotation.astype(np.float32), translation.astype(np.float32), scale.astype(np.float32)


def unpose(points: Array, rotation: Array, translation: Array, scale: Array) -> Array:
    """Head-fixed coordinates [..., K, 3]: the inverse of s R x + t."""
    shape = ((points - translation[..., None, :]) @ rotation) / np.asarray(scale)[..., None, None]
    return np.asarray(shape, np.float32)


def mean_shape(points: Array, weight: Array, rounds: int = 6) -> Array:
    """Generalised Procrustes mean [K, 3] of faces [N, K, 3], centred, with a root-mean-square radius of one."""
    shape: Array = points[0]
    for _ in range(rounds):
        straight = unpose(points, *similarity(points, shape, weight))
        middle = np.median(straight, axis=0)
        middle = middle - middle.mean(0)
        shape = np.asarray(middle / np.sqrt((middle**2).sum(-1).mean()), np.float32)
    return shape
