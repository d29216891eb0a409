"""The shipped weights on real people, where such clips are at hand: quality, face finding, bad endings."""

from pathlib import Path

import pytest

from kilocall import api
from kilocall.bench.evaluate.folder import evaluate_folder

# Two of the test clips: one calm, one that turns a lot. Bounds leave a third of what was measured as room.
CHOSEN = ("andrewng_00", "lp_d9_00")


@pytest.mark.slow
def test_unseen_people_are_followed(clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in CHOSEN:
        for suffix in (".mp4", ".npz"):
            (folder / (name + suffix)).symlink_to((clips / "test" / (name + suffix)).resolve())
    result = evaluate_folder(folder, tmp_path / "out")
    assert not result.failures
    mean = result.mean
    assert mean.payload_bits_mean < 55
    assert mean.coding_px < 0.75
    assert mean.decoded.psnr_db > mean.frozen.psnr_db + 2.5
    assert mean.decoded.landmark_px is not None
    assert mean.decoded.landmark_px < 2.2
    assert mean.decoded.mouth_r is not None
    assert mean.decoded.mouth_r > 0.75
    assert mean.decoded.eye_r is not None
    assert mean.decoded.eye_r > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_sky2", "test_latsync2"])
def test_face_is_followed_through_a_whole_clip(clips: Path, tmp_path: Path, name: str) -> None:
    report = api.encode(clips / "raw" / f"{name}.mp4", tmp_path / "a.kcs")
    assert report.lost_frames <= 0.02 * report.frames
    assert report.reframings <= 4
