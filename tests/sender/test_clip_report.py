"""What is said of a clip before it is encoded, and that it is so."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image

from kilocall import api
from kilocall.cli import run
from kilocall.model.family import Family, Picture
from kilocall.proto.errors import BadInput
from kilocall.sender.capture import open_clip
from kilocall.sender.clip import follow_clip
from kilocall.sender.clip_report import ORIENTATIONS, ClipReport, Hole, look_at_clip
from kilocall.sender.face_finder import FaceFinder

FPS = 25


@pytest.fixture(scope="module")
def frames(astronaut_clip: Path) -> list[Picture]:
    """The first second of the speaker, 384x384."""
    return [frame.rgb for frame, _ in zip(open_clip(astronaut_clip), range(FPS), strict=False)]


@pytest.fixture(scope="module")
def wide(frames: list[Picture]) -> list[Picture]:
    """The same amid a grey frame of 640x480."""
    return [np.pad(frame, ((96, 0), (128, 128), (0, 0)), constant_values=128) for frame in frames]


def said(report: ClipReport, name: str) -> str:
    return next(found.value for section in report.sections for found in section.findings if found.name == name)


def test_an_ordinary_clip_has_nothing_to_remark(
    family: Family, wide: list[Picture], tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", wide)
    report = look_at_clip(clip, family)
    assert report.exit_code == 0
    assert report.remarks == ()
    assert (report.file.video_codec, report.file.size, report.file.passed_over) == ("H.264", (640, 480), ())
    assert (report.times.frames, report.times.constant, report.times.holes) == (25, True, ())
    assert report.times.fps == pytest.approx(25, abs=0.01)
    assert (report.colours.bits, report.colours.hdr, report.colours.alpha) == (8, None, False)
    assert said(report, "sound") == "none"
    face = report.face
    assert face is not None
    assert face.found_in == report.looked_at >= 24
    assert (face.faces, face.first_s, face.cut_off_at, face.beyond, face.whole_picture) == (1, 0, (), {}, False)
    # What the encoder really does.
    place = follow_clip(open_clip(clip), family, lambda done, total: None).places[0]
    assert np.abs(np.subtract((place.x0, place.y0, place.side), (face.crop.x0, face.crop.y0, face.crop.side))).max() < 5
    assert said(report, "frames") == "all 25, each at its own time"


@pytest.mark.parametrize(("zoom", "larger"), [(0.5, 256), (0.85, 256), (1.3, 512)])
def test_a_larger_source_picture_is_proposed_where_the_encoder_makes_one(
    family: Family, wide: list[Picture], tmp_path: Path, write_clip: Any, zoom: float, larger: int
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [cv2.resize(frame, None, fx=zoom, fy=zoom) for frame in wide[:5]])
    report = look_at_clip(clip, family)
    assert report.face is not None
    assert report.face.source_side == larger
    assert follow_clip(open_clip(clip), family, lambda *_: None, size=512).best_crop.shape[0] == larger
    assert ("--size 512 keeps more detail" in said(report, "source picture")) == (larger == 512)
    assert any("the face is small" in text for text in report.remarks) == (zoom == 0.5)


def test_a_clip_that_was_cut_to_the_face_before(
    family: Family, wide: list[Picture], tmp_path: Path, write_clip: Any
) -> None:
    report = look_at_clip(write_clip(tmp_path / "wide.mp4", wide[:3]), family)
    assert report.face is not None
    place = report.face.crop
    x, y, side = round(place.x0), round(place.y0), round(place.side) // 2 * 2
    cropped = [frame[y : y + side, x : x + side] for frame in wide[:3]]
    report = look_at_clip(write_clip(tmp_path / "crop.mp4", cropped), family)
    assert report.face is not None
    assert report.face.whole_picture
    assert said(report, "crop").startswith("nearly the whole picture")


def test_sound_further_streams_and_a_cover(family: Family, wide: list[Picture], tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        cover: Any = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 64, 64, "yuvj420p", Disposition.attached_pic
        film: Any = container.add_stream("libx264", rate=FPS)
        film.height, film.width, film.pix_fmt = *wide[0].shape[:2], "yuv420p"
        sounds = [container.add_stream("aac", rate=44_100, layout=layout) for layout in ("stereo", "mono")]
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        for frame in wide:
            container.mux(film.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        for sound, layout in zip(sounds, ("stereo", "mono"), strict=True):
            for start in range(0, 44_100, 1024):
                samples = np.zeros((2 if layout == "stereo" else 1, 1024), np.float32)
                block = av.AudioFrame.from_ndarray(samples, "fltp", layout)
                block.sample_rate, block.time_base, block.pts = 44_100, Fraction(1, 44_100), start
                container.mux(sound.encode(block))
        for stream in (cover, film, *sounds):
            container.mux(stream.encode(None))
    report = look_at_clip(path, family)
    assert said(report, "sound") == "AAC, stereo, 44.1 kHz"
    assert set(report.file.passed_over) == {"a cover picture", "a further sound (AAC)"}
    assert report.sections[-1].findings[-1].value == "kept, as speech in mono; --no-audio leaves it out"


def test_a_rate_that_varies_and_a_hole_are_told(
    family: Family, wide: list[Picture], tmp_path: Path, write_clip: Any
) -> None:
    times_ms = [*range(0, 400, 67), *range(402, 700, 33), *range(2700, 3000, 40)]
    clip = write_clip(tmp_path / "clip.mkv", wide[: len(times_ms)], times=times_ms)
    report = look_at_clip(clip, family)
    times = report.times
    assert not times.constant
    assert times.holes == (Hole(0.699, 2.001),)
    assert (times.shortest_ms, times.median_ms, times.longest_ms) == (33, 40, 2001)
    assert said(report, "frame rate").startswith("varies: ")
    assert said(report, "frames") == f"all {len(times_ms)}, each at its own time; --fps 25 makes them even"
    assert report.remarks == ("no frames for 2.0 s from 0.7 s on: the picture stands still there",)


def test_times_in_whole_milliseconds_are_no_varying_rate(
    family: Family, wide: list[Picture], tmp_path: Path, write_clip: Any
) -> None:
    times_ms = [round(number * 1000 / 30) for number in range(12)]
    assert look_at_clip(write_clip(tmp_path / "clip.mkv", wide[:12], times=times_ms), family).times.constant


@pytest.mark.parametrize("number", range(1, 9))
def test_every_orientation_has_its_words(family: Family, wide: list[Picture], tmp_path: Path, number: int) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = number
    # How each is undone: the file shows an upright speaker.
    how = Image.Transpose
    undo = (
        None, how.FLIP_LEFT_RIGHT, how.ROTATE_180, how.FLIP_TOP_BOTTOM, how.TRANSPOSE, how.ROTATE_90, how.TRANSVERSE,
        how.ROTATE_270,
    )[number - 1]  # fmt: skip
    picture = Image.fromarray(wide[0])
    (picture if undo is None else picture.transpose(undo)).save(path, exif=exif, quality=95)
    report = look_at_clip(path, family)
    assert report.file.orientation == ORIENTATIONS[number]
    assert report.file.size == (640, 480)
    assert report.face is not None
    assert said(report, "length") == "one picture, which does not move"
    # The words, taken literally, make the stored picture upright.
    seen = np.asarray(Image.open(path))
    if "90 degrees" in ORIENTATIONS[number]:
        seen = np.rot90(seen, -1 if ORIENTATIONS[number].startswith("turned by 90 degrees to the right") else 1)
    if "180" in ORIENTATIONS[number]:
        seen = np.rot90(seen, 2)
    if "mirrored left" in ORIENTATIONS[number]:
        seen = seen[:, ::-1]
    if "mirrored top" in ORIENTATIONS[number]:
        seen = seen[::-1]
    assert np.abs(seen.astype(int) - wide[0]).mean() < 4


def test_a_turned_and_mirrored_video(family: Family, wide: list[Picture], tmp_path: Path, write_clip: Any) -> None:
    stored = [np.ascontiguousarray(frame.transpose(1, 0, 2)) for frame in wide[:5]]
    path = write_clip(tmp_path / "turned.mp4", stored, rotation=90)
    # In the file's matrix [[0, -1], [1, 0]], in 1/65536, becomes [[0, 1], [1, 0]].
    turned, mirrored = (struct.pack(">5i", 0, sign << 16, 0, 1 << 16, 0) for sign in (-1, 1))
    data = path.read_bytes()
    assert data.count(turned) == 1
    path.write_bytes(data.replace(turned, mirrored))
    report = look_at_clip(path, family)
    assert report.file.stored_size == (480, 640)
    assert report.file.size == (640, 480)
    assert said(report, "orientation") == f"{ORIENTATIONS[5]}, as the file asks: 640x480"
    assert report.face is not None


@pytest.mark.parametrize(("curve", "name"), [(ColorTrc.SMPTE2084, "PQ"), (ColorTrc.ARIB_STD_B67, "HLG")])
def test_high_dynamic_range_is_told_with_its_curve(
    family: Family, wide: list[Picture], tmp_path: Path, curve: ColorTrc, name: str
) -> None:
    path = tmp_path / "hdr.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = *wide[0].shape[:2], "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries = curve, ColorPrimaries.BT2020
        context.colorspace, context.color_range = Colorspace.BT2020, ColorRange.MPEG
        for frame in wide[:5]:
            dim = np.rint(0.6 * frame).astype(np.uint8)  # a curve of high dynamic range makes more light of it
            container.mux(stream.encode(av.VideoFrame.from_ndarray(dim, format="rgb24")))
        container.mux(stream.encode(None))
    report = look_at_clip(path, family)
    assert said(report, "colours") == (
        f"10 bits a colour, limited range (16 to 235), colour matrix BT.2020, high dynamic range ({name})"
    )
    assert name in said(report, "brightness")


def test_transparency_is_laid_over_grey(family: Family, wide: list[Picture], tmp_path: Path, write_clip: Any) -> None:
    seen = [np.dstack((frame, np.full(frame.shape[:2], 255, np.uint8))) for frame in wide[:3]]
    report = look_at_clip(write_clip(tmp_path / "clip.mkv", seen, pixels="bgra", codec="ffv1"), family)
    assert said(report, "colours") == "8 bits a colour, RGB, transparency"
    assert said(report, "transparency") == "laid over plain grey"


def test_pixels_that_are_not_square_are_stretched(family: Family, wide: list[Picture], tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = 480, 320, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for frame in wide[:3]:
            half = np.ascontiguousarray(frame[:, ::2])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(half, format="rgb24")))
        container.mux(stream.encode(None))
    report = look_at_clip(path, family)
    assert said(report, "picture") == "H.264, 320x480, pixels 2 times as wide as high: stretched to 640x480"
    assert report.face is not None


def test_a_head_that_is_cut_off_above_is_told(
    family: Family, wide: list[Picture], tmp_path: Path, write_clip: Any
) -> None:
    whole = look_at_clip(write_clip(tmp_path / "whole.mp4", wide[:3]), family).face
    assert whole is not None
    middle = whole.crop.y0 + 0.533 * whole.crop.side
    start = round(middle - 0.55 * whole.height_px) // 2 * 2  # just above the hair line
    report = look_at_clip(write_clip(tmp_path / "clip.mp4", [frame[start:] for frame in wide[:3]]), family)
    assert report.face is not None
    assert report.face.cut_off_at == ("upper",)
    assert report.face.beyond["upper"] > 0.02
    assert said(report, "head") == "cut off at the upper edge of the picture"
    assert "it reaches past the upper edge by" in said(report, "crop")
    assert report.remarks[0].startswith("the head is cut off at the upper edge of the picture")


def test_a_first_face_that_comes_late(family: Family, wide: list[Picture], tmp_path: Path, write_clip: Any) -> None:
    shown = [np.full_like(wide[0], 128)] * FPS + wide
    report = look_at_clip(write_clip(tmp_path / "clip.mp4", shown), family)
    assert report.face is not None
    assert 1 <= report.face.first_s <= 1.1
    assert report.face.found_in <= report.looked_at / 2 + 1
    assert report.remarks == (
        f"the first face is found at {report.face.first_s:.1f} s: until about then the source picture rests",
    )


def test_a_face_between_the_frames_looked_at_is_found(
    family: Family, wide: list[Picture], tmp_path: Path, write_clip: Any
) -> None:
    blank = np.full_like(wide[0], 128)
    shown = [blank] * 400
    shown[302:312] = wide[:10]  # looks lie 16 or 17 frames apart
    report = look_at_clip(write_clip(tmp_path / "clip.mp4", shown), family)
    assert report.face is not None
    assert report.face.found_in == 1
    assert report.face.first_s == pytest.approx(305 / FPS, abs=0.01)


def test_a_face_that_only_the_landmarks_find_is_there_from_the_start(
    family: Family, wide: list[Picture], tmp_path: Path, write_clip: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, calls = FaceFinder.find, iter(range(1000))
    monkeypatch.setattr(FaceFinder, "find", lambda self, rgb: find(self, rgb) if next(calls) >= 10 else [])
    clip = write_clip(tmp_path / "clip.mp4", wide)
    report = look_at_clip(clip, family)
    assert report.face is not None
    assert (report.face.first_s, report.face.found_in) == (0, report.looked_at)
    assert report.remarks == ()


def test_two_faces_are_counted_and_told(family: Family, wide: list[Picture], tmp_path: Path, write_clip: Any) -> None:
    pairs = [np.hstack((frame[:, 100:540], frame[:, 100:540])) for frame in wide[:3]]
    report = look_at_clip(write_clip(tmp_path / "clip.mp4", pairs), family)
    assert report.face is not None
    assert report.face.faces == 2
    assert any(text.startswith("2 faces were seen at once") for text in report.remarks)


def test_a_clip_that_breaks_off_is_told(family: Family, wide: list[Picture], tmp_path: Path, write_clip: Any) -> None:
    whole = write_clip(
        tmp_path / "whole.mp4", wide, muxer={"movflags": "faststart"}, options={"crf": "10", "g": "1"}
    ).read_bytes()
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(whole[: len(whole) // 2])
    report = look_at_clip(clip, family)
    assert report.times.frames < 20
    assert any(text.startswith("the clip breaks off: ") for text in report.remarks)


# At the command line


def test_a_clip_without_a_face_is_refused(
    wall: Picture, tmp_path: Path, write_clip: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "wall.mp4", [wall] * 12)
    assert run(["doctor", str(clip), "--threads", "1"]) == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert "no face was found in 12 frames: nothing can be sent of this clip" in shown
    assert shown.endswith("this clip cannot be encoded")
    assert run(["doctor", str(clip), "--threads", "1", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["face"] is None


@pytest.mark.parametrize("content", [b"", b"no video", None])
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, family: Family, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput) as error:
        look_at_clip(path, family)
    assert run(["doctor", str(path), "--threads", "1"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"kilocall: {error.value}\n")


def test_json_says_the_same(
    family: Family, wide: list[Picture], tmp_path: Path, write_clip: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", wide[:10])
    assert run(["doctor", str(clip), "--threads", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    report = look_at_clip(clip, family)
    assert report.face is not None
    assert facts["file"]["size"] == [640, 480]
    assert facts["times"]["frames"] == 10
    assert facts["face"]["crop"]["side"] == pytest.approx(report.face.crop.side, abs=1)
    assert facts["remarks"] == []
    assert run(["doctor", str(clip), "--threads", "1"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for section in report.sections[1:]:
        for found in section.findings:
            assert found.value in shown
    assert shown.endswith("this clip can be encoded")


def test_encoding_does_what_the_report_says(
    family: Family, wide: list[Picture], tmp_path: Path, write_clip: Any
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", wide)
    report, encoded = look_at_clip(clip, family), api.encode(clip, tmp_path / "clip.kcs", family=family)
    assert encoded.frames == report.times.frames
    assert encoded.seconds == pytest.approx(report.times.seconds, abs=0.01)
    assert encoded.warnings == list(report.remarks)
