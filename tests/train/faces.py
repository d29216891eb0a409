"""A tiny labelled data set: the built-in portrait, shifted, scaled and turned by known amounts."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.model import landmarks as lm
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family_loader import load_family
from kilocall.sample.perform import portrait
from kilocall.train.dataset import SIZE, Dataset


def moved_portraits(frames: int, clips: int = 2, seed: int = 0) -> Dataset:
    """`clips` clips of `frames` frames each; every frame another view of the astronaut, labels exact to the tracker."""
    crop = np.asarray(cv2.resize(portrait(), (SIZE, SIZE), interpolation=cv2.INTER_AREA), np.uint8)
    track = load_family(engine=choose_engine("auto", 1)).track(crop)
    points = np.column_stack((track.points, track.depth)).astype(np.float32)
    rng = np.random.default_rng(seed)
    pictures, meshes = [], []
    for _ in range(frames * clips):
        picture, moved = _view(crop, points, rng)
        mesh = np.zeros((lm.MESH_POINTS, 3), np.float32)
        mesh[list(lm.MESH_INDEX)] = moved
        pictures.append(picture)
        meshes.append(mesh)
    return Dataset(
        np.stack(pictures),
        np.stack(meshes),
        np.arange(0, frames * clips + 1, frames, dtype=np.int64),
        tuple(f"clip{i}" for i in range(clips)),
    )


def _view(
    crop: NDArray[np.uint8], points: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    turn = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), rng.uniform(-10, 10), rng.uniform(0.9, 1.1))
    matrix: NDArray[np.float64] = np.asarray(turn, np.float64)
    matrix[:, 2] += rng.uniform(-12, 12, 2)
    picture = cv2.warpAffine(crop, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT)
    pixels = (points[:, :2] + 1) * (SIZE / 2) - 0.5
    moved = points.copy()
    moved[:, :2] = (pixels @ matrix[:, :2].T + matrix[:, 2] + 0.5) / (SIZE / 2) - 1
    return np.asarray(picture, np.uint8), moved


def write_clip(folder: Path, data: Dataset, name: str, clip: int) -> None:
    """One clip in the layout that `Dataset.open` reads."""
    import av

    span = data.clip(clip)
    with av.open(str(folder / f"{name}.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for frame in span:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(data.pictures[frame], format="rgb24")))
        container.mux(stream.encode())
    mesh = data.mesh[span.start : span.stop].copy()
    mesh[..., :2] = (mesh[..., :2] + 1) / 2
    mesh[..., 2] /= 2
    np.savez(folder / f"{name}.npz", landmarks=mesh.astype(np.float16), valid=np.ones(len(span), bool))
