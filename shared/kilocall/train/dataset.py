"""Training pictures and their face meshes, held whole as uint8.

A folder of clips is decoded once into flat arrays beside it (or under `cache`); every later start maps those files,
so two trainings share one copy in the page cache. Layout of a clip folder: `NAME.mp4` 256x256, `NAME.npz` with
`landmarks` [T, 478, 3] in 0..1 of the picture and `valid` [T]; pictures in `stills/NAME.jpg` with one
`stills/landmarks.npz` (`names`, `landmarks` [N, 478, 3]).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.model import landmarks as lm
from kilocall.model.shape import ShapeModel, fit_shape_model
from kilocall.proto.errors import BadInput

SIZE = 256
# Hold 96 % of the variance; what is left is 0.5 pixels of 256 on unseen people.
EXPRESSIONS = 28


@dataclass(frozen=True)
class Dataset:
    """N frames of C clips. A still picture is a clip of one frame."""

    pictures: NDArray[np.uint8]  # [N, 256, 256, 3] RGB
    mesh: NDArray[np.float32]  # [N, 478, 3], x and y in -1..1, z in the scale of x
    clip_start: NDArray[np.int64]  # [C + 1]: frames of clip c are clip_start[c]..clip_start[c + 1]
    names: tuple[str, ...]

    @property
    def points(self) -> NDArray[np.float32]:
        """The followed landmarks [N, LANDMARKS, 3]."""
        return self.mesh[:, list(lm.MESH_INDEX)]

    def shape_model(self) -> ShapeModel:
        """The face shape model of these people."""
        points = self.points
        spans = [self.clip(c) for c in range(len(self.names))]
        return fit_shape_model([points[s.start : s.stop] for s in spans], EXPRESSIONS)[0]

    def clip(self, index: int) -> range:
        return range(int(self.clip_start[index]), int(self.clip_start[index + 1]))

    @staticmethod
    def open(folder: Path, cache: Path) -> Dataset:
        """Maps the decoded arrays, decoding `folder` into `cache` first where they are missing."""
        if not folder.is_dir():
            raise BadInput(f"training data: {folder} is not a folder")
        cache.mkdir(parents=True, exist_ok=True)
        if not (cache / "index.json").exists():
            _decode(folder, cache)
        index = json.loads((cache / "index.json").read_text())
        frames = int(index["clip_start"][-1])
        return Dataset(
            pictures=np.memmap(cache / "pictures.u8", np.uint8, "r", shape=(frames, SIZE, SIZE, 3)),
            mesh=np.load(cache / "mesh.npy"),
            clip_start=np.asarray(index["clip_start"], np.int64),
            names=tuple(index["names"]),
        )


def read_pictures(path: Path) -> Iterator[NDArray[np.uint8]]:
    """RGB frames of a 256x256 clip."""
    capture = cv2.VideoCapture(str(path))
    try:
        while True:
            ok, frame = capture.read()
            if not ok:
                return
            if frame.shape[:2] != (SIZE, SIZE):
                raise BadInput(f"training data: {path} is {frame.shape[1]}x{frame.shape[0]}, not {SIZE}x{SIZE}")
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
    finally:
        capture.release()


def _decode(folder: Path, cache: Path) -> None:
    meshes: list[NDArray[np.float32]] = []
    names: list[str] = []
    start = [0]
    partial = cache / "pictures.part"
    with partial.open("wb") as sink:

        def close_clip(name: str) -> None:
            if len(meshes) > start[-1]:
                start.append(len(meshes))
                names.append(name)

        for clip in sorted(folder.glob("*.mp4")):
            with np.load(clip.with_suffix(".npz")) as labels:
                mesh = np.ascontiguousarray(labels["landmarks"], np.float32)
                valid = labels["valid"]
            for picture, points, usable in zip(read_pictures(clip), mesh, valid, strict=False):
                if usable:
                    sink.write(picture.tobytes())
                    meshes.append(_to_crop(points))
            close_clip(clip.stem)
        stills = folder / "stills"
        if (stills / "landmarks.npz").exists():
            with np.load(stills / "landmarks.npz") as labels:
                for name, points in zip(labels["names"], labels["landmarks"], strict=True):
                    path = next(stills.glob(f"{Path(str(name)).stem}.*"))
                    still = cv2.imread(str(path))
                    if still is None or still.shape[:2] != (SIZE, SIZE):
                        raise BadInput(f"training data: {path} is not a {SIZE}x{SIZE} picture")
                    sink.write(cv2.cvtColor(still, cv2.COLOR_BGR2RGB).tobytes())
                    meshes.append(_to_crop(np.ascontiguousarray(points, np.float32)))
                    close_clip(path.stem)
    if not meshes:
        raise BadInput(f"training data: {folder} holds no labelled clip (NAME.mp4 with NAME.npz)")
    np.save(cache / "mesh.npy", np.stack(meshes))
    os.replace(partial, cache / "pictures.u8")
    (cache / "index.json").write_text(json.dumps({"clip_start": start, "names": names}))


def _to_crop(mesh: NDArray[np.float32]) -> NDArray[np.float32]:
    out = mesh * 2.0
    out[:, :2] -= 1.0
    return out.astype(np.float32)
