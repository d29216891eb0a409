"""Clips as people have them, made here from the built-in portrait's, and what must come of them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from kilocall import api
from kilocall.cli import run
from kilocall.model import landmarks as lm
from kilocall.model.family import Array, Family, Picture
from kilocall.proto.errors import BadInput
from kilocall.sender.capture import open_clip
from kilocall.sender.clip import FACE_CERTAINTY
from kilocall.sender.clip_sound import coded_sound
from kilocall.sender.crop_place import CROP_SIDE, CropPlace, cut

FPS = 25


@pytest.fixture(scope="module")
def family() -> Family:
    return api.open_family()


@pytest.fixture(scope="module")
def frames(astronaut_clip: Path) -> list[Picture]:
    """The first two seconds of the speaker."""
    return [frame.rgb for frame, _ in zip(open_clip(astronaut_clip), range(2 * FPS), strict=False)]


def write(path: Path, frames: list[Picture]) -> Path:
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream("libx264", rate=Fraction(FPS), options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        sink.mux(stream.encode(None))
    return path


def landmarks(family: Family, crop: Picture) -> Array:
    """[K, 2] pixels of the crop."""
    return (family.track(crop).points + 1) * (CROP_SIDE / 2)


# A frame that ends near the face


@pytest.mark.parametrize("share", [0.05, 0.15, 0.30])
@pytest.mark.parametrize("side", ["brows", "chin", "ear"])
def test_where_the_frame_ends_no_feature_is_seen_twice(
    family: Family, frames: list[Picture], side: str, share: float
) -> None:
    """The frame ends by `share` of the face's height above the brows, below the chin, beside an ear."""
    whole = cut(frames[0], CropPlace(0, 0, min(frames[0].shape[:2])))[0]
    true = landmarks(family, whole)
    low, high = true.min(0), true.max(0)
    gap = share * (high[1] - low[1])
    brows = true[[*lm.RIGHT_EYE, *lm.LEFT_EYE], 1].min() - 0.12 * (high[1] - low[1])
    if side == "brows":
        start = max(0, round(brows - gap))
        shown, place = whole[start:], CropPlace(0, -start, CROP_SIDE)
    elif side == "chin":
        shown, place = whole[: round(high[1] + gap)], CropPlace(0, 0, CROP_SIDE)
    else:
        start = max(0, round(low[0] - gap))
        shown, place = whole[:, start:], CropPlace(-start, 0, CROP_SIDE)
    crop, _ = cut(shown, place)
    apart = np.linalg.norm(landmarks(family, crop) - true, axis=1).mean()
    assert apart < 1.2


# Before the first face


@pytest.mark.parametrize(
    "before",
    ["grey", pytest.param("black", marks=pytest.mark.slow), pytest.param("fade in", marks=pytest.mark.slow)],
)
def test_before_the_first_face_the_source_picture_rests(
    family: Family, frames: list[Picture], tmp_path: Path, before: str
) -> None:
    if before == "fade in":
        shown = [np.rint(frame * min(1.0, number / 20)).astype(np.uint8) for number, frame in enumerate(frames)]
    else:
        shown = [np.full_like(frames[0], 128 if before == "grey" else 16)] * 20 + frames
    report = api.encode(write(tmp_path / "late.mp4", shown), tmp_path / "late.kcs", family=family)
    empty = [family.track(cut(f, CropPlace(0, 0, min(f.shape[:2])))[0]).certainty < FACE_CERTAINTY for f in shown]
    first = empty.index(False)
    assert first >= (20 if before != "fade in" else 1)
    assert any(f"no face in the first {report.lost_frames} of {len(shown)} frames" in text for text in report.warnings)
    assert abs(report.lost_frames - first) <= 3
    player = api.StreamPlayer(tmp_path / "late.kcs", family=family)
    rest = family.keypoints(player.stream_source, player.stream_source.pose)
    moved = [np.abs(family.keypoints(player.stream_source, timed.motion) - rest).max() for timed in player.motions()]
    still = moved[: report.lost_frames - 1]
    assert max(still) < 2 / 128  # pixels of 256; numbers are coded in steps
    assert max(moved) > 4 / 128


