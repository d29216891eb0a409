"""compact-256 at run time: exported networks on a CPU engine, numpy around them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from kilocall.codec.codebook import Codebook
from kilocall.model import geometry as geo
from kilocall.model import landmarks as lm
from kilocall.model.compact import regions as rg
from kilocall.model.compact.align import CompactAligner, look_at
from kilocall.model.compact.compose import Composer, move, still_grid
from kilocall.model.compact.detail import Detail, halved
from kilocall.model.compact.expression_gain import ExpressionGain
from kilocall.model.compact.fusion import Fusion, speaking_parts
from kilocall.model.compact.held_field import FieldFor
from kilocall.model.compact.held_picture import HeldPicture
from kilocall.model.compact.likeness import face_colour, face_mask
from kilocall.model.compact.motion_fit import MotionFit
from kilocall.model.compact.speaker_adapter import NETWORKS as ADAPTED_NETWORKS
from kilocall.model.compact.speaker_adapter import SpeakerAdapter, adapted_folder
from kilocall.model.family import DETAIL, Array, Made, Picture, Placement, Refinement, Source, Track, place
from kilocall.model.interior import BASIS, interior
from kilocall.model.motion import Motion
from kilocall.model.shape import ShapeModel, rigid_weight
from kilocall.proto.errors import BadInput, NoFace
from kilocall.runtime.files import user_cache_folder
from kilocall.runtime.machine import return_freed_memory

if TYPE_CHECKING:
    from kilocall.runtime.engine import Engine, Network

IMPLICIT_INPUT: Final = 64
#: The point about which the heads of the training clips turn: a least-squares fit over 190 clips of how the face moves
#: when it turns. In units of the mean shape, which is 2.4 wide: 0.55 below and 1.43 behind the face's middle.
NECK: Final = (0.0, 0.55, 1.43)
#: Below this certainty a crop shows no face.
FACE_CERTAINTY: Final = 0.5
#: The refinement makes whatever it sees more like a face; so much less counts the mean of both logits. Of turned and
#: shifted held-out faces 3.2 % are missed then (10.3 % by the first look), of their backgrounds 2.5 % taken for one.
REFINEMENT_LOGIT: Final = 1.25
#: So many frames take over what the refinement of one before them changed, if points changed and have moved by less
#: (crop units; 3 pixels of 256). 37 % of the frames of 15 clips have one of their own; with one for every second frame
#: pictures are 0.015 dB nearer, and lips, lids and gaze follow less well.
MOST_LENT: Final = 3
LENT_WITHIN: Final = 3 / 128


class CompactFamily:
    """Loads each network when it is first needed. One thread at a time may use it: networks have working memory."""

    #: whose renderer this is; None: everybody's
    adapter: SpeakerAdapter | None = None

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder, self.engine = folder, engine
        try:
            self.manifest = json.loads((folder / "manifest.json").read_text())
            self.name: str = self.manifest["family"]
            self.size: int = self.manifest["size"]
            self.files: dict[str, str] = self.manifest["files"]
            #: What a receiver uses for itself: with others of these the same streams can be decoded.
            self.local_files: dict[str, str] = self.manifest.get("local_files", {})
        except (OSError, ValueError, KeyError) as error:
            raise BadInput(f"weights in {folder}: manifest.json is missing or damaged ({error})") from error

    def adapted(self, adapter: SpeakerAdapter) -> CompactFamily:
        """The same family with one person's renderer; what finds faces and codes motion is shared.

        WrongFamily or BadInput for a speaker adapter that does not fit these weights; made anew, 50 ms.
        """
        other = CompactFamily(self.folder, self.engine)
        other.__dict__.update({k: v for k, v in self.__dict__.items() if k in ("codebook", "shape_model")})
        # What is shared finds faces; working memory of what renders belongs to one thread.
        shared = ("face", "eye", "mouth", "implicit")
        other._networks = {name: net for name, net in self._networks.items() if name in shared}
        other._adapted_networks = adapted_folder(adapter, self.folder, user_cache_folder() / "personal")
        other.adapter = adapter
        return other

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over all files but the local ones: streams made with other weights cannot be decoded faithfully."""
        listed = json.dumps(self.files, sort_keys=True).encode()
        return hashlib.sha256(listed).hexdigest()

    @cached_property
    def codebook(self) -> Codebook:
        return Codebook.load(self._file("codebook.safetensors"))

    @cached_property
    def shape_model(self) -> ShapeModel:
        stored = self._shape
        return ShapeModel(stored["mean"], stored["basis"], stored["deviation"])

    @cached_property
    def expression_gain(self) -> ExpressionGain:
        """By how much lids and irises are amplified for the renderer; by nothing where the weights say nothing."""
        return ExpressionGain.of(self._shape)

    @cached_property
    def _fit(self) -> MotionFit:
        return MotionFit(self.shape_model)

    @cached_property
    def _shape(self) -> dict[str, NDArray[np.float32]]:
        return load_file(self._file("shape.safetensors"))

    def track(self, crop: Picture, previous: Track | None = None) -> Track:
        _check(crop, self.size)
        small: Picture = np.asarray(cv2.resize(crop, (rg.FACE_INPUT,) * 2, interpolation=cv2.INTER_AREA), np.uint8)
        first, sure = self._face(small)
        refinement = _lent(first, previous) or self._refine(crop, first)
        both = first + refinement.change
        points = both[:, :2].copy()
        matrices = rg.regions(points)
        close = rg.cut_regions(crop, matrices)
        eyes = self._network("eye")(region=close[:2])["points"]
        mouth = self._network("mouth")(region=close[2:])["points"][0]
        points[list(lm.RIGHT_EYE_REGION)] = rg.to_crop(matrices[0], eyes[0])
        points[list(lm.LEFT_EYE_REGION)] = rg.to_crop(matrices[1], eyes[1])
        points[list(lm.MOUTH_REGION)] = rg.to_crop(matrices[2], mouth)
        logit = (sure + refinement.logit) / 2 - REFINEMENT_LOGIT
        certainty = float(1 / (1 + np.exp(-logit)))
        look = look_at(crop)
        return Track(
            points,
            both[:, 2],
            self._implicit(crop),
            certainty,
            interior=interior(crop, points),
            look=look,
            colour=face_colour(crop, face_mask(points, len(look))),
            refinement=refinement,
        )

    def _refine(self, crop: Picture, first: Array) -> Refinement:
        """For points and depths [LANDMARKS, 3] that the first look found."""
        again = rg.face_region(first[:, :2])
        refinement, logit = self._face(rg.cut_face(crop, again))
        return Refinement(rg.refined_points(first, refinement, again) - first, logit)

    def source(self, picture: Picture, track: Track | None = None) -> Source:
        detail = picture if picture.shape[0] == DETAIL * self.size else None
        picture = picture if detail is None else halved(detail)
        track = track or self.track(picture)
        if track.certainty < FACE_CERTAINTY:
            raise NoFace(
                f"the source picture shows no face (certainty {track.certainty:.2f}, at least {FACE_CERTAINTY})"
            )
        seen = np.column_stack((track.points, track.depth)).astype(np.float32)
        rotation, translation, scale = geo.similarity(seen, self.shape_model.mean, rigid_weight())
        shape = geo.unpose(seen, rotation, translation, scale)
        pose = Motion(
            geo.rotation_angles(rotation),
            (float(translation[0]), float(translation[1])),
            float(scale),
            np.zeros(self.shape_model.expressions + 2 * self.manifest["free_points"] + len(BASIS), np.float32),
        )
        return Source(picture, pose, shape, track.implicit, track.certainty, detail, NECK, track.interior)

    def motion(self, track: Track, source: Source, previous: Motion | None = None) -> Motion:
        fitted = self._fit.fit(source.shape, track.points, track.depth, previous)
        moved = (track.implicit - source.implicit).reshape(-1)
        between_lips = BASIS @ (track.interior - source.interior)
        expression = np.concatenate((fitted.expression, moved, between_lips)).astype(np.float32)
        return Motion(fitted.rotation, fitted.translation, fitted.scale, expression)

    def aligner(self, source: Source) -> CompactAligner:
        return CompactAligner(self, source)

    def keypoints(self, source: Source, motion: Motion) -> Array:
        count = self.shape_model.expressions
        shape = source.shape + self.shape_model.delta(motion.expression[:count])
        implicit = source.implicit + motion.expression[count : -len(BASIS)].reshape(-1, 2)
        return np.concatenate((place(shape, motion), implicit)).astype(np.float32)

    def renderer(self, source: Source) -> CompactRenderer:
        return CompactRenderer(self, source)

    def fusion(self) -> Fusion:
        return Fusion(self.engine.load(self._file("fusion.onnx")))

    def appearance(self, picture: Picture) -> dict[str, NDArray[np.float32]]:
        """Features of a source picture, as the renderer network wants them.

        Its network is loaded each time, 11 to 18 ms: it is wanted once a source picture, and takes 12 MiB. A GPU keeps
        it: there loading compiles, and the first answer is compared with the CPU's.
        """
        if self.engine.device_name != "CPU":
            return self._network("appearance")(picture=picture[None])
        features = self.engine.load(self._file("appearance.onnx"))(picture=picture[None])
        return_freed_memory()  # less than a millisecond
        return features

    def driving(
        self, source: Source, motion: Motion, expression_gain: ExpressionGain | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """What the renderer network gets with every frame: x_d [1, K + N, 2], the jacobian [1, 2, 2] and what is seen
        between the lips [1, BANDS]."""
        gain = self.expression_gain if expression_gain is None else expression_gain
        moved = self.keypoints(source, gain.motion(motion))
        rest = Motion(motion.rotation, motion.translation, motion.scale, np.zeros_like(motion.expression))
        x_d = gain.keypoints(moved, self.keypoints(source, rest))
        between_lips = source.interior + motion.expression[-len(BASIS) :] @ BASIS
        return {
            "x_d": x_d[None],
            "jacobian": jacobian(source.pose, motion)[None],
            "interior": between_lips.astype(np.float32)[None],
        }

    def motion_field(self) -> Network:
        """What says where everything comes from."""
        return self._network("field")

    def painter(self) -> Network:
        """What paints the rest."""
        return self._network("generator")

    def stored(self, name: str) -> bytes:
        """A file of the weights, as the manifest says it is."""
        return self._file(name).read_bytes()

    def _face(self, picture: Picture) -> tuple[Array, float]:
        """Points and depths [LANDMARKS, 3] in the coordinates of a 128x128 picture, and the logit of a face in it."""
        found = self._network("face")(crop=picture[None])
        return np.column_stack((found["points"][0], found["depth"][0])).astype(np.float32), float(
            found["face_logit"][0]
        )

    def _implicit(self, crop: Picture) -> Array:
        small = cv2.resize(crop, (IMPLICIT_INPUT, IMPLICIT_INPUT), interpolation=cv2.INTER_AREA)
        return np.array(self._network("implicit")(crop=small[None])["points"][0], np.float32)

    def _network(self, name: str) -> Network:
        if name not in self._networks:
            self._networks[name] = self.engine.load(self._file(f"{name}.onnx"))
        return self._networks[name]

    @cached_property
    def _networks(self) -> dict[str, Network]:
        return {}

    @cached_property
    def _adapted_networks(self) -> Path | None:
        return None

    def _file(self, name: str) -> Path:
        if self._adapted_networks is not None and name in ADAPTED_NETWORKS:
            return self._adapted_networks / name
        path = self.folder / name
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise BadInput(f"weights in {self.folder}: {name} cannot be read ({error})") from error
        if found not in (self.files.get(name), self.local_files.get(name)):
            raise BadInput(f"weights in {self.folder}: {name} does not match the manifest (sha256 {found[:12]}…)")
        return path


class CompactRenderer:
    """One source picture's features; the networks that move them are the family's."""

    can_hold: Final = True

    def __init__(self, family: CompactFamily, source: Source) -> None:
        self._family, self._source = family, source
        self.expression_gain = family.expression_gain
        self._field, self._painter = family.motion_field(), family.painter()
        appearance = family.appearance(source.picture)
        self._still = {"motion_cue": appearance["motion_cue"], "x_s": source.keypoints[None]}
        self._composer = Composer(source.picture, appearance, [port.name for port in self._painter.inputs])
        self._detail = Detail(source.detail) if source.detail is not None else None
        self._speaking = speaking_parts(source.keypoints[: lm.LANDMARKS])
        self._still_field = still_grid(len(self._speaking))
        self._held: HeldPicture | None = None

    def render(self, motion: Motion) -> Picture:
        return self.make(motion).picture

    def restart(self) -> None:
        self._held = None

    def make(self, motion: Motion, *, hold: float = 0.0) -> Made:
        driving = self._family.driving(self._source, motion, self.expression_gain)
        x_d, turned = driving["x_d"][0], driving["jacobian"][0]
        if hold and self._held is not None and self._held.reaches(x_d, hold):
            return self._placed(*self._held.moved_on(self._composer.copy, x_d, turned))
        between_lips = driving.pop("interior")
        found = self._field(**self._still, **driving)
        moved = self._composer.move(found)
        pixels = self._painter(**moved, x_d=driving["x_d"], interior=between_lips)["painted"]
        picture, painted = self._composer.mix(pixels, found["gate"])
        displacement, visible = found["displacement"][0], found["visible"][0, ..., 0]
        if hold:
            field = FieldFor(found, self._still["x_s"][0], x_d, turned)
            self._held = HeldPicture(field, visible, painted)
        return self._placed(picture, displacement, painted.share, visible)

    def _placed(self, picture: Picture, displacement: Array, painted: Array, visible: Array) -> Made:
        speaking = move(self._speaking, displacement, self._still_field)
        if self._detail is not None:
            picture = self._detail.add(picture, displacement, painted)
        return Made(picture, Placement(displacement, painted, visible, speaking))


def jacobian(source: Motion, driving: Motion) -> Array:
    """J [2, 2] = (s_s / s_d) (R_s R_d^T)[:2, :2]: how a small patch of the driving frame lies in the source."""
    turn = geo.rotation_matrix(*source.rotation) @ geo.rotation_matrix(*driving.rotation).T
    return (turn[:2, :2] * (source.scale / driving.scale)).astype(np.float32)


def _lent(first: Array, previous: Track | None) -> Refinement | None:
    """An earlier frame's refinement, if it changed little, has not been lent often and the face is still there."""
    if previous is None or previous.refinement is None or previous.refinement.lent >= MOST_LENT:
        return None
    lent = previous.refinement
    changed = float(np.linalg.norm(lent.change[:, :2], axis=1).mean())
    moved = float(np.linalg.norm((first + lent.change)[:, :2] - previous.points, axis=1).mean())
    return replace(lent, lent=lent.lent + 1) if max(changed, moved) < LENT_WITHIN else None


def _check(crop: Picture, size: int) -> None:
    if crop.dtype != np.uint8 or crop.shape != (size, size, 3):
        raise BadInput(f"crop is {crop.dtype} {crop.shape}; allowed: uint8 ({size}, {size}, 3)")
