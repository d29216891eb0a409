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
    """Fits one person's frames; `shape` [K, 3] is the head-fixed shape of the source picture."""

    def __init__(self, shape: Array, model: ShapeModel) -> None:
        self.shape = shape.astype(np.float64)
        self.basis = model.basis.astype(np.float64)  # [E, K, 3]
        self.prior = 1 / (PRIOR_WIDTH * model.deviation.astype(np.float64)) ** 2
        root = np.sqrt(lm.importance().astype(np.float64))
        self.weight = root / POINT_NOISE
        self.depth_weight = root / DEPTH_NOISE
        self.rigid = rigid_weight()

    def fit(self, points: Array, depth: Array, start: Motion | None = None, rounds: int = 4) -> Motion:
        """Motion (expression [E]) of landmarks [K, 2] with depths [K]."""
        expressions = len(self.basis)
        if start is None:
            seen = np.column_stack((points, depth)).astype(np.float32)
            rotation, translation, scale = geo.similarity(seen, self.shape.astype(np.float32), self.rigid)
            r, t, s = rotation.astype(np.float64), translation[:2].astype(np.float64), float(scale)
            e = np.zeros(expressions)
        else:
            r = geo.rotation_matrix(*start.rotation).astype(np.float64)
            t, s = np.asarray(start.translation, np.float64), start.scale
            e = np.asarray(start.expression[:expressions], np.float64)
        depth_seen = depth - depth.mean()
        for _ in range(rounds):
            q = (self.shape + np.tensordot(e, self.basis, 1)) @ r.T  # [K, 3]
            moving = (self.basis @ r.T) * s  # [E, K, 3]
            residual = np.column_stack((points - s * q[:, :2] - t, depth_seen - s * (q[:, 2] - q[:, 2].mean())))
            slopes = np.empty((6 + expressions, len(q), 3))
            slopes[0] = s * np.column_stack((np.zeros(len(q)), -q[:, 2], q[:, 1]))  # about x: omega x q
            slopes[1] = s * np.column_stack((q[:, 2], np.zeros(len(q)), -q[:, 0]))
            slopes[2] = s * np.column_stack((-q[:, 1], q[:, 0], np.zeros(len(q))))
            slopes[3] = (1, 0, 0)
            slopes[4] = (0, 1, 0)
            slopes[5] = s * q
            slopes[6:] = moving
            slopes[:, :, 2] -= slopes[:, :, 2].mean(1, keepdims=True)
            weight = np.column_stack((self.weight, self.weight, self.depth_weight))
            a = (slopes * weight).reshape(6 + expressions, -1)
            normal = a @ a.T
            right = a @ (residual * weight).reshape(-1)
            diagonal = np.arange(6, 6 + expressions)
            normal[diagonal, diagonal] += self.prior
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