# Times


def times_of(video: Path) -> list[int]:
    """Milliseconds."""
    with av.open(str(video)) as container:
        return [round(1000 * frame.time) for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    "times_ms",
    [
        [*range(0, 1000, 67), *range(1005, 2000, 33)],  # 15, then 30 frames a second
        [*range(0, 800, 40), *range(3200, 4000, 40)],  # nothing for 2.4 s
        [*range(0, 400, 40), *range(60_300, 60_700, 40)],  # nothing for nearly a minute
        [0, 2000, 4000, 6000],  # one frame in two seconds
        [0, 40, 95, 100, 180, 200, 240, 310, 340],
    ],
    ids=["two rates", "hole", "long hole", "slow", "uneven"],
)
def test_every_frame_keeps_its_time(
    family: Family, frames: list[Picture], tmp_path: Path, times_ms: list[int], write_clip: Callable[..., Path]
) -> None:
    shown = (frames * (len(times_ms) // len(frames) + 1))[: len(times_ms)]
    clip = write_clip(tmp_path / "clip.mkv", shown, times=times_ms)
    report = api.encode(clip, tmp_path / "a.kcs", family=family)
    facts = api.info(tmp_path / "a.kcs")
    decoded = api.decode(tmp_path / "a.kcs", tmp_path / "out.mp4", size=64, family=family)
    assert report.seconds == facts.seconds == decoded.seconds
    # The last frame is shown for as long as one is on average.
    assert times_ms[-1] / 1000 <= report.seconds <= times_ms[-1] / 1000 + 1 / facts.fps + 0.05
    found = times_of(tmp_path / "out.mp4")
    assert len(found) == len(times_ms)
    assert np.abs(np.array(found) - times_ms).max() <= 12  # a packet has one spacing, a fifth off at most


def test_a_constant_rate_is_written_on_request(
    family: Family, frames: list[Picture], tmp_path: Path, write_clip: Any
) -> None:
    times_ms = [*range(0, 400, 40), *range(1200, 1600, 40)]
    clip = write_clip(tmp_path / "clip.mkv", frames[: len(times_ms)], times=times_ms)
    api.encode(clip, tmp_path / "a.kcs", fps=None, family=family)
    fps = api.info(tmp_path / "a.kcs").fps
    api.decode(tmp_path / "a.kcs", tmp_path / "even.mp4", size=64, constant_rate=True, family=family)
    found = times_of(tmp_path / "even.mp4")
    assert np.abs(np.diff(found) - 1000 / fps).max() <= 1
    assert abs(found[-1] - times_ms[-1]) <= 2000 / fps


# Sound


def heard(video: Path) -> tuple[np.ndarray, int]:
    """Samples at 48 kHz from the video's first frame on, and how many frames it has."""
    with av.open(str(video)) as container:
        pictures = [frame.time for frame in container.decode(video=0)]
    with av.open(str(video)) as container:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=48_000)
        parts, start = [], None
        for frame in container.decode(audio=0):
            start = frame.time if start is None else start
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
    samples = np.concatenate(parts).astype(float) / 32768
    offset = round(((start or 0.0) - pictures[0]) * 48_000)
    return (np.concatenate((np.zeros(offset), samples)) if offset > 0 else samples[-offset:]), len(pictures)


def speak(path: Path, frames: list[Picture], beeps_s: tuple[float, ...], rate: int, starts_s: float = 0.0) -> Path:
    """A clip with a beep of a tenth of a second at each of these times; its sound begins at `starts_s`."""
    length = len(frames) / FPS
    time = np.arange(round((length - starts_s) * rate)) / rate + starts_s
    sound = 0.02 * np.sin(2 * np.pi * 180 * time)
    for beep in beeps_s:
        inside = (time >= beep) & (time < beep + 0.1)
        sound[inside] = 0.7 * np.sin(2 * np.pi * 800 * time[inside])
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(FPS), options={"crf": "14"})
        video.height, video.width, video.pix_fmt = *frames[0].shape[:2], "yuv420p"
        audio = container.add_stream("flac" if path.suffix == ".mkv" else "aac", rate=rate, layout="stereo")
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        both = np.rint(np.stack([sound, sound], 1).reshape(1, -1) * 32767).astype(np.int16)
        for start in range(0, len(sound) - 1023, 1024):
            block = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(both[:, 2 * start : 2 * (start + 1024)]), "s16", "stereo"
            )
            block.sample_rate, block.time_base = rate, Fraction(1, rate)
            block.pts = start + round(starts_s * rate)
            container.mux(audio.encode(block))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "rate", "starts_s"),
    [
        pytest.param("clip.mp4", 44_100, 0.0, marks=pytest.mark.slow),
        ("clip.mkv", 48_000, 0.35),
        pytest.param("clip.mkv", 16_000, 0.0, marks=pytest.mark.slow),
    ],
)
def test_sound_is_heard_again_in_time(
    family: Family, frames: list[Picture], tmp_path: Path, name: str, rate: int, starts_s: float
) -> None:
    beeps_s = (0.5, 1.1, 1.7)
    clip = speak(tmp_path / name, frames, beeps_s, rate, starts_s)
    report = api.encode(clip, tmp_path / "a.kcs", family=family)
    assert not report.warnings
    facts = api.info(tmp_path / "a.kcs")
    assert facts.sound_kbps == pytest.approx(report.sound_kbps)
    assert 5 < facts.sound_kbps < 16
    decoded = api.decode(tmp_path / "a.kcs", tmp_path / "out.mp4", size=64, family=family)
    assert decoded.damaged_sounds == 0
    samples, pictures = heard(tmp_path / "out.mp4")
    assert pictures == len(frames)
    assert abs(len(samples) / 48_000 - len(frames) / FPS) < 0.15
    loud = np.abs(samples) > 0.3
    for beep in beeps_s:
        near = np.flatnonzero(loud[round((beep - 0.2) * 48_000) : round((beep + 0.2) * 48_000)])
        assert abs(near[0] / 48_000 - 0.2) < 0.020
    assert not loud[: round(0.45 * 48_000)].any()


