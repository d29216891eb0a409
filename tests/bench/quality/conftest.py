"""A speaker who sways, made from the public-domain portrait, as a clip of two seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

Pictures = Sequence[NDArray[np.uint8]]
WriteClip = Callable[..., Path]

FPS = 12
FRAMES = 26


def portrait(angle: float, dx: float, dy: float, size: int = 256) -> NDArray[np.uint8]:
    """The face tilted about its middle and shifted by pixels of a crop of 256."""
    bgr = cv2.imread(str(Path(__file__).parents[2] / "data" / "astronaut.webp"))
    assert bgr is not None
    scale = size / 256
    matrix = cv2.getRotationMatrix2D((224, 122), angle, 1.45 * scale)
    matrix[:, 2] += np.array([(dx + 128) * scale - 224, (dy + 118) * scale - 122])
    return np.asarray(cv2.warpAffine(bgr[..., ::-1], matrix, (size, size), flags=cv2.INTER_AREA), np.uint8)


def sway(count: int = FRAMES, size: int = 256) -> list[NDArray[np.uint8]]:
    return [portrait(6 * s, 10 * s, 4 * s, size) for s in np.sin(np.arange(count) / 3)]


def write(path: Path, pictures: Pictures, fps: int = FPS, times: Sequence[int] | None = None) -> Path:
    """Without loss in RGB; `times` in units of a frame, for a variable rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = (times[number] if times else number), Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def swaying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("clips") / "sway.mkv", sway())


@pytest.fixture(scope="session")
def write_clip() -> WriteClip:
    return write


@pytest.fixture(scope="session")
def swaying_pictures() -> Callable[..., list[NDArray[np.uint8]]]:
    return sway
