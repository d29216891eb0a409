"""The seam between the codec and its models: what every family of networks offers.

Nothing outside `model/` knows how a family works. The number of keypoints, the expression basis and the picture size
come from the family's manifest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from kilocall.model.motion import Motion
from kilocall.proto.errors import BadInput

if TYPE_CHECKING:
    from kilocall.codec.codebook import Codebook

Picture = NDArray[np.uint8]
Array = NDArray[np.float32]

DEFAULT_FAMILY = "compact-256"
#: Families whose weights the user brings, and what they are.
OWN_WEIGHTS = {
    "facevid2vid": "FILE (Vox-256 checkpoint, CC BY-NC 4.0: not for commercial use)",
    "liveportrait": "FOLDER (its four files, MIT)",
}
#: A source picture may have so many times the side that the networks work at; what is copied is then as fine.
DETAIL = 2
#: `Aligner.likeness` of faces that most likely are of two people.
ANOTHER: Final = 0.65


@dataclass(frozen=True, eq=False)
class Refinement:
    """What the landmark network finds when it sees a face again, cut out upright and mirrored (flip test)."""

    change: Array  # of points and depths [K, 3]
    logit: float  # of a face
    lent: int = 0  # to so many frames after its own


@dataclass(frozen=True)
class Track:
    """Where a face's points are in a crop, in crop units (-1..1)."""

    points: Array  # [K, 2]
    depth: Array  # [K]
    implicit: Array  # [N, 2] implicit keypoints, which do not follow the head
    certainty: float  # 0..1 that there is a face at all
    interior: Array = field(default_factory=lambda: np.zeros(0, np.float32))  # brightness between the lips [BANDS]
    look: NDArray[np.uint8] | None = None  # the crop itself, small and grey, for families that align it
    colour: Array | None = None  # of the face, for these: a and b of CIELAB [2]
    refinement: Refinement | None = None  # its own, or what an earlier frame lent


@dataclass(frozen=True)
class Source:
    """One picture of the speaker and what every frame is expressed against (the canonical keypoints)."""

    picture: Picture  # [S, S, 3]
    pose: Motion  # of the picture itself; its expression is zero by definition
    shape: Array  # canonical keypoints [K, 3], head-fixed, with the picture's own expression
    implicit: Array  # implicit keypoints [N, 2]
    certainty: float
    detail: Picture | None = None  # the same picture at twice the size [2S, 2S, 3]
    neck: tuple[float, float, float] = (0.0, 0.0, 0.0)  # what the head turns about, head-fixed
    interior: Array = field(default_factory=lambda: np.zeros(0, np.float32))  # as in Track

    @property
    def keypoints(self) -> Array:
        """x_s [K + N, 2]."""
        return np.concatenate((place(self.shape, self.pose), self.implicit)).astype(np.float32)


@dataclass(frozen=True)
class Placement:
    """Where each place of a made picture comes from, for families that can tell."""

    displacement: Array  # [F, F, 2] crop units: from the place to where it lies in the source picture
    painted: Array  # [P, P] 0..1: how much of it was not copied from there
    visible: Array  # [F, F] 0..1: how much of it the source picture shows
    speaking: Array  # [F, F, 2] 0..1: whether it is of the mouth, and of the eyes
    number: int = 0  # of the source picture, where the speaker has several


@dataclass(frozen=True)
class Made:
    """A picture that motion made, and how: what a frame of the video layer is compared with, and moved by."""

    picture: Picture  # [S, S, 3], or [2S, 2S, 3] where the source has detail
    placement: Placement | None = None


class FrameRenderer(Protocol):
    """Holds the appearance of one source picture."""

    @property
    def can_hold(self) -> bool:
        """Whether `hold` changes anything."""

    def make(self, motion: Motion, *, hold: float = 0.0) -> Made:
        """The source's face moved by `motion`; the caller owns it.

        With `hold`, for frames in their order, the picture of a frame before may be moved on instead, where that
        takes less and, at 1, hardly shows; with more it may have moved so many times as far.
        """

    def render(self, motion: Motion) -> Picture:
        """The picture alone."""

    def restart(self) -> None:
        """The next frame does not follow the last one: nothing is moved on from a picture before it."""


class LayerCorrection(Protocol):
    """What a frame of the video layer changes of the picture that was made for its moment."""

    def moved_to(self, made: Made) -> LayerCorrection:
        """The same for another moment's picture."""

    def after(self, before: LayerCorrection, made: Made) -> tuple[LayerCorrection, LayerCorrection]:
        """What is shown of it in the first picture and from then on, where `before` was shown until `made`, the picture
        that it was made for."""

    def apply(self, picture: Picture, strength: float = 1.0) -> Picture:
        """The picture [S, S, 3] changed; with a `strength` below one, less."""


class Fusion(Protocol):
    """Compares made pictures with frames of the video layer. One thread at a time may use it."""

    def correction(self, made: Made, layer: Picture, *, in_step: bool = False) -> LayerCorrection:
        """For a layer frame [L, L, 3] of the moment for which `made` was made; `in_step`: there is one for each picture
        that is shown."""