def test_sound_can_be_left_out_on_both_sides(family: Family, frames: list[Picture], tmp_path: Path) -> None:
    clip = speak(tmp_path / "clip.mp4", frames[:25], (0.5,), 48_000)
    api.encode(clip, tmp_path / "mute.kcs", audio_kbps=None, family=family)
    api.encode(clip, tmp_path / "a.kcs", family=family)
    assert api.info(tmp_path / "mute.kcs").sound_bytes == 0 < api.info(tmp_path / "a.kcs").sound_bytes
    api.decode(tmp_path / "mute.kcs", tmp_path / "mute.mp4", size=64, family=family)
    api.decode(tmp_path / "a.kcs", tmp_path / "quiet.mp4", size=64, sound=False, family=family)
    for name in ("mute.mp4", "quiet.mp4"):
        with av.open(str(tmp_path / name)) as container:
            assert not container.streams.audio


def test_a_rate_that_no_speech_has_is_refused(family: Family, frames: list[Picture], tmp_path: Path) -> None:
    clip = speak(tmp_path / "clip.mp4", frames[:25], (0.5,), 48_000)
    with pytest.raises(BadInput, match="audio-kbps is 200, allowed are 6 to 64"):
        api.encode(clip, tmp_path / "a.kcs", audio_kbps=200, family=family)
    assert not (tmp_path / "a.kcs").exists()


# Files


