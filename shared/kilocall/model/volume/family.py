"""A family with a feature volume behind the seam: face-vid2vid or LivePortrait with weights that the user has.

The face's landmarks, by which crops are cut, are the compact family's; head pose and expression are the family's own.
A keypoint is x = s (R x_c + delta) + t. What a frame sends is its rotation, translation, scale and the change of
delta since the source picture. Rotations are sent as everywhere here (`kilocall.model.geometry`), whatever angles a
family's network thinks in: positive yaw turns the face to the right of the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import cv2
import numpy as np

from kilocall.codec.codebook import Codebook
from kilocall.model import geometry as geo
from kilocall.model.checkpoints import FACEVID2VID, Checkpoint
from kilocall.model.coding import MotionCoding, universal
from kilocall.model.compact.family import CompactFamily
from kilocall.model.family import Array, Made, Picture, Source, Track, weights_folder
from kilocall.model.motion import Motion
from kilocall.model.shape import ShapeModel
from kilocall.model.volume.networks import HeadPose, TorchRunner, VolumeNetworks, make_runner
from kilocall.proto.errors import BadInput

if TYPE_CHECKING:
    from kilocall.runtime.engine import Engine

T = TypeVar("T")

__all__ = ["VolumeFamily", "VolumeRenderer", "VolumeSource", "VolumeTrack"]


@dataclass(frozen=True)
class VolumeTrack(Track):
    """Landmarks, and what the family's own network says of the head."""

    head: HeadPose = field(kw_only=True)


@dataclass(frozen=True)
class VolumeSource(Source):
    """`shape` and `implicit` are the landmarks', `pose` and what is below the family's own."""

    head: HeadPose = field(kw_only=True)
    find_canonical: Callable[[], Array] = field(kw_only=True, repr=False, compare=False)

    @cached_property
    def canonical(self) -> Array:
        """x_c [K, 3]. Found when first asked for: a sender never needs it."""
        return self.find_canonical()


class VolumeFamily:
    """`checkpoint` has the weights, `codebook` may name what `kilocall fit` wrote, in place of the default coding."""

    def __init__(self, checkpoint: Checkpoint, engine: Engine, codebook: Path | None = None) -> None:
        networks: VolumeNetworks
        if checkpoint.family == FACEVID2VID:
            from kilocall.model.facevid2vid.family import FaceVid2VidNetworks

            networks = FaceVid2VidNetworks(checkpoint)
        else:
            from kilocall.model.liveportrait.family import LivePortraitNetworks

            networks = LivePortraitNetworks(checkpoint)
        self.checkpoint, self.engine = checkpoint, engine
        self.name = checkpoint.family
        self.landmarks = CompactFamily(weights_folder(), engine)
        self.size = self.landmarks.size
        self.picture_size = networks.picture_size
        self.runner: TorchRunner = make_runner(networks, engine)
        # Deltas of all keypoints and, last, the translation in depth, for which a motion has no number of its own.
        numbers = 3 * networks.keypoints + 1
        self.coding = (
            universal(self.name, numbers) if codebook is None else MotionCoding.load(codebook, self.name, numbers)
        )

    @property
    def weights_hash(self) -> str:
        return self.checkpoint.hash

    def interrupt(self) -> None:
        """As `kilocall.model.family.interrupt`."""
        self.runner.interrupt()

    @property
    def codebook(self) -> Codebook:
        return self.coding.codebook

    @property
    def shape_model(self) -> ShapeModel:
        """Of the landmarks."""
        return self.landmarks.shape_model

    def track(self, crop: Picture, previous: Track | None = None) -> VolumeTrack:
        seen = self.landmarks.track(crop, previous)
        head = self.runner.pose(self.runner.head(crop))
        return VolumeTrack(
            seen.points, seen.depth, seen.implicit, seen.certainty, refinement=seen.refinement, head=head
        )

    def source(self, picture: Picture, track: Track | None = None) -> VolumeSource:
        if picture.shape[0] != self.size:
            picture = np.asarray(cv2.resize(picture, (self.size, self.size), interpolation=cv2.INTER_AREA), np.uint8)
        said = self.runner.head(picture)
        head = track.head if isinstance(track, VolumeTrack) else self.runner.pose(said)
        found = self.landmarks.source(picture, track or self.landmarks.track(picture))
        pose = self._motion(head, np.zeros(self.coding.codebook.coefficients - 6, np.float32))
        return VolumeSource(
            picture,
            pose,
            found.shape,
            found.implicit,
            found.certainty,
            neck=_same_neck(found, head),
            head=head,
            find_canonical=lambda: self.runner.canonical(picture, said),
        )

    def motion(self, track: Track, source: Source, previous: Motion | None = None) -> Motion:
        seen, still = _own(track, VolumeTrack).head, _own(source, VolumeSource).head
        change = seen.expression - still.expression
        depth = seen.translation[2] - still.translation[2]
        numbers = np.append(change.reshape(-1), depth).astype(np.float32)
        return self._motion(seen, self.coding.coefficients(numbers))

    def aligner(self, source: Source) -> None:
        return None

    def keypoints(self, source: Source, motion: Motion) -> Array:
        flat: Array = self.keypoints_3d(source, motion)[:, :2]
        return flat

    def keypoints_3d(self, source: Source, motion: Motion) -> Array:
        """x_d [K, 3]."""
        own = _own(source, VolumeSource)
        numbers = self.coding.expression(motion.expression)
        delta = own.head.expression + numbers[:-1].reshape(-1, 3)
        depth = own.head.translation[2] + numbers[-1]
        turned = own.canonical @ geo.rotation_matrix(*motion.rotation).T + delta
        placed: Array = (turned * motion.scale + np.array([*motion.translation, depth])).astype(np.float32)
        return placed

    def renderer(self, source: Source) -> VolumeRenderer:
        return VolumeRenderer(self, _own(source, VolumeSource))

    def fusion(self) -> None:
        return None

    @staticmethod
    def _motion(head: HeadPose, expression: Array) -> Motion:
        x, y = float(head.translation[0]), float(head.translation[1])
        return Motion(geo.rotation_angles(head.rotation), (x, y), head.scale, expression)


class VolumeRenderer:
    """One source picture's features."""

    can_hold: Final = False

    def __init__(self, family: VolumeFamily, source: VolumeSource) -> None:
        self._family, self._source = family, source
        self._appearance = family.runner.appearance(source.picture)
        self._x_s = family.keypoints_3d(source, source.pose)

    def render(self, motion: Motion) -> Picture:
        return self.make(motion).picture

    def restart(self) -> None:
        pass  # every picture is made anew

    def make(self, motion: Motion, *, hold: float = 0.0) -> Made:
        x_d = self._family.keypoints_3d(self._source, motion)
        return Made(self._family.runner.render(self._appearance, self._x_s, x_d))


def _same_neck(found: Source, head: HeadPose) -> tuple[float, float, float]:
    """The point about which the landmarks' head turns, in the coordinates in which this family's head turns.

    Both see the same crop: x and y are the same there, and depth is counted from where each has its zero.
    """
    x, y, z = found.pose.scale * (geo.rotation_matrix(*found.pose.rotation) @ np.asarray(found.neck, np.float32))
    seen = np.array([x + found.pose.translation[0], y + found.pose.translation[1], z])
    own = head.rotation.T @ (seen - np.array([head.translation[0], head.translation[1], 0.0])) / head.scale
    return float(own[0]), float(own[1]), float(own[2])


def _own(value: object, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise BadInput(f"a {type(value).__name__} of another model family was given, wanted is {kind.__name__}")
    return value