class Aligner(Protocol):
    """Aligns the implicit keypoints of one speaker's frames by comparing them with one source picture."""

    def align(self, motion: Motion, track: Track) -> Motion:
        """A frame's motion, better placed; what was found is where the next frame starts."""

    def reset(self) -> None:
        """The next frame starts anew."""

    @property
    def likeness(self) -> float | None:
        """How alike the faces of the last frame and of the source picture are: 1 the same, below ANOTHER most likely
        somebody else's. None where that cannot be told."""


class Family(Protocol):
    """A set of networks that agree on keypoints. Networks load when first used: a sender never loads a generator."""

    @property
    def name(self) -> str: ...
    @property
    def weights_hash(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def codebook(self) -> Codebook: ...

    def track(self, crop: Picture, previous: Track | None = None) -> Track:
        """Finds the face's points in a crop [S, S, 3]; `previous`, of the frame before, saves work."""

    def source(self, picture: Picture, track: Track | None = None) -> Source:
        """Canonical keypoints of a picture [S, S, 3] or [2S, 2S, 3]; NoFace if it shows none."""

    def motion(self, track: Track, source: Source, previous: Motion | None = None) -> Motion:
        """Pose and expression of a tracked face against a source; `previous` is where the fit starts."""

    def aligner(self, source: Source) -> Aligner | None:
        """None for a family without implicit keypoints."""

    def keypoints(self, source: Source, motion: Motion) -> Array:
        """x_d [K + N, 2]: the source's points where `motion` puts them (face-vid2vid eq. 1 and 2)."""

    def renderer(self, source: Source) -> FrameRenderer:
        """Computes the appearance once."""

    def fusion(self) -> Fusion | None:
        """A new one; None for a family that was not taught to use a video layer."""


def nobody(family: Family) -> Source:
    """A source picture without a face; loads the networks that look at one."""
    blank = np.zeros((family.size, family.size, 3), np.uint8)
    return family.source(blank, replace(family.track(blank), certainty=1.0))


def track_in_turn(family: Family, crops: Iterable[Picture]) -> list[Track]:
    """The face in each of a video's crops, one after the other."""
    tracks: list[Track] = []
    for crop in crops:
        tracks.append(family.track(crop, tracks[-1] if tracks else None))
    return tracks


def place(shape: Array, motion: Motion) -> Array:
    """Head-fixed points [K, 3] seen in the crop [K, 2]: s (R x)_xy + t."""
    from kilocall.model.geometry import rotation_matrix

    turned = shape @ rotation_matrix(*motion.rotation).T
    seen: Array = (turned[:, :2] * motion.scale + np.asarray(motion.translation)).astype(np.float32)
    return seen


def retarget(motion: Motion, from_pose: Motion, to_pose: Motion) -> Motion:
    """The same movement on another picture: the change since `from_pose`, applied to `to_pose` (relative motion)."""
    from kilocall.model.geometry import rotation_angles, rotation_matrix

    turn = rotation_matrix(*motion.rotation) @ rotation_matrix(*from_pose.rotation).T
    rotation = rotation_angles((turn @ rotation_matrix(*to_pose.rotation)).astype(np.float32))
    growth = motion.scale / from_pose.scale
    size = to_pose.scale / from_pose.scale
    x, y = (
        b + (m - a) * size
        for m, a, b in zip(motion.translation, from_pose.translation, to_pose.translation, strict=True)
    )
    return Motion(rotation, (x, y), to_pose.scale * growth, motion.expression)


def turn_head(
    motion: Motion, yaw: float, pitch: float, roll: float, neck: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> Motion:
    """The head turned further by yaw, pitch, roll in radians, seen from where the camera is (free view).

    The point `neck` of the head stays where it is, as when somebody turns: the face moves sideways as well.
    """
    from kilocall.model.geometry import rotation_angles, rotation_matrix

    before = rotation_matrix(*motion.rotation)
    turned = (rotation_matrix(yaw, pitch, roll) @ before).astype(np.float32)
    shift = motion.scale * ((before - turned) @ np.asarray(neck, np.float32))
    place = (motion.translation[0] + float(shift[0]), motion.translation[1] + float(shift[1]))
    return Motion(rotation_angles(turned), place, motion.scale, motion.expression)


def same_models(name: str) -> str:
    """What to do when two sides have different weights of a family."""
    if name in OWN_WEIGHTS:
        return "start both sides with the same --family, --weights and --codebook"
    return "install the same kilocall on both sides"


def interrupt(family: object) -> None:
    """Ends the picture that a slow family is making on another thread, with an error there; from then on it makes none.

    Quick families have nothing to end.
    """
    end = getattr(family, "interrupt", None)
    if end is not None:
        end()


def weights_folder(name: str = DEFAULT_FAMILY) -> Path:
    """Where the package keeps a family's weights; BadInput for a family that is not installed."""
    root = Path(__file__).parent / "weights"
    installed = sorted(p.parent.name for p in root.glob("*/manifest.json"))
    if name not in installed:
        known = ", ".join((*installed, *OWN_WEIGHTS))
        raise BadInput(f"model family {name!r} is not installed; known: {known}")
    return root / name
