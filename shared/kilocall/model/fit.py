"""Fits how motion is coded to stream files: the expression basis, and the tables of the codebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kilocall.codec.codebook import Codebook
from kilocall.codec.fit import fit_codebook
from kilocall.codec.motion_codec import MotionDecoder, MotionEncoder
from kilocall.model.coding import MotionCoding, universal
from kilocall.model.family import OWN_WEIGHTS, weights_folder
from kilocall.model.motion import POSE_NUMBERS
from kilocall.proto.errors import BadInput, BadPacket, WrongFamily
from kilocall.proto.stream_file import StreamReader

Array = NDArray[np.float32]

__all__ = ["FitReport", "default_coding", "fit_coding"]

#: Share of the expressions' energy that the basis keeps.
KEPT_ENERGY: Final = 0.995
#: Fewer say nothing about how often anything occurs.
LEAST_FRAMES: Final = 100
#: Keypoints of the families whose weights the user brings; known here so that a fit needs neither weights nor torch.
KEYPOINTS: Final = {"facevid2vid": 15, "liveportrait": 21}


@dataclass(frozen=True)
class FitReport:
    """What a fit found, measured on the streams it was made from."""

    coding: MotionCoding
    streams: int
    frames: int
    numbers_before: int
    numbers_after: int
    bits_before: float
    bits_after: float
    """Payload bits a frame at quality 50, three frames a packet."""
    error_before: float
    error_after: float
    """Root-mean-square error of the family's expression numbers, against what the streams hold."""


def default_coding(family: str) -> MotionCoding:
    """The coding of a family as installed. Raises BadInput for one that is not known."""
    if family in KEYPOINTS:
        return universal(family, 3 * KEYPOINTS[family] + 1)
    return MotionCoding(family, Codebook.load(weights_folder(family) / "codebook.safetensors"))


def fit_coding(streams: Sequence[Path], codebook: Path | None = None) -> FitReport:
    """A coding for motion like that of the stream files, which must be of one family.

    `codebook` names the file with which they were made, where that is not the family's default. compact-256 keeps its
    basis, which its shape model needs. Raises BadInput for streams that cannot be read or hold too few frames.
    """
    if not streams:
        raise BadInput("no stream to fit to")
    family = StreamReader(streams[0]).header.family
    now = default_coding(family)
    if codebook is not None:
        numbers = now.codebook.coefficients - POSE_NUMBERS
        now = MotionCoding.load(codebook, family, numbers)
    clips = [_motion(path, family, now) for path in streams]
    frames = sum(len(clip) for clip in clips)
    if frames < LEAST_FRAMES:
        raise BadInput(f"the streams hold {frames} frames, at least {LEAST_FRAMES} are needed")
    pose = [clip[:, :POSE_NUMBERS] for clip in clips]
    numbers_of = [now.expression(clip[:, POSE_NUMBERS:]) for clip in clips]
    basis = _principal(numbers_of) if family in OWN_WEIGHTS else now.basis
    steps = default_coding(family).codebook.base_steps
    if basis is not None:
        # Rows are orthonormal: a step along any of them errs as much as one of a single number.
        steps = np.concatenate((steps[:POSE_NUMBERS], np.full(len(basis), steps[POSE_NUMBERS]))).astype(np.float32)
    fitted = [
        np.concatenate((p, n if basis is None else n @ basis.T), 1).astype(np.float32)
        for p, n in zip(pose, numbers_of, strict=True)
    ]
    coding = MotionCoding(family, fit_codebook(fitted, steps), basis)
    before, after = _cost(now, clips, numbers_of), _cost(coding, fitted, numbers_of)
    return FitReport(
        coding=coding,
        streams=len(clips),
        frames=frames,
        numbers_before=now.codebook.coefficients,
        numbers_after=coding.codebook.coefficients,
        bits_before=before[0],
        bits_after=after[0],
        error_before=before[1],
        error_after=after[1],
    )


def _motion(path: Path, family: str, coding: MotionCoding) -> Array:
    """Motion vectors [T, D] of a stream."""
    reader = StreamReader(path)
    if reader.header.family != family:
        raise WrongFamily(f"{path} is of family {reader.header.family}, the streams before it of {family}")
    if reader.header.codebook_hash != coding.codebook.hash:
        raise WrongFamily(
            f"{path} was made with codebook {reader.header.codebook_hash[:12]}, here is {coding.codebook.hash[:12]}: "
            f"name the right one with --codebook"
        )
    decoder = MotionDecoder(coding.codebook)
    made = []
    for timed in reader.packets():
        try:
            made.append(decoder.decode(timed.packet))
        except BadPacket as error:
            raise BadInput(f"{path}: {error}") from error
    if not made:
        raise BadInput(f"{path} holds no motion")
    return np.concatenate(made)


def _principal(clips: list[Array]) -> Array:
    """Orthonormal rows that hold KEPT_ENERGY of the numbers, about zero: that is the source's own face."""
    every = np.concatenate(clips).astype(np.float64)
    values, vectors = np.linalg.eigh(every.T @ every)
    order = np.argsort(values)[::-1]
    energy = np.cumsum(np.maximum(values[order], 0))
    if energy[-1] <= 0:
        raise BadInput("the streams hold no expression at all: every delta is zero")
    count = int(np.searchsorted(energy, KEPT_ENERGY * energy[-1])) + 1
    return np.ascontiguousarray(vectors[:, order[:count]].T, np.float32)


def _cost(coding: MotionCoding, clips: list[Array], wanted: list[Array]) -> tuple[float, float]:
    """Payload bits a frame and the error of the expression numbers, over all clips."""
    bits, errors = 0, []
    for clip, numbers in zip(clips, wanted, strict=True):
        encoder, decoder = MotionEncoder(coding.codebook, key_interval=50), MotionDecoder(coding.codebook)
        made = []
        for coded in encoder.encode_clip(clip, 3):
            bits += 8 * len(coded.payload)
            made.append(decoder.decode(coded))
        errors.append(coding.expression(np.concatenate(made)[:, POSE_NUMBERS:]) - numbers)
    frames = sum(len(clip) for clip in clips)
    return bits / frames, float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))
