"""Clips that were cut to the face before, as training clips are: taken as they are when asked for."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from kilocall import api
from kilocall.cli import run as run_program
from kilocall.model.family import Family, Picture
from kilocall.proto.control import CropPlace
from kilocall.proto.errors import BadInput
from kilocall.proto.stream_file import StreamReader
from kilocall.sender.capture import open_clip
from kilocall.sender.face_crop import FaceCropper, plan_crops
from sender.test_clip_kinds import write


@pytest.fixture(scope="module")
def family() -> Family:
    return api.open_family()


@pytest.fixture(scope="module")
def crops(astronaut_clip: Path) -> list[Picture]:
    """A second of the built-in speaker, cut to the face."""
    frames = [frame for frame, _ in zip(open_clip(astronaut_clip), range(25), strict=False)]
    cropper = FaceCropper(plan=plan_crops(frames))
    return [np.ascontiguousarray(cropper.crop(frame).rgb) for frame in frames]


@pytest.fixture(scope="module")
def clip(crops: list[Picture], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("cut") / "cut.mp4", crops)


def places(stream: Path) -> list[CropPlace]:
    return [record for record in StreamReader(stream).records() if isinstance(record, CropPlace)]


def test_a_clip_taken_whole_is_shown_where_it_was(
    family: Family, clip: Path, crops: list[Picture], tmp_path: Path
) -> None:
    stream = tmp_path / "whole.kcs"
    api.encode(clip, stream, crop="whole", family=family, audio_kbps=None)
    assert [(place.x0, place.y0, place.side) for place in places(stream)] == [(0, 0, 256)]
    assert api.info(stream).whole_frames
    shown = [frame.rgb for frame in api.StreamPlayer(stream, family=family).frames()]
    found, wanted = (np.stack([family.track(picture).points for picture in some[::6]]) for some in (shown, crops))
    # Pixels of 256; cut anew the face would be larger by a tenth and more.
    assert np.abs(found - wanted).mean() * 128 < 2


def test_a_source_picture_is_framed_like_the_clip(
    family: Family, clip: Path, crops: list[Picture], tmp_path: Path
) -> None:
    picture = tmp_path / "source.png"
    cv2.imwrite(str(picture), crops[3][..., ::-1])
    api.encode(clip, tmp_path / "a.kcs", crop="whole", source=picture, family=family, audio_kbps=None)
    shown = [frame.rgb for frame in api.StreamPlayer(tmp_path / "a.kcs", family=family).frames()]
    found, wanted = (np.stack([family.track(one).points for one in some[::6]]) for some in (shown, crops))
    assert np.abs(found - wanted).mean() * 128 < 2


def test_a_face_that_is_cut_out_is_not_the_whole_picture(family: Family, crops: list[Picture], tmp_path: Path) -> None:
    amid_grey = [np.pad(crop, ((52, 52), (192, 192), (0, 0)), constant_values=128) for crop in crops[:8]]
    api.encode(write(tmp_path / "wide.mp4", amid_grey), tmp_path / "e.kcs", family=family, audio_kbps=None)
    assert not api.info(tmp_path / "e.kcs").whole_frames


def test_what_is_not_square_cannot_be_taken_whole(
    family: Family, clip: Path, crops: list[Picture], tmp_path: Path
) -> None:
    wide = write(tmp_path / "wide.mp4", [np.ascontiguousarray(crop[:200]) for crop in crops[:3]])
    with pytest.raises(BadInput, match=r"wide\.mp4 is 256x200: to be taken whole it must be square"):
        api.encode(wide, tmp_path / "b.kcs", crop="whole", family=family)
    picture = tmp_path / "tall.png"
    cv2.imwrite(str(picture), crops[0][:, :200, ::-1])
    with pytest.raises(BadInput, match=r"source picture .*tall\.png is 200x256"):
        api.encode(clip, tmp_path / "c.kcs", crop="whole", source=picture, family=family)
    assert not list(tmp_path.glob("*.kcs"))


def test_the_program_says_which(clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stream = str(tmp_path / "d.kcs")
    assert run_program(["encode", str(clip), "-o", stream, "--crop", "whole"]) == 0
    assert run_program(["info", stream]) == 0
    assert "256x256, all of 256x256" in capfd.readouterr().out
    assert run_program(["encode", str(clip), "-o", stream, "--crop", "half"]) == 2
