"""Moving pictures made of one public-domain portrait, so that no test needs a camera or a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


@pytest.fixture(scope="session")
def astronaut() -> Picture:
    """The NASA portrait of Eileen Collins (public domain), uint8 RGB [512, 512, 3]."""
    path = Path(__file__).parents[1] / "data" / "astronaut.webp"
    bgr = cv2.imread(str(path))
    assert bgr is not None, path
    return np.asarray(bgr[..., ::-1], np.uint8).copy()


@pytest.fixture(scope="session")
def wall() -> Picture:
    """A textured background without a face, uint8 RGB [360, 640, 3]."""
    noise = np.random.default_rng(3).integers(60, 200, (24, 42, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(noise, (640, 360), interpolation=cv2.INTER_CUBIC), np.uint8)


@pytest.fixture(scope="session")
def paste(astronaut: Picture) -> Callable[..., Picture]:
    """paste(background, x, y, zoom): the portrait's head with its face centre at x, y."""

    def _paste(background: Picture, x: float, y: float, zoom: float) -> Picture:
        head = astronaut[10:250, 104:344]
        matrix = np.array([[zoom, 0, x - 120 * zoom], [0, zoom, y - 110 * zoom]])
        size = (background.shape[1], background.shape[0])
        mask = np.zeros((240, 240), np.float32)
        cv2.ellipse(mask, (120, 120), (85, 110), 0, 0, 360, 1.0, -1)
        mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), 4), np.float32)
        warped = cv2.warpAffine(head, matrix, size, flags=cv2.INTER_AREA)
        alpha = cv2.warpAffine(mask, matrix, size)[..., None]
        return np.asarray(background * (1 - alpha) + warped * alpha, np.uint8)

    return _paste


@pytest.fixture(scope="session")
def write_clip() -> Callable[..., Path]:
    """write_clip(path, pictures, fps=25, times=None, rotation=0, pixels="yuv420p", codec="libx264")."""

    def _write(
        path: Path,
        pictures: Iterable[Picture],
        fps: int = 25,
        times: list[int] | None = None,
        rotation: int = 0,
        pixels: str = "yuv420p",
        codec: str = "libx264",
        options: dict[str, str] | None = None,
        muxer: dict[str, str] | None = None,
    ) -> Path:
        with av.open(str(path), "w", container_options=muxer or {}) as container:
            stream: Any = None
            for i, picture in enumerate(pictures):
                if stream is None:
                    stream = container.add_stream(codec, rate=fps, options=options or {})
                    stream.height, stream.width = picture.shape[:2]
                    stream.pix_fmt = pixels
                    stream.codec_context.time_base = Fraction(1, 1000)
                    if rotation:
                        stream.set_display_rotation(rotation)
                frame = av.VideoFrame.from_ndarray(
                    np.ascontiguousarray(picture), format="rgba" if picture.shape[2] == 4 else "rgb24"
                )
                frame.time_base = Fraction(1, 1000)
                frame.pts = times[i] if times else round(i * 1000 / fps)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return _write
