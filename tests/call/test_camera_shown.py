"""Somebody who leaves the picture, and comes back: two processes on a film of that."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from call.kept import kept
from call.two_processes import Finished, call_of_two
from kilocall.model.family import Picture
from kilocall.receiver.video_file import VideoFile
from kilocall.sender.capture import open_clip

SECONDS = 22
#: The film: so long with a face, then without one.
FACE_S, AWAY_S = 3.0, 6.0
FPS = 25
WALL = (60, 110, 170)
NOTE = (235, 205, 40)


def _film(speaker: Path, path: Path) -> None:
    """The speaker in a room of 4:3; then the room alone, with a yellow note on the wall."""
    pictures = []
    for frame in open_clip(speaker, fps=FPS):
        room = _room()
        room[60:444, 128:512] = cv2.resize(frame.rgb, (384, 384))
        pictures.append(room)
        if len(pictures) == round(FACE_S * FPS):
            break
    empty = _room()
    cv2.rectangle(empty, (60, 80), (220, 220), NOTE, -1)
    pictures += [empty] * round(AWAY_S * FPS)
    with VideoFile(path, fps=Fraction(FPS), size=(640, 480)) as film:
        for number, picture in enumerate(pictures):
            film.write(picture, round(1e6 * number / FPS))


def _room() -> Picture:
    return np.full((480, 640, 3), WALL, np.uint8)


@pytest.fixture(scope="module")
def finished(astronaut_clip: Path, drawing_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("shown")
    film = folder / "film.mp4"
    _film(astronaut_clip, film)
    return call_of_two(folder, {"a": film, "b": drawing_clip}, SECONDS)


def _shown(finished: Finished, name: str) -> list[Picture]:
    found = []
    for _, path in sorted(kept(finished.folder / name, "shown").items()):
        bgr = cv2.imread(str(path))
        assert bgr is not None
        found.append(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8))
    return found


def test_the_other_side_sees_what_the_camera_sees_while_nobody_is_there(finished: Finished) -> None:
    assert finished.reports["b"].layer.camera_pictures > 5
    wide = [picture for picture in _shown(finished, "b") if picture.shape[1] > 1.2 * picture.shape[0]]
    assert len(wide) > 5
    # In the first and the last of a run somebody may be there: the face comes back before it is moved again.
    seen = [cv2.resize(picture, (640, 480)).astype(int) for picture in wide]
    noted = [
        np.abs(picture[150, 140] - NOTE).max() < 40 and np.abs(picture[400, 500] - WALL).max() < 15 for picture in seen
    ]
    assert np.mean(noted) > 0.5


def test_the_face_is_moved_again_when_it_is_back(finished: Finished) -> None:
    square = [picture.shape[0] == picture.shape[1] for picture in _shown(finished, "b")]
    # Who is slow to start may first see that the speaker has left already: he comes back, and leaves again.
    back = square.index(True, square.index(False))
    assert not all(square[back:])


def test_who_stays_in_the_picture_is_never_shown_so(finished: Finished) -> None:
    assert finished.reports["a"].layer.camera_pictures == 0
    assert all(picture.shape[0] == picture.shape[1] for picture in _shown(finished, "a"))
