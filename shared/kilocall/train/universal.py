"""The codebook that suits any keypoints: fitted to labelled clips as a family with 15 keypoints would see them.

    python -m kilocall.train.universal DATA OUT.safetensors

The steps are chosen, not fitted: a keypoint of an unknown family is worth about a pixel of 256 in the picture's plane,
and a step of the pose moves keypoints as far as one of a delta. The tables are counted, all deltas together.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kilocall.codec.codebook import Codebook
from kilocall.codec.fit import fit_codebook
from kilocall.model import geometry as geo
from kilocall.model import landmarks as lm
from kilocall.model.family import weights_folder
from kilocall.model.motion import POSE_NUMBERS
from kilocall.model.shape import rigid_weight
from kilocall.proto.errors import BadInput
from kilocall.sender.motion import (
    EXPRESSION_CUTOFF_HZ,
    EXPRESSION_OPENING,
    POSE_CUTOFF_HZ,
    POSE_OPENING,
    OneEuroFilter,
)

Array = NDArray[np.float32]

__all__ = ["universal_codebook"]

#: Yaw, pitch, roll in radians, translation x and y in crop units, logarithm of the scale, one delta in crop units.
STEPS: Final = (0.012, 0.012, 0.012, 0.004, 0.004, 0.012, 0.007)
#: Where an unsupervised detector puts points too: lips, lids, brows, nose, cheeks, outline.
POINTS: Final = (
    *(lm.INNER_LIPS[i] for i in (0, 2, 4, 6)),
    *(lm.RIGHT_EYE[i] for i in (2, 6)),
    *(lm.LEFT_EYE[i] for i in (2, 6)),
    lm.RIGHT_BROW[1],
    lm.LEFT_BROW[1],
    lm.NOSE[2],
    *lm.CHEEKS[:2],
    *(lm.OVAL[i] for i in (0, 13)),
)
FRAME_US: Final = 40_000  # the clips run at 25 fps
CLIPS: Final = 48
FRAMES: Final = 75


def universal_codebook(folder: Path) -> Codebook:
    """A codebook of 7 columns from the label files (`*.npz`) of `folder`: the pose's six, and one for any delta."""
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise BadInput(f"{folder} holds no label files (.npz)")
    chosen = files[:: max(1, len(files) // CLIPS)][:CLIPS]
    streams = [stream for stream in map(_stream, chosen) if len(stream) > 1]
    steps = np.array([*STEPS[:POSE_NUMBERS], *[STEPS[POSE_NUMBERS]] * (3 * len(POINTS) + 1)], np.float32)
    fitted = fit_codebook(streams, steps, rounds=2, levels=(0, 2, 4, 6, 8), pooled_from=POSE_NUMBERS)
    columns = slice(POSE_NUMBERS + 1)
    # Nothing is known of where an unknown speaker's head usually is.
    mean = np.zeros(POSE_NUMBERS + 1, np.int32)
    return Codebook(fitted.base_steps[columns], mean, fitted.frequencies, fitted.shifts, fitted.table_of[:, columns])


def _stream(file: Path) -> Array:
    """Motion vectors [T, 6 + 46] of a clip: pose of its landmarks, and deltas of POINTS from the first frame's."""
    from safetensors.numpy import load_file

    stored = load_file(weights_folder() / "shape.safetensors")
    labels = np.load(file)
    valid = labels["valid"][:FRAMES]
    faces = labels["landmarks"][:FRAMES][valid][:, lm.MESH_INDEX].astype(np.float32) * 2
    faces[..., :2] -= 1
    if not len(faces):
        return np.zeros((0, 0), np.float32)
    rotation, translation, scale = geo.similarity(faces, stored["mean"], rigid_weight())
    shapes = geo.unpose(faces, rotation, translation, scale)[:, POINTS]
    change = np.einsum("tij,tkj->tki", rotation, shapes - shapes[0]) * scale[0]
    pose = [
        (*geo.rotation_angles(r), t[0], t[1], np.log(s / scale[0]))
        for r, t, s in zip(rotation, translation, scale, strict=True)
    ]
    depth = np.zeros((len(faces), 1))
    vectors = np.concatenate((np.array(pose), change.reshape(len(faces), -1), depth), 1).astype(np.float32)
    is_pose = np.arange(vectors.shape[1]) < POSE_NUMBERS
    steady = OneEuroFilter(
        np.where(is_pose, POSE_CUTOFF_HZ, EXPRESSION_CUTOFF_HZ), np.where(is_pose, POSE_OPENING, EXPRESSION_OPENING)
    )
    return np.stack([steady(vector, number * FRAME_US) for number, vector in enumerate(vectors)])


def main(arguments: list[str]) -> None:
    folder, out = (Path(argument) for argument in arguments)
    out.parent.mkdir(parents=True, exist_ok=True)
    universal_codebook(folder).save(out)


if __name__ == "__main__":
    main(sys.argv[1:])