def plain(colour: tuple[int, int, int], count: int = 20) -> list[Picture]:
    return [np.full((64, 96, 3), colour, np.uint8) for _ in range(count)]


def test_a_video_that_its_maker_has_switched_off_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "two.mov"
    with av.open(str(path), "w") as sink:
        streams: list[Any] = [sink.add_stream("libx264", rate=FPS) for _ in range(2)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for stream, colour in zip(streams, [(200, 0, 0), (0, 0, 200)], strict=True):
            for frame in plain(colour, 5):
                sink.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            sink.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    first = data.index(b"tkhd") + 7
    second = data.index(b"tkhd", first) + 7
    for off, on, seen in ((first, second, 2), (second, first, 0)):
        data[off], data[on] = data[off] & ~1, data[on] | 1  # the flag of a track that is enabled
        path.write_bytes(data)
        assert next(iter(open_clip(path))).rgb[30, 30].argmax() == seen


def test_a_track_of_time_codes_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "camera.mov"
    with av.open(str(path), "w") as sink:
        stream: Any = sink.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.metadata["timecode"] = "01:00:00:00"
        for frame in plain((0, 0, 200), 5):
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        sink.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert [one.type for one in container.streams] == ["video", "data"]
    assert len(list(open_clip(path))) == 5


def test_a_recording_without_its_length_is_read_to_the_end(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    clip = open_clip(write_clip(tmp_path / "live.mkv", plain((90, 90, 90)), muxer={"live": "1"}))
    assert clip.duration is None
    assert len(list(clip)) == 20
    assert clip.truncated is None


@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize("before", [0, 77, 20_000])
def test_a_broadcast_is_read_from_its_first_whole_picture(tmp_path: Path, before: int, sound: bool) -> None:
    """It begins inside a packet, or behind bytes that are none."""
    path = speak(tmp_path / "whole.ts", plain((90, 90, 90), 50), (0.5, 1.5), 48_000) if sound else tmp_path / "whole.ts"
    if not sound:
        write(path, plain((90, 90, 90), 50))
    data = path.read_bytes()
    assert len(list(open_clip(path))) == 50
    # Before the tables, which come with the first picture and again every tenth of a second or so.
    path.write_bytes(bytes(before) + data[50:])
    clip = open_clip(path)
    assert 20 < len(list(clip)) <= 50
    assert bool(list(coded_sound(path, clip.start_us))) == sound


@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_a_recording_in_fragments_that_breaks_off_says_so(
    tmp_path: Path, write_clip: Callable[..., Path], share: float
) -> None:
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    noise = np.random.default_rng(4).integers(0, 255, (50, 64, 96, 3)).astype(np.uint8)
    path = write_clip(tmp_path / "live.mp4", noise, muxer=fragments, options={"g": "10"})
    whole = open_clip(path)
    assert len(list(whole)) == 50
    assert whole.truncated is None
    data = path.read_bytes()
    path.write_bytes(data[: round(share * len(data))])
    clip = open_clip(path)
    assert 50 * share - 6 < len(list(clip)) <= 50 * share + 1
    assert clip.truncated is not None
    assert clip.truncated.startswith("the file ends ")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("-", "-: standard input is not supported, give a file"),
        ("https://example.org/clip.mp4", "https://example.org/clip.mp4: addresses are not supported, give a file"),
        ("img%03d.png", "img%03d.png: patterns for numbered pictures are not supported, give one file"),
        (".", "is a folder: folders of pictures are not supported, give one video or picture"),
    ],
)
@pytest.mark.parametrize("as_source", [False, True])
def test_what_is_no_file_is_refused_on_the_command_line(
    tmp_path: Path,
    write_clip: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    name: str,
    said: str,
    as_source: bool,
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", plain((90, 90, 90)))
    given = [str(clip), "--source", name] if as_source else [name]
    assert run(["encode", *given, "-o", str(tmp_path / "a.kcs")]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
