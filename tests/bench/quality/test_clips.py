from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kilocall.api import open_family
from kilocall.bench.quality.clips import is_crop, read_clip
from kilocall.model.family import Family
from kilocall.proto.errors import BadInput, NoFace

Sway = Callable[..., list[NDArray[np.uint8]]]


@pytest.fixture(scope="module")
def family() -> Family:
    return open_family(threads=1)


def test_square_crop_is_taken_as_it_is(swaying: Path, swaying_pictures: Sway, family: Family) -> None:
    clip = read_clip(swaying, family)
    assert is_crop(swaying, family)
    np.testing.assert_array_equal(clip.frames, np.stack(swaying_pictures()))
    assert (clip.fps, clip.size, clip.lost_frames, clip.notes) == (12, 256, 0, ())
    assert clip.digest == read_clip(swaying, family).digest != read_clip(swaying, family, seconds=2).digest


def test_at_512_kilocall_still_gets_its_own_size(swaying: Path, family: Family) -> None:
    clip = read_clip(swaying, family, size=512)
    assert clip.frames.shape[1:] == (512, 512, 3)
    assert clip.crops[0].shape == (256, 256, 3)
    assert "256x256, resized" in clip.notes


def test_face_is_cut_out_of_a_frame_with_odd_sides(
    tmp_path: Path, swaying_pictures: Sway, write_clip: Callable[..., Path], family: Family
) -> None:
    wide = [np.pad(p, ((20, 41), (60, 99), (0, 0)), mode="reflect") for p in swaying_pictures(25)]
    path = write_clip(tmp_path / "odd.mkv", wide)
    for size in (256, 512):
        clip = read_clip(path, family, size=size)
        assert clip.frames.shape == (25, size, size, 3)
        assert clip.lost_frames == 0
        assert "face cut from 415x317" in clip.notes
    with pytest.raises(BadInput, match="415x317; without cropping they must be square"):
        read_clip(path, family, crop=False)


def test_variable_rate_is_made_even_and_said(
    tmp_path: Path, swaying_pictures: Sway, write_clip: Callable[..., Path], family: Family
) -> None:
    times = [number + (number > 5) + 2 * (number > 9) for number in range(26)]
    clip = read_clip(write_clip(tmp_path / "uneven.mkv", swaying_pictures(), times=times), family)
    assert "variable frame rate" in clip.notes[0]
    steps = np.diff(clip.times_us)
    assert steps.max() - steps.min() <= 1


def test_rate_that_was_asked_for_is_said(swaying: Path, family: Family) -> None:
    clip = read_clip(swaying, family, fps=24)
    assert len(clip.frames) == 52
    assert "12 fps, resampled to 24" in clip.notes


def test_clip_that_cannot_be_used_says_why(
    tmp_path: Path, swaying: Path, swaying_pictures: Sway, write_clip: Callable[..., Path], family: Family
) -> None:
    with pytest.raises(BadInput, match=r"is 0\.83 s long, at least 2 s"):
        read_clip(write_clip(tmp_path / "short.mkv", swaying_pictures(10)), family)
    wall = [np.full((256, 256, 3), 90, np.uint8)] * 25
    with pytest.raises(NoFace, match="no face in any of 25 frames"):
        read_clip(write_clip(tmp_path / "wall.mkv", wall), family, crop=False)
    with pytest.raises(NoFace):
        read_clip(tmp_path / "wall.mkv", family)
    with pytest.raises(BadInput, match="size is 300, allowed are 256 and 512"):
        read_clip(swaying, family, size=300)
    with pytest.raises(BadInput, match="seconds is 1, allowed are 2 to 30"):
        read_clip(swaying, family, seconds=1)
