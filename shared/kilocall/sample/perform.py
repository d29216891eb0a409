"""Makes the sample streams: a portrait, a drawing of it, and procedural motion (nods, turns, blinks, speech)."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.codec.motion_codec import MotionEncoder
from kilocall.model import landmarks as lm
from kilocall.model.compact.family import CompactFamily
from kilocall.model.family import Array, Picture, Source
from kilocall.model.interior import BASIS
from kilocall.model.motion import Motion
from kilocall.proto.control import CropPlace, SourcePicture
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.stream_file import StreamHeader, StreamWriter
from kilocall.runtime.pictures import decode_picture, encode_picture
from kilocall.sample import CLIP_SIZE, NAMES

#: Where `sample_stream` finds them.
SHIPPED = Path(__file__).parent
FPS = 25
SECONDS = 8
FRAMES_PER_PACKET = 3
#: What an opening jaw adds between the lips, from above: the teeth stay, below them it is dark.
DARK_MOUTH = np.array([0, -0.2, -0.35], np.float32)


def portrait() -> Picture:
    """The astronaut's face, uint8 RGB [384, 384, 3]."""
    return decode_picture((Path(__file__).parent / "portrait.webp").read_bytes())


def drawing(photo: Picture) -> Picture:
    """The photo mirrored, its face reshaped, drawn in flat colours with ink lines: another, unreal person."""
    photo = np.ascontiguousarray(photo[:, ::-1])
    size = photo.shape[0]
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32)
    u, v = (xs - size / 2) / size, (ys - size / 2) / size
    near = np.exp(-((u / 0.3) ** 2))
    narrow = 1 - near * (0.13 * np.exp(-(((v - 0.12) / 0.22) ** 2)) - 0.06 * np.exp(-(((v + 0.15) / 0.2) ** 2)))
    photo = cv2.remap(
        photo,
        (u * narrow * size + size / 2).astype(np.float32),
        ys,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    ).astype(np.uint8)
    for _ in range(6):
        photo = np.asarray(cv2.bilateralFilter(photo, 9, 28, 9), np.uint8)
    hsv = cv2.cvtColor(photo, cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 2] = np.round(hsv[..., 2] / 16) * 16
    hsv[..., 1] = hsv[..., 1] * 1.35
    flat = cv2.cvtColor(np.clip(hsv, 0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)
    grey = cv2.GaussianBlur(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), (0, 0), 1.0).astype(np.float32)
    lines = cv2.GaussianBlur(grey, (0, 0), 1.0) - cv2.GaussianBlur(grey, (0, 0), 2.2)
    ink = np.clip((lines + 1.2) / 2.2 + 0.55, 0.3, 1)[..., None]
    return np.asarray(flat * ink, np.uint8)


def perform(family: CompactFamily, source: Source, seed: int) -> list[Motion]:
    """Motion of somebody who talks, nods, looks around and blinks, SECONDS long, starting from the source's pose."""
    rng = np.random.default_rng(seed)
    count = SECONDS * FPS
    time = np.arange(count) / FPS
    come_in = np.clip(time / 0.8, 0, 1)
    phase = rng.uniform(0, 2 * math.pi, 8)

    def sway(amount: float, *periods_s: float) -> NDArray[np.float64]:
        waves = [np.sin(2 * math.pi * time / p + f) for p, f in zip(periods_s, phase, strict=False)]
        return np.asarray(amount * come_in * (np.sum(waves, 0) - np.sum([w[0] for w in waves])) / len(waves))

    yaw, pitch, roll = sway(0.26, 3.1, 5.3), sway(0.07, 2.3, 1.1), sway(0.07, 4.1)
    pitch += 0.13 * _beats(time, 0.14, 2.2, 2.6, 6.4)
    talking = ((time > 0.7) & (time < 3.6)) | ((time > 4.3) & (time < 7.4))
    syllables = np.clip(np.sin(2 * math.pi * 3.7 * time + 2.2 * np.sin(2 * math.pi * 0.6 * time)), 0, 1)
    smooth = np.convolve(talking.astype(float), np.ones(5) / 5, "same")
    mouth = smooth * syllables * (0.55 + 0.45 * np.sin(2 * math.pi * 0.9 * time + phase[0]))
    round_lips = smooth * np.clip(np.sin(2 * math.pi * 1.3 * time + phase[1]), 0, 1)
    lids = _beats(time, 0.07, 1.0, 2.9, 3.9, 5.6, 7.0)
    brows = 0.8 * _beats(time, 0.3, 1.8, 4.8)
    model = family.shape_model
    blink, jaw, purse, raise_ = (
        model.project(delta)
        for delta in (_blink(source.shape), open_jaw(source.shape), _purse(source.shape), _raise(source.shape))
    )
    still = np.zeros(2 * len(source.implicit))
    dark = BASIS @ DARK_MOUTH
    motions = []
    for i in range(count):
        expression = lids[i] * blink + mouth[i] * jaw + round_lips[i] * purse + brows[i] * raise_
        pose = source.pose
        motions.append(
            replace(
                pose,
                rotation=(pose.rotation[0] + yaw[i], pose.rotation[1] + pitch[i], pose.rotation[2] + roll[i]),
                translation=(pose.translation[0] + 0.25 * yaw[i], pose.translation[1] + 0.3 * pitch[i]),
                expression=np.concatenate((expression, still, mouth[i] * dark)).astype(np.float32),
            )
        )
    return motions


