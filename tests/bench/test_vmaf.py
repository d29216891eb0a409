from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from kilocall.bench import vmaf as module
from kilocall.bench.ffmpeg import find_ffmpeg
from kilocall.bench.vmaf import vmaf
from kilocall.proto.errors import BadInput


def _clip(count: int = 4, side: int = 64) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    noise = np.random.default_rng(1).integers(0, 255, (side, side, 3)).astype(np.uint8)
    picture = cv2.GaussianBlur(noise, (0, 0), 1.5)
    return np.stack([np.roll(picture, number, 1) for number in range(count)]).astype(np.uint8)


def test_equal_clips_score_nearly_a_hundred_and_blur_costs() -> None:
    truth = _clip()
    scores = [
        vmaf(truth, np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in truth]).astype(np.uint8), 25)
        for sigma in (0.5, 1.0, 2.0)
    ]
    assert vmaf(truth, truth, 25) > 97
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < 60


def test_the_first_clip_is_the_reference() -> None:
    truth = _clip()
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in truth]).astype(np.uint8)
    # A sharper picture than the reference is no loss to VMAF.
    assert vmaf(truth, blurred, 25) < 70 < vmaf(blurred, truth, 25)


def test_odd_sides_and_single_frames_are_measured() -> None:
    assert vmaf(_clip(1, 45), _clip(1, 45), 29.97) > 95


def test_clips_that_do_not_match_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="4 and 3 frames"):
        vmaf(_clip(4), _clip(3), 25)
    with pytest.raises(BadInput, match="frames are uint8"):
        vmaf(_clip(4, 64), _clip(4, 48), 25)
    with pytest.raises(BadInput, match="VMAF needs 32x32"):
        vmaf(_clip(4, 24), _clip(4, 24), 25)
    bare = dataclasses.replace(find_ffmpeg(), filters=frozenset({"psnr"}))
    monkeypatch.setattr(module, "find_ffmpeg", lambda: bare)
    with pytest.raises(BadInput, match="built without libvmaf"):
        vmaf(_clip(), _clip(), 25)


def test_ffmpeg_that_fails_says_why(tmp_path: object) -> None:
    from pathlib import Path

    with pytest.raises(BadInput, match=r"ffmpeg ended with code \d+: .*missing\.mp4"):
        find_ffmpeg().run(["-i", "missing.mp4", "-f", "null", "-"], folder=Path(str(tmp_path)))
