"""The face back in the whole frame: nothing changes far from it, and no seam shows."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from kilocall.api import StreamPlayer
from kilocall.cli import run
from kilocall.model.family import Picture
from kilocall.proto.errors import BadInput
from kilocall.receiver.video_file import VideoFile
from kilocall.receiver.whole_frame import PastePlace, WholeFrames, blend, paste
from kilocall.sample import sample_stream
from kilocall.sender.capture import open_clip


def gradient(height: int, width: int) -> Picture:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack((x * 255 // width, y * 255 // height, (x + y) % 256), 2).astype(np.uint8)


def test_a_face_that_is_the_frame_itself_changes_nothing() -> None:
    frame = gradient(240, 320)
    made = paste(frame, frame[40:168, 60:188].copy(), PastePlace(0, 60, 40, 128))
    assert np.abs(made.astype(int) - frame).max() <= 2  # rounding in four bands


def test_the_middle_is_the_face_and_what_is_far_away_stays() -> None:
    frame = np.full((300, 400, 3), 200, np.uint8)
    face = np.full((128, 128, 3), 40, np.uint8)
    made = paste(frame, face, PastePlace(0, 150, 80, 128))
    assert np.abs(made[80 + 64, 150 + 64].astype(int) - 40).max() <= 6
    far = np.ones(frame.shape[:2], bool)
    far[80 - 32 : 80 + 160, 150 - 32 : 150 + 160] = False  # the margin is a quarter of the side
    assert (made[far] == 200).all()
    # From the face to the frame in small steps: a straight cut would be one of 160.
    assert np.abs(np.diff(made[:, :, 0].astype(int), axis=1)).max() < 30
    assert (frame == 200).all()


def test_bands_mix_over_their_own_widths() -> None:
    """A step of brightness is spread, a fine pattern is not: that is what the splines are for."""
    side = 128
    mask = np.zeros((side, side), np.float32)
    mask[:, side // 2 :] = 1
    dark, bright = np.full((side, side, 3), 60, np.uint8), np.full((side, side, 3), 180, np.uint8)
    row = blend(dark, bright, mask, 4)[side // 2, :, 0].astype(int)
    assert ((row > 70) & (row < 170)).sum() > 20
    pattern = np.where(np.indices((side, side)).sum(0)[..., None] % 2, 140, 100).astype(np.uint8).repeat(3, 2)
    grey = np.full((side, side, 3), 120, np.uint8)
    fine = np.abs(np.diff(blend(grey, pattern, mask, 4)[side // 2, :, 0].astype(int)))
    assert (fine[: side // 2 - 6] < 5).all()
    assert (fine[side // 2 + 6 : -6] > 30).all()


@pytest.mark.parametrize(("x0", "y0"), [(-60, -40), (250, 190), (-500, 0), (1000, 1000)])
def test_a_face_that_reaches_past_the_border(x0: float, y0: float) -> None:
    frame = gradient(240, 320)
    made = paste(frame, np.full((64, 64, 3), 128, np.uint8), PastePlace(0, x0, y0, 100))
    assert made.shape == frame.shape
    if x0 in (-500, 1000):
        assert (made == frame).all()


def test_places_and_frames_follow_the_time() -> None:
    pictures = [(number * 40_000, np.full((101, 121, 3), 10 * number, np.uint8)) for number in range(4)]
    places = [PastePlace(0, 10, 10, 40), PastePlace(80_000, 60, 40, 40)]
    frames = WholeFrames(pictures, places)
    face = np.full((64, 64, 3), 250, np.uint8)
    assert (frames.width, frames.height) == (120, 100)
    early, late = frames.put(face, 40_000), frames.put(face, 120_000)
    assert early[30, 30, 0] > 200 > early[60, 80, 0]
    assert late[60, 80, 0] > 200 > late[30, 30, 0]
    assert (early[95, 115, 0], late[95, 2, 0]) == (10, 30)
    assert frames.put(face, 9_000_000)[95, 2, 0] == 30  # after the last frame that one stays


def test_a_background_without_frames_or_places_is_refused() -> None:
    with pytest.raises(BadInput, match="no frame"):
        WholeFrames([], [PastePlace(0, 0, 0, 10)])
    with pytest.raises(BadInput, match="does not say where"):
        WholeFrames([(0, gradient(64, 64))], [])


def test_decode_into_the_whole_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, stream, out = (tmp_path / name for name in ("clip.mp4", "clip.kcs", "whole.mp4"))
    with VideoFile(clip, fps=Fraction(25), size=(400, 384)) as video:
        for frame in islice(StreamPlayer(sample_stream("drawing")).frames(), 8):
            wide = cv2.resize(frame.rgb, (300, 300), interpolation=cv2.INTER_CUBIC)
            video.write(
                np.asarray(cv2.copyMakeBorder(wide, 42, 42, 30, 70, cv2.BORDER_REPLICATE), np.uint8), frame.time_us
            )
    assert run(["encode", str(clip), "-o", str(stream)]) == 0
    assert run(["decode", str(stream), "-o", str(out), "--full-frame", "--background", str(clip)]) == 0
    assert "400x384" in capsys.readouterr().out
    made, original = next(iter(open_clip(out))).rgb, next(iter(open_clip(clip))).rgb
    assert made.shape == original.shape
    assert np.abs(made.astype(int) - original).mean() < 12

    assert run(["decode", str(stream), "-o", str(tmp_path / "no.mp4"), "--full-frame"]) == 2
    assert "--background" in capsys.readouterr().err
    arguments = ["decode", str(sample_stream("astronaut")), "-o", str(tmp_path / "no.mp4"), "--background", str(clip)]
    assert run(arguments) == 2
    assert "full frames alone" in capsys.readouterr().err
    assert not (tmp_path / "no.mp4").exists()
