"""The face shape model of a family: mean shape, which points hold still on a skull, and the expression basis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kilocall.model import geometry as geo
from kilocall.model import landmarks as lm

Array = NDArray[np.float32]


@dataclass(frozen=True)
class ShapeModel:
    """mean [K, 3], basis [E, K, 3] (expression deltas in head-fixed units), deviation [E] of the coefficients."""

    mean: Array
    basis: Array
    deviation: Array

    @property
    def expressions(self) -> int:
        return len(self.basis)

    def project(self, delta: Array) -> Array:
        """Expression coefficients [..., E] of head-fixed deltas [..., K, 3], weighted least squares."""
        weight = _coordinate_weight()
        flat = self.basis.reshape(len(self.basis), -1)
        normal = (flat * weight) @ flat.T
        right = (delta.reshape(*delta.shape[:-2], -1) * weight) @ flat.T
        return np.linalg.solve(normal, right[..., None])[..., 0].astype(np.float32)

    def delta(self, expression: Array) -> Array:
        """Head-fixed deltas [..., K, 3] of coefficients [..., E]."""
        return np.tensordot(expression, self.basis, 1).astype(np.float32)


def rigid_weight() -> Array:
    """How much each landmark says about the skull [LANDMARKS]: eye corners and nose much, lips and jaw little."""
    weight = np.full(lm.LANDMARKS, 0.5, np.float32)
    weight[[*lm.NOSE]] = 2.0
    weight[[lm.RIGHT_EYE[0], lm.RIGHT_EYE[4], lm.LEFT_EYE[0], lm.LEFT_EYE[4]]] = 2.0
    weight[[*lm.OUTER_LIPS, *lm.INNER_LIPS]] = 0.05
    weight[[lm.RIGHT_IRIS, lm.LEFT_IRIS]] = 0.0
    weight[[*lm.RIGHT_BROW, *lm.LEFT_BROW]] = 0.2
    jaw = [p for p in lm.OVAL if lm.MESH_INDEX[p] in (172, 397, 150, 379, 152)]
    weight[jaw] = 0.1
    return weight


def fit_shape_model(clips: list[Array], expressions: int) -> tuple[ShapeModel, Array]:
    """Shape model of clips of faces [T, K, 3]; also the share of variance [E] that the first coefficients explain."""
    rigid = rigid_weight()
    everyone = np.concatenate([clip[:: max(1, len(clip) // 20)] for clip in clips])
    mean = _upright(geo.mean_shape(everyone, rigid), everyone, rigid)
    deltas = []
    for clip in clips:
        if len(clip) > 1:
            shape = geo.unpose(clip, *geo.similarity(clip, mean, rigid))
            deltas.append(shape - shape.mean(0))
    flat = np.concatenate(deltas).reshape(-1, mean.size)
    root = np.sqrt(_coordinate_weight())
    _, values, vectors = _principal(flat * root)
    basis = (vectors[:expressions] / root).reshape(expressions, *mean.shape)
    model = ShapeModel(mean, basis.astype(np.float32), np.sqrt(values[:expressions]).astype(np.float32))
    if expressions > LOCAL_MOTIONS:
        model = _with_local_motions_apart(model)
    return model, (np.cumsum(values) / values.sum())[:expressions].astype(np.float32)


#: What the first expressions are: both lids, one lid more than the other, the lips, the irises sideways.
LOCAL_MOTIONS = 4
LID_OPENINGS = 2
LIP_OPENING = 2


def _local_motions(mean: Array) -> NDArray[np.float64]:
    """What moves both lids apart, one eye's further than the other's, the lips, and the irises sideways: weights
    [LOCAL_MOTIONS, K, 3].
    """
    half = len(lm.LID_PAIRS) // 2
    weights = np.zeros((3, *mean.shape))
    for weight, pairs in zip(weights, (lm.LID_PAIRS[:half], lm.LID_PAIRS[half:], lm.LIP_PAIRS), strict=True):
        for upper, lower in pairs:
            apart = (mean[upper] - mean[lower]) * (1, 1, 0)
            apart /= np.linalg.norm(apart)
            weight[upper] += apart / len(pairs)
            weight[lower] -= apart / len(pairs)
    right, left, lips = weights
    gaze = np.zeros(mean.shape)
    for iris, eye in lm.EYES:
        gaze[list(eye), 0] -= 1 / len(eye)
        gaze[iris, 0] += 1
    return np.stack((right + left, right - left, lips, gaze))


def _with_local_motions_apart(model: ShapeModel) -> ShapeModel:
    """The same faces in other numbers: the first LOCAL_MOTIONS move lids, lips and irises, no other one does.

    A blink is three pixels of a few points, a glance one of two: spread over all principal components they drown in
    their quantisation.
    Coefficients divided by their deviations are uncorrelated with unit variance, and stay so under a rotation.
    """
    root = np.sqrt(_coordinate_weight()).astype(np.float64)
    size = len(model.basis)
    unit = (model.basis * model.deviation[:, None, None]).reshape(size, -1).astype(np.float64)
    slopes = _local_motions(model.mean).reshape(LOCAL_MOTIONS, -1) @ unit.T
    slopes /= np.maximum(np.linalg.norm(slopes, axis=1, keepdims=True), 1e-12)
    left, _, right = np.linalg.svd(slopes)
    local = left @ right[:LOCAL_MOTIONS]  # orthonormal, and each as near to its own slope as that allows
    # The rest in order of how much it moves.
    order, _, _ = np.linalg.svd((right[LOCAL_MOTIONS:] @ unit) * root, full_matrices=False)
    rotated = np.concatenate((local, order.T @ right[LOCAL_MOTIONS:])) @ unit
    deviation = np.linalg.norm(rotated * root, axis=1)
    basis = (rotated / deviation[:, None]).reshape(size, *model.mean.shape)
    return ShapeModel(model.mean, basis.astype(np.float32), deviation.astype(np.float32))


def _upright(mean: Array, faces: Array, rigid: Array) -> Array:
    """Makes the mean symmetrical and looking straight ahead: left minus right is x, the median face has no pitch."""
    across = (mean - mean[list(lm.MIRROR)]) * np.sign(mean[:, :1])
    x = across.sum(0) / np.linalg.norm(across.sum(0))
    y = np.array([0, 1, 0], np.float32) - x * x[1]
    y /= np.linalg.norm(y)
    mean = mean @ np.stack((x, y, np.cross(x, y)), 1)
    mean = (mean + mean[list(lm.MIRROR)] * np.array([-1, 1, 1])) / 2
    rotation, _, _ = geo.similarity(faces, mean.astype(np.float32), rigid)
    pitch = float(np.median([geo.rotation_angles(r)[1] for r in rotation]))
    upright: Array = (mean @ geo.rotation_matrix(0, pitch, 0).T).astype(np.float32)
    return upright


def _principal(data: Array) -> tuple[Array, Array, Array]:
    covariance = (data.T.astype(np.float64) @ data) / len(data)
    values, vectors = np.linalg.eigh(covariance)
    order = np.argsort(values)[::-1]
    return data, values[order], vectors[:, order].T


def _coordinate_weight() -> Array:
    """Weight of every coordinate [K * 3]: depth is never seen directly, so it counts little."""
    return np.outer(lm.importance(), np.array([1, 1, 0.05], np.float32)).reshape(-1).astype(np.float32)


#: Largest `shape_distance` at which two pictures are taken for one person. On 400 pairs of training frames, 80 % of one
#: person's lie below and 85 % of different people's above. To be wrong is harmless: relative motion also suits one
#: person's other picture, and absolute motion a stranger of the same proportions.
SAME_PERSON = 0.04


def shape_distance(a: Array, b: Array) -> float:
    """Root-mean-square distance of two head-fixed shapes [K, 3] over the points that expressions leave alone.

    Depth is left out: one picture shows it poorly.
    """
    weight = rigid_weight()
    rotation, translation, scale = geo.similarity(b, a, weight)
    difference = (geo.unpose(b, rotation, translation, scale) - a)[:, :2]
    return float(np.sqrt((difference**2 * weight[:, None]).sum() / weight.sum()))