def _beats(time: NDArray[np.float64], width_s: float, *at_s: float) -> NDArray[np.float64]:
    """Bumps of height one at the given moments."""
    return np.asarray(sum(np.exp(-(((time - at) / width_s) ** 2)) for at in at_s))


def _blink(shape: Array) -> Array:
    delta = np.zeros_like(shape)
    for upper, lower in lm.LID_PAIRS:
        gap = shape[lower] - shape[upper]
        delta[upper], delta[lower] = 0.8 * gap, -0.15 * gap
    return delta


def open_jaw(shape: Array) -> Array:
    """What an open mouth adds to a face's shape [N, 3]."""
    delta = np.zeros_like(shape)
    height = float(np.ptp(shape[list(lm.OVAL), 1]))
    for point in (*lm.OUTER_LIPS, *lm.INNER_LIPS):
        below = shape[point, 1] > shape[lm.INNER_LIPS[0], 1] + 0.01
        delta[point, 1] = 0.11 * height if below else -0.01 * height
    for point, corner in (
        (lm.OUTER_LIPS[0], 1),
        (lm.OUTER_LIPS[6], -1),
        (lm.INNER_LIPS[0], 1),
        (lm.INNER_LIPS[4], -1),
    ):
        delta[point] = (0.012 * height * corner, 0.02 * height, 0)
    for point in lm.OVAL:
        if lm.MESH_INDEX[point] in (150, 379, 152):
            delta[point, 1] = 0.08 * height
    return delta


def _purse(shape: Array) -> Array:
    delta = np.zeros_like(shape)
    lips = list((*lm.OUTER_LIPS, *lm.INNER_LIPS))
    middle = shape[lips].mean(0)
    delta[lips, 0] = 0.14 * (middle[0] - shape[lips, 0])
    return delta


def _raise(shape: Array) -> Array:
    delta = np.zeros_like(shape)
    delta[[*lm.RIGHT_BROW, *lm.LEFT_BROW], 1] = -0.05 * float(np.ptp(shape[list(lm.OVAL), 1]))
    return delta


def build_samples(family: CompactFamily, folder: Path = SHIPPED) -> list[Path]:
    """Writes NAME.kcs for every sample into `folder`; needed whenever the weights change."""
    photo = portrait()
    made = []
    for seed, (name, picture) in enumerate(zip(NAMES, (photo, drawing(photo)), strict=True)):
        crop = np.asarray(cv2.resize(picture, (family.size, family.size), interpolation=cv2.INTER_AREA), np.uint8)
        format_, data = encode_picture(crop)
        source = family.source(decode_picture(data))
        codec = MotionEncoder(family.codebook, key_interval=2 * FPS)
        header = StreamHeader(
            family=family.name,
            weights_hash=family.weights_hash,
            codebook_hash=family.codebook.hash,
            fps=Fraction(FPS),
            picture_size=family.size,
            frame_width=CLIP_SIZE,
            frame_height=CLIP_SIZE,
            quality=50,
            tool="kilocall sample",
            frame_count=SECONDS * FPS,
        )
        path = folder / f"{name}.kcs"
        with StreamWriter(path, header) as writer:
            writer.add_picture(SourcePicture(format=format_, data=data))
            writer.add_place(CropPlace(0, 0.0, 0.0, float(CLIP_SIZE), CLIP_SIZE, CLIP_SIZE))
            vectors = np.stack([m.vector for m in perform(family, source, seed)])
            first = 0
            for coded in codec.encode_clip(vectors, FRAMES_PER_PACKET):
                when = first * 1_000_000 // FPS
                writer.add_packet(when, MotionPacket.carry(coded, when, 1_000_000 // FPS))
                first += coded.frame_count
        made.append(path)
    return made
