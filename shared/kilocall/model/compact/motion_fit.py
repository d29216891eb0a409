"""From landmarks to motion: the pose and expression that best explain what was seen, given whose face it is.

A maximum-a-posteriori fit of scaled orthography: landmarks are noisy, expressions have known variances, and a head
that turns explains many points with few numbers. Gauss-Newton from the last frame's answer takes two or three steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kilocall.model import geometry as geo
from kilocall.model import landmarks as lm
from kilocall.model.motion import Motion
from kilocall.model.shape import ShapeModel, rigid_weight

Array = NDArray[np.float32]

# What the landmark networks err by on unseen people, in crop units (1.5 of 128 pixels).
POINT_NOISE = 1.5 / 128
# The depth head sees little; it only has to say which way a head is turned.
DEPTH_NOISE = 10 / 128
# Expressions are differences of two frames, so they vary more than a clip does around its mean.
PRIOR_WIDTH = 1.6


class MotionFit:
    """Fits frames of anybody."""

    def __init__(self, model: ShapeModel) -> None:
        self.prior = 1 / (PRIOR_WIDTH * model.deviation.astype(np.float64)) ** 2
        root = np.sqrt(lm.importance().astype(np.float64))
        self.weight = np.stack((root / POINT_NOISE, root / POINT_NOISE, root / DEPTH_NOISE))  # [3, K]
        self._expressions = len(model.basis)
        # As columns [3, E K]: one product turns all of them.
        self._basis = model.basis.astype(np.float64).reshape(-1, 3).T.copy()
        self._diagonal = np.arange(6, 6 + self._expressions)
        self.rigid = rigid_weight()

    def fit(self, shape: Array, points: Array, depth: Array, start: Motion | None = None, rounds: int = 4) -> Motion:
        """Motion (expression [E]) of landmarks [K, 2] with depths [K] of somebody whose source picture has the
        head-fixed `shape` [K, 3]."""
        expressions = self._expressions
        if start is None:
            seen = np.column_stack((points, depth)).astype(np.float32)
            rotation, translation, scale = geo.similarity(seen, np.asarray(shape, np.float32), self.rigid)
            r, t, s = rotation.astype(np.float64), translation[:2].astype(np.float64), float(scale)
            e = np.zeros(expressions)
        else:
            r = geo.rotation_matrix(*start.rotation).astype(np.float64)
            t, s = np.asarray(start.translation, np.float64), start.scale
            e = np.asarray(start.expression[:expressions], np.float64)
        points_seen = np.asarray(points, np.float64)
        depth_seen = np.asarray(depth - depth.mean(), np.float64)
        columns, count = shape.T.astype(np.float64), len(shape)
        slopes = np.empty((6 + expressions, 3, count))  # of x, y and depth
        slopes[3:5] = 0
        slopes[3, 0] = slopes[4, 1] = 1
        residual = np.empty((3, count))
        for _ in range(rounds):
            turned = (r @ self._basis).reshape(3, expressions, count)
            q = r @ columns + np.tensordot(e, turned, (0, 1))  # [3, K]
            x, y, z = s * q
            residual[0] = points_seen[:, 0] - x - t[0]
            residual[1] = points_seen[:, 1] - y - t[1]
            residual[2] = depth_seen - (z - z.mean())
            slopes[:3] = ((np.zeros(count), -z, y), (z, np.zeros(count), -x), (-y, x, np.zeros(count)))  # omega x q
            slopes[5] = x, y, z
            np.multiply(turned.swapaxes(0, 1), s, out=slopes[6:])
            slopes[:, 2] -= slopes[:, 2].mean(1, keepdims=True)
            a = (slopes * self.weight).reshape(6 + expressions, -1)
            normal = a @ a.T
            right = a @ (residual * self.weight).reshape(-1)
            normal[self._diagonal, self._diagonal] += self.prior
            right[6:] -= self.prior * e
            step = np.linalg.solve(normal, right)
            r = _rotation(step[:3]) @ r
            t, s, e = t + step[3:5], s * float(np.exp(np.clip(step[5], -0.5, 0.5))), e + step[6:]
            if np.abs(step).max() < 1e-5:
                break
        angles = geo.rotation_angles(r.astype(np.float32))
        return Motion(angles, (float(t[0]), float(t[1])), s, e.astype(np.float32))


def _rotation(omega: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rodrigues' formula."""
    angle = float(np.linalg.norm(omega))
    if angle < 1e-9:
        return np.eye(3)
    x, y, z = omega / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn: NDArray[np.float64] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turn
