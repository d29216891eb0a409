"""A video file is there whole or not at all."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from kilocall.proto.errors import BadInput
from kilocall.receiver.video_file import VideoFile

PICTURE = np.full((256, 256, 3), (200, 60, 30), np.uint8)


def test_pictures_come_back_at_their_times_and_size(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "a.mp4", fps=Fraction(25), size=128) as video:
        for time_us in (0, 40_000, 120_000):  # the third frame is missing
            video.write(PICTURE, time_us)
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = list(container.decode(video=0))
    assert [round(f.time * 25) for f in frames if f.time is not None] == [0, 1, 3]
    shown = frames[0].to_ndarray(format="rgb24")
    assert shown.shape == (128, 128, 3)
    assert np.abs(shown.astype(int) - (200, 60, 30)).max() < 12  # H.264 and 4:2:0


def test_an_error_on_the_way_leaves_nothing_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"before")

    def write_and_fail() -> None:
        with VideoFile(path, fps=Fraction(25), size=64) as video:
            video.write(PICTURE, 0)
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_a_time_that_goes_back_does_not_break_the_file(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "a.mkv", fps=Fraction(25), size=64) as video:
        for time_us in (0, 80_000, 40_000):
            video.write(PICTURE, time_us)
    with av.open(str(tmp_path / "a.mkv")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [("a.txt", 256, r"\.txt"), ("a.mp4", 65, "size is 65"), ("a.mp4", 2048, "size is 2048"), ("no/a.mp4", 256, "no")],
)
def test_what_cannot_be_written_is_refused_by_name(tmp_path: Path, name: str, size: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        VideoFile(tmp_path / name, fps=Fraction(25), size=size)
    assert not list(tmp_path.iterdir())
