"""Clips as people have them, made here from the built-in portrait's, and what must come of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from kilocall import api
from kilocall.model import landmarks as lm
from kilocall.model.family import Array, Family, Picture
from kilocall.sample import sample_clip
from kilocall.sender.capture import open_clip
from kilocall.sender.clip import FACE_CERTAINTY
from kilocall.sender.crop_place import CROP_SIDE, CropPlace, cut

FPS = 25


@pytest.fixture(scope="module")
def family() -> Family:
    return api.open_family()


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Picture]:
    """The first two seconds of the speaker."""
    clip = sample_clip("astronaut", tmp_path_factory.mktemp("sample"))
    return [frame.rgb for frame, _ in zip(open_clip(clip), range(2 * FPS), strict=False)]


def write(path: Path, frames: list[Picture]) -> Path:
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream("libx264", rate=Fraction(FPS), options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        sink.mux(stream.encode(None))
    return path


def landmarks(family: Family, crop: Picture) -> Array:
    """[K, 2] pixels of the crop."""
    return (family.track(crop).points + 1) * (CROP_SIDE / 2)


# A frame that ends near the face


@pytest.mark.parametrize("share", [0.05, 0.15, 0.30])
@pytest.mark.parametrize("side", ["brows", "chin", "ear"])
def test_where_the_frame_ends_no_feature_is_seen_twice(
    family: Family, frames: list[Picture], side: str, share: float
) -> None:
    """The frame ends by `share` of the face's height above the brows, below the chin, beside an ear."""
    whole = cut(frames[0], CropPlace(0, 0, min(frames[0].shape[:2])))[0]
    true = landmarks(family, whole)
    low, high = true.min(0), true.max(0)
    gap = share * (high[1] - low[1])
    brows = true[[*lm.RIGHT_EYE, *lm.LEFT_EYE], 1].min() - 0.12 * (high[1] - low[1])
    if side == "brows":
        start = max(0, round(brows - gap))
        shown, place = whole[start:], CropPlace(0, -start, CROP_SIDE)
    elif side == "chin":
        shown, place = whole[: round(high[1] + gap)], CropPlace(0, 0, CROP_SIDE)
    else:
        start = max(0, round(low[0] - gap))
        shown, place = whole[:, start:], CropPlace(-start, 0, CROP_SIDE)
    crop, _ = cut(shown, place)
    apart = np.linalg.norm(landmarks(family, crop) - true, axis=1).mean()
    assert apart < 0.7


# Before the first face


@pytest.mark.parametrize("before", ["grey", "black", "fade in"])
def test_before_the_first_face_the_source_picture_rests(
    family: Family, frames: list[Picture], tmp_path: Path, before: str
) -> None:
    if before == "fade in":
        shown = [np.rint(frame * min(1.0, number / 20)).astype(np.uint8) for number, frame in enumerate(frames)]
    else:
        shown = [np.full_like(frames[0], 128 if before == "grey" else 16)] * 20 + frames
    report = api.encode(write(tmp_path / "late.mp4", shown), tmp_path / "late.kcs", family=family)
    empty = [family.track(cut(f, CropPlace(0, 0, min(f.shape[:2])))[0]).certainty < FACE_CERTAINTY for f in shown]
    first = empty.index(False)
    assert first >= (20 if before != "fade in" else 1)
    assert any(f"no face in the first {report.lost_frames} of {len(shown)} frames" in text for text in report.warnings)
    assert abs(report.lost_frames - first) <= 3
    player = api.StreamPlayer(tmp_path / "late.kcs", family=family)
    rest = family.keypoints(player.stream_source, player.stream_source.pose)
    moved = [np.abs(family.keypoints(player.stream_source, timed.motion) - rest).max() for timed in player.motions()]
    still = moved[: report.lost_frames - 1]
    assert max(still) < 2 / 128  # pixels of 256; numbers are coded in steps
    assert max(moved) > 4 / 128
