"""Pictures come as people see them, however the file stores them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kilocall.receiver.video_file import VideoFile
from kilocall.sender.capture import open_clip
from kilocall.sender.upright import HLG_PEAK, REFERENCE_WHITE, TO_709

Picture = NDArray[np.uint8]

#: Skin, hair, a grey wall and cloth, as sRGB.
COLOURS = ((224, 172, 140), (96, 62, 44), (128, 128, 128), (40, 80, 150), (12, 12, 12), (190, 60, 50))


def patches(width: int = 192, height: int = 64) -> Picture:
    made = np.zeros((height, width, 3), np.uint8)
    for number, colour in enumerate(COLOURS):
        made[:, number * width // 6 : (number + 1) * width // 6] = colour
    return made


def colours_of(rgb: Picture) -> NDArray[np.float64]:
    width = rgb.shape[1]
    middles = [(2 * number + 1) * width // 12 for number in range(6)]
    return np.array([rgb[20:-20, x - 4 : x + 4].reshape(-1, 3).mean(0) for x in middles])


def linear(rgb: Picture) -> NDArray[np.float64]:
    x = rgb / 255
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def write(path: Path, frame: av.VideoFrame, pixels: str = "yuv420p", codec: str = "libx264", **said: Any) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options={"crf": "4"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pixels
        for name, value in said.items():
            setattr(stream.codec_context, name, value)
        for number in range(3):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_of_a_camera_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:24, :32], stored[24:, :32], stored[:24, 32:] = (250, 20, 20), (20, 250, 20), (20, 20, 250)
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, quality=98, subsampling=0, exif=exif)
    clip = open_clip(path)
    seen = next(iter(clip)).rgb
    with Image.open(path) as picture:
        true = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"), int)
    assert (clip.height, clip.width) == true.shape[:2]
    assert seen.shape == true.shape
    assert np.abs(seen - true).mean() < 3


@pytest.mark.parametrize("curve", [ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67])
def test_high_dynamic_range_keeps_the_colours_of_a_face(tmp_path: Path, curve: ColorTrc) -> None:
    """Ordinary colours, written as a phone writes them, look as they did."""
    light = linear(patches()) @ np.linalg.inv(TO_709.astype(float)).T * REFERENCE_WHITE  # cd/m2, BT.2020
    light = np.maximum(light, 0)
    if curve == ColorTrc.SMPTE2084:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        powered = (light / 10000) ** m1
        coded = ((c1 + c2 * powered) / (1 + c3 * powered)) ** m2
    else:
        shown = light / HLG_PEAK
        scene = shown * np.maximum(shown @ [0.2627, 0.6780, 0.0593], 1e-9)[..., None] ** (1 / 1.2 - 1)
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        coded = np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)
    frame = av.VideoFrame.from_ndarray(np.rint(coded * 65535).astype(np.uint16), format="rgb48le").reformat(
        format="yuv420p10le", dst_colorspace=Colorspace.BT2020, dst_color_range=ColorRange.MPEG
    )
    path = write(
        tmp_path / "hdr.mkv", frame, "yuv420p10le", color_trc=curve, color_primaries=ColorPrimaries.BT2020,
        colorspace=Colorspace.BT2020, color_range=ColorRange.MPEG,
    )  # fmt: skip
    seen = colours_of(next(iter(open_clip(path))).rgb)
    # Skin is brighter than the knee and may lose a little.
    assert np.abs(seen - COLOURS).max() < 9
    assert np.abs(seen - COLOURS).mean() < 3


def test_highlights_of_high_dynamic_range_are_pressed_together_and_stay_in_order(tmp_path: Path) -> None:
    steps = np.linspace(0.45, 0.75, 6)  # PQ: 60 to 1000 cd/m2
    grey = np.repeat(np.repeat(steps, 32)[None], 64, 0)
    coded = np.rint(np.repeat(grey[..., None], 3, 2) * 65535).astype(np.uint16)
    frame = av.VideoFrame.from_ndarray(coded, format="rgb48le").reformat(
        format="yuv420p10le", dst_colorspace=Colorspace.BT2020, dst_color_range=ColorRange.MPEG
    )
    path = write(
        tmp_path / "hdr.mkv", frame, "yuv420p10le", color_trc=ColorTrc.SMPTE2084,
        color_primaries=ColorPrimaries.BT2020, colorspace=Colorspace.BT2020, color_range=ColorRange.MPEG,
    )  # fmt: skip
    seen = colours_of(next(iter(open_clip(path))).rgb).mean(1)
    assert (np.diff(seen) >= 0).all()
    assert seen[0] < 170
    assert seen[-1] > 245


def test_pixels_that_are_not_square_are_stretched(tmp_path: Path) -> None:
    frame = av.VideoFrame.from_ndarray(patches(96), format="rgb24").reformat(format="yuv420p")
    clip = open_clip(write(tmp_path / "dv.mkv", frame, sample_aspect_ratio=Fraction(2, 1)))
    assert (clip.width, clip.height) == (192, 64)
    rgb = next(iter(clip)).rgb
    assert rgb.shape == (64, 192, 3)
    assert np.abs(colours_of(rgb) - COLOURS).mean() < 4


def test_a_cover_is_not_taken_for_the_film(tmp_path: Path) -> None:
    path = tmp_path / "covered.mp4"
    with av.open(str(path), "w") as container:
        cover: Any = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 320, 320, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        film: Any = container.add_stream("libx264", rate=25)
        film.width, film.height, film.pix_fmt = 192, 64, "yuv420p"
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((320, 320, 3), np.uint8), format="rgb24")))
        for _ in range(5):
            container.mux(film.encode(av.VideoFrame.from_ndarray(patches(), format="rgb24")))
        container.mux(cover.encode(None))
        container.mux(film.encode(None))
    clip = open_clip(path)
    assert (clip.width, clip.height) == (192, 64)
    assert len(list(clip)) == 5


@pytest.mark.parametrize("size", [(192, 64), (1280, 720)])
def test_written_files_say_what_their_colours_mean(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "out.mp4"
    with VideoFile(path, fps=Fraction(25), size=size) as sink:
        for number in range(3):
            sink.write(patches(*size), 40_000 * number)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (Colorspace.ITU709, ColorRange.MPEG)
        assert (frame.color_primaries, frame.color_trc) == (ColorPrimaries.BT709, ColorTrc.BT709)
    assert np.abs(colours_of(next(iter(open_clip(path))).rgb) - COLOURS).max() < 4
