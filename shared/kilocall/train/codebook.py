"""Fits the motion codebook of a family to what its own extractor says about the training clips."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kilocall.codec.codebook import Codebook
from kilocall.codec.fit import fit_codebook
from kilocall.codec.motion_codec import MotionDecoder, MotionEncoder
from kilocall.model import landmarks as lm
from kilocall.model.compact.family import CompactFamily
from kilocall.model.family import Source, track_in_turn
from kilocall.model.interior import BASIS
from kilocall.model.motion import POSE_NUMBERS, Motion
from kilocall.model.shape import LOCAL_MOTIONS
from kilocall.sender.motion import MotionExtractor
from kilocall.train.dataset import Dataset

#: Pixels at 256 that one step of its own coefficient opens lids or lips or moves irises by, at quality 50. Coarser, and
#: blinks go missing: at the step that suits all others, 3 to 4 pixels, lids followed at r .79; at 0.5 at .91, of .93
#: before coding, for two bits a frame. Glances went 0.61 of their way before coding and 0.38 after it, 0.46 with a
#: coefficient of their own.
LOCAL_STEP_PX = 0.5

Array = NDArray[np.float32]

FRAME_US = 40_000  # the clips run at 25 fps
#: Mean keypoint error that coding may add at quality 50 to training clips, in pixels at 256; people sit stiller in the
#: held-out ones, where it is 0.6.
TARGET_ERROR_PX = 0.62
# Implicit keypoints move the background alone, so their error does not count above: their steps are this many pixels.
FREE_POINT_STEP_PX = 2.0
# What is seen between the lips moves no point either: of 1 for white.
INTERIOR_STEP = 0.25


def motion_streams(
    data: Dataset, family: CompactFamily, *, most_frames: int, progress: Callable[[int, int | None], None]
) -> list[tuple[Source, Array]]:
    """Per clip its source (first frame) and the motion vectors [T, D] that the sender would code."""
    clips = [c for c in range(len(data.names)) if len(data.clip(c)) >= 25]
    streams = []
    for done, clip in enumerate(clips):
        frames = list(data.clip(clip))[:most_frames]
        tracks = track_in_turn(family, (np.ascontiguousarray(data.pictures[frame]) for frame in frames))
        source = family.source(np.ascontiguousarray(data.pictures[frames[0]]), tracks[0])
        extractor = MotionExtractor(family, source)
        vectors = [extractor.from_track(t, i * FRAME_US).vector for i, t in enumerate(tracks)]
        streams.append((source, np.stack(vectors)))
        progress(done + 1, len(clips))
    return streams


def equal_steps(family: CompactFamily, streams: list[tuple[Source, Array]]) -> Array:
    """Steps [D - len(BASIS)] that each move the keypoints equally far, by a root-mean-square of one pixel at 256."""
    model = family.shape_model
    rng = np.random.default_rng(0)
    slopes = []
    for source, vectors in [streams[i] for i in rng.integers(0, len(streams), 24)]:
        vector = vectors[len(vectors) // 2]
        here = family.keypoints(source, Motion.from_vector(vector))
        row = []
        for index in range(len(vector) - len(BASIS)):
            nudged = vector.copy()
            nudged[index] += 1e-3
            moved = (family.keypoints(source, Motion.from_vector(nudged)) - here) * (family.size / 2) / 1e-3
            row.append(np.sqrt((moved**2).sum(-1).mean()))
        slopes.append(row)
    slope: NDArray[np.float64] = np.median(slopes, axis=0)
    steps = 1 / np.maximum(slope, 1e-6)
    steps[POSE_NUMBERS + model.expressions :] *= FREE_POINT_STEP_PX / np.sqrt(len(here))
    return np.asarray(steps, np.float32)


def local_steps(family: CompactFamily, streams: list[tuple[Source, Array]]) -> Array:
    """Steps [LOCAL_MOTIONS] of the coefficients that move lids, lips and irises."""
    half = len(lm.LID_PAIRS) // 2
    groups = (lm.LID_PAIRS[:half], lm.LID_PAIRS[half:], lm.LIP_PAIRS)
    rows = []
    for source, _ in streams[:: max(1, len(streams) // 24)]:
        vector = source.pose.vector.copy()

        def placed(vector: Array, source: Source = source) -> Array:
            points = family.keypoints(source, Motion.from_vector(vector))
            measured = [*(lm.mean_opening(points, pairs) for pairs in groups), lm.gaze(points)]
            return np.array(measured, np.float32) * (family.size / 2)

        still, row = placed(vector), []
        for index in range(POSE_NUMBERS, POSE_NUMBERS + LOCAL_MOTIONS):
            nudged = vector.copy()
            nudged[index] += 0.01
            row.append(np.abs(placed(nudged) - still).max() / 0.01)
        rows.append(row)
    return np.asarray(LOCAL_STEP_PX / np.maximum(np.median(rows, axis=0), 1e-6), np.float32)


def coding_error_px(
    family: CompactFamily, codebook: Codebook, streams: list[tuple[Source, Array]]
) -> tuple[float, float]:
    """Mean distance in pixels at 256 that coding moves the head's keypoints, and payload bits a frame."""
    errors, bits, frames = [], 0, 0
    for source, vectors in streams:
        encoder, decoder = MotionEncoder(codebook, key_interval=50), MotionDecoder(codebook)
        for first, coded in zip(range(0, len(vectors), 3), encoder.encode_clip(vectors, 3), strict=True):
            bits += 8 * len(coded.payload)
            for truth, made in zip(vectors[first:], decoder.decode(coded), strict=False):
                a, b = (family.keypoints(source, Motion.from_vector(v)) for v in (truth, made))
                head = len(source.shape)
                errors.append(np.linalg.norm((a - b)[:head], axis=-1).mean() * family.size / 2)
                frames += 1
    return float(np.mean(errors)), bits / frames


def fit_family_codebook(
    family: CompactFamily,
    data: Dataset,
    *,
    most_frames: int = 100,
    progress: Callable[[int, int | None], None],
    say: Callable[[str], None],
) -> Codebook:
    """Steps scaled until coding errs by TARGET_ERROR_PX at quality 50, then the tables for every quality."""
    streams = motion_streams(data, family, most_frames=most_frames, progress=progress)
    vectors = [v for _, v in streams]
    steps, local = equal_steps(family, streams), local_steps(family, streams)

    def scaled(factor: float) -> Array:
        others = steps[POSE_NUMBERS + LOCAL_MOTIONS :] * factor
        between_lips = np.full(len(BASIS), INTERIOR_STEP, np.float32)
        return np.concatenate((steps[:POSE_NUMBERS] * factor, local, others, between_lips))

    some = streams[::6]
    factor = 1.5
    for _ in range(4):
        trial = fit_codebook([v for _, v in some], scaled(factor), levels=[4], rounds=2)
        error, bits = coding_error_px(family, trial, some)
        say(f"step {factor:.2f}: keypoint error {error:.2f} px, {bits:.1f} bits a frame")
        factor *= TARGET_ERROR_PX / error
    codebook = fit_codebook(vectors, scaled(factor))
    error, bits = coding_error_px(family, codebook, some)
    say(f"codebook: keypoint error {error:.2f} px, {bits:.1f} bits a frame")
    return codebook
