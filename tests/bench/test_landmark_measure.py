from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kilocall.bench.landmark_measure import FamilyMeter, MediaPipeMeter
from kilocall.model import landmarks as lm
from kilocall.model.family import Track
from kilocall.proto.errors import BadInput

# An interpreter that takes `-I worker.py ...` like Python, but brings a MediaPipe of its own: all 478 points lie
# at the picture's mean red and green, and a black picture has no face. The worker itself is the real one. Who serves
# clips leaves its process number in a file beside it.
FAKE_PYTHON = """#!{python}
import os, runpy, sys, types
if "--serve" in sys.argv:
    with open(__file__ + ".served", "a") as file:
        print(os.getpid(), file=file)
assert sys.argv[1] == "-I", sys.argv
class Points:
    def __init__(self, r, g):
        self.landmark = [types.SimpleNamespace(x=r, y=g, z=0.5)] * 478
class FaceMesh:
    def __init__(self, *, static_image_mode, max_num_faces, refine_landmarks):
        assert not static_image_mode and max_num_faces == 1 and refine_landmarks
    def __enter__(self):
        return self
    def __exit__(self, *error):
        return None
    def process(self, frame):
        assert frame.shape == (32, 32, 3) and frame.flags.c_contiguous
        r, g = frame[..., 0].mean() / 256, frame[..., 1].mean() / 256
        return types.SimpleNamespace(multi_face_landmarks=[Points(r, g)] if r else None)
mediapipe = types.ModuleType("mediapipe")
mediapipe.__version__ = "0.10.21"
mediapipe.solutions = types.SimpleNamespace(face_mesh=types.SimpleNamespace(FaceMesh=FaceMesh))
sys.modules["mediapipe"] = mediapipe
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def _track(points: NDArray[np.float32], certainty: float) -> Track:
    return Track(points, np.zeros(len(points), np.float32), np.zeros((0, 2), np.float32), certainty)


def test_crop_units_become_pixels_of_256() -> None:
    points = np.zeros((lm.LANDMARKS, 2), np.float32)
    points[0] = (-1 + 1 / 256, 1 - 1 / 256)  # centres of the first and the last pixel
    measured = FamilyMeter.of_tracks([_track(points, 0.9), _track(points, 0.4)])
    np.testing.assert_allclose(measured.points[0, 0], (0, 255), atol=1e-4)
    np.testing.assert_allclose(measured.points[0, 1], (127.5, 127.5), atol=1e-4)
    assert measured.valid.tolist() == [True, False]
    assert measured.face.shape == (2, lm.LANDMARKS, 2)


def test_mediapipe_of_another_python_measures_every_frame(tmp_path: Path) -> None:
    python = _script(tmp_path / "python", FAKE_PYTHON.format(python=sys.executable))
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    frames[0, ..., :2] = (64, 128)
    frames[2, ..., :2] = (32, 16)
    meter = MediaPipeMeter(python)
    measured = meter.measure(list(frames))
    assert meter.name == "MediaPipe 0.10.21 (478 points)"
    assert measured.valid.tolist() == [True, False, True]
    assert measured.points.shape == (3, lm.MESH_POINTS, 2)
    assert measured.face.shape == (3, lm.LANDMARKS, 2)
    np.testing.assert_allclose(measured.points[0], np.full((478, 2), (63.5, 127.5)))
    np.testing.assert_allclose(measured.points[2], np.full((478, 2), (31.5, 15.5)))


def test_one_process_measures_many_clips_and_ends_with_the_meter(tmp_path: Path) -> None:
    meter = MediaPipeMeter(_script(tmp_path / "python", FAKE_PYTHON.format(python=sys.executable)))
    assert meter.measure([np.full((32, 32, 3), 64, np.uint8)]).valid.tolist() == [True]
    assert meter.measure([np.zeros((32, 32, 3), np.uint8)] * 2).valid.tolist() == [False, False]
    (server,) = (tmp_path / "python.served").read_text().split()
    os.kill(int(server), 0)  # it is there
    del meter
    with pytest.raises(ProcessLookupError):
        os.kill(int(server), 0)


def test_mediapipe_that_breaks_within_a_clip_is_refused_and_started_anew(tmp_path: Path) -> None:
    meter = MediaPipeMeter(_script(tmp_path / "python", FAKE_PYTHON.format(python=sys.executable)))
    with pytest.raises(BadInput, match="ended with code 1 within a clip"):
        meter.measure([np.zeros((16, 16, 3), np.uint8)])
    assert meter.measure([np.full((32, 32, 3), 64, np.uint8)]).valid.tolist() == [True]


def test_missing_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        MediaPipeMeter(tmp_path / "python")


def test_python_without_mediapipe_is_refused_with_what_it_said(tmp_path: Path) -> None:
    hide = FAKE_PYTHON.replace('sys.modules["mediapipe"] = mediapipe', 'sys.modules["mediapipe"] = None')
    python = _script(tmp_path / "python", hide.format(python=sys.executable))
    with pytest.raises(BadInput, match=r"code 3 \(MediaPipe's Face Mesh cannot be imported"):
        MediaPipeMeter(python)


def test_program_that_is_no_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a Python"):
        MediaPipeMeter(_script(tmp_path / "echo", "#!/bin/sh\necho hello\n"))
    with pytest.raises(BadInput, match="cannot be started"):
        MediaPipeMeter(_script(tmp_path / "binary", "\0"))
