"""Landmarks of a clip by MediaPipe, for another Python than kilocall's: it needs numpy below 2.

    python -I mediapipe_worker.py --serve
    python -I mediapipe_worker.py --version

Each line that --serve reads is a clip, FRAMES.npy LANDMARKS.npy VALID.npy with tabs between, and is answered by a line
`done`; it ends with its input. FRAMES uint8 RGB [T, H, W, 3]; LANDMARKS float32 [T, 478, 3], x and y in 0..1 of the
picture, z in the scale of x, zeros where no face was found; VALID bool [T]. With --version prints one line of JSON:
{"mediapipe": "0.10.21"}. Imports nothing of kilocall. Exit code 3: there is no MediaPipe here.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import numpy as np

POINTS = 478


def main(arguments: list[str]) -> int:
    if arguments not in (["--serve"], ["--version"]):
        print("usage: mediapipe_worker.py --serve | --version", file=sys.stderr)
        return 2
    try:
        # By name: kilocall's own environment has no MediaPipe, and its type checker must not look for one.
        mediapipe: Any = importlib.import_module("mediapipe")
        face_mesh: Any = mediapipe.solutions.face_mesh
    except (ImportError, AttributeError) as error:
        print(f"MediaPipe's Face Mesh cannot be imported: {error}", file=sys.stderr)
        return 3
    if arguments == ["--version"]:
        print(json.dumps({"mediapipe": mediapipe.__version__}))
        return 0
    for line in sys.stdin:
        measure(face_mesh, *line.rstrip("\n").split("\t"))
        print("done", flush=True)
    return 0


def measure(face_mesh: Any, frames_file: str, landmarks_file: str, valid_file: str) -> None:
    frames = np.load(frames_file, mmap_mode="r", allow_pickle=False)
    landmarks = np.zeros((len(frames), POINTS, 3), np.float32)
    valid = np.zeros(len(frames), bool)
    # Tracking from frame to frame, as in the labels of the data set; refine adds the irises, points 468 to
    # 477.
    with face_mesh.FaceMesh(static_image_mode=False, max_num_faces=1, refine_landmarks=True) as mesh:
        for index, frame in enumerate(frames):
            faces = mesh.process(np.ascontiguousarray(frame)).multi_face_landmarks
            if faces:
                landmarks[index] = [(point.x, point.y, point.z) for point in faces[0].landmark]
                valid[index] = True
    np.save(landmarks_file, landmarks, allow_pickle=False)
    np.save(valid_file, valid, allow_pickle=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
