"""Several pictures of a speaker through the library: in a file, frame by frame, and refused where they are none."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from kilocall import api
from kilocall.model import metrics
from kilocall.model.family import Family, Picture
from kilocall.proto.errors import BadInput
from kilocall.proto.stream_file import StreamReader
from kilocall.receiver.video_file import VideoFile
from kilocall.sample import sample_stream

FRAMES = 60
LIGHT_OUT = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gallery")


@pytest.fixture(scope="module")
def clip(folder: Path, family: Family) -> Path:
    """A speaker whose light is dimmed half way: motion does not tell of it, a further picture does."""
    path = folder / "dimmed.mp4"
    player = api.StreamPlayer(sample_stream("astronaut"), family=family)
    with VideoFile(path, fps=Fraction(25), size=(384, 384)) as video:
        for number, frame in zip(range(FRAMES), player.frames(), strict=False):
            rgb = frame.rgb if number < LIGHT_OUT else (frame.rgb * 0.7).astype(np.uint8)
            wide = cv2.copyMakeBorder(rgb, 64, 64, 64, 64, cv2.BORDER_REPLICATE)
            video.write(np.asarray(wide, np.uint8), number * 40_000)
    return path


@pytest.fixture(scope="module")
def streams(clip: Path, folder: Path, family: Family) -> dict[int, Path]:
    """By the most pictures allowed."""
    made = {}
    for pictures in (0, 3):
        made[pictures] = folder / f"{pictures}.kcs"
        report = api.encode(clip, made[pictures], gallery=pictures, gallery_kb=20, family=family)
        assert report.pictures == (1 if not pictures else api.info(made[pictures]).pictures)
    return made


def frames(stream: Path | bytes, folder: Path, family: Family) -> list[Picture]:
    path = stream
    if isinstance(stream, bytes):
        path = folder / "cut.kcs"
        path.write_bytes(stream)
    assert isinstance(path, Path)
    return [frame.rgb for frame in api.StreamPlayer(path, family=family).frames()]


def test_a_gallery_costs_pictures_and_hardly_any_motion(streams: dict[int, Path]) -> None:
    one, several = (StreamReader(streams[number]) for number in (0, 3))
    bits = {n: sum(len(timed.packet.payload) for timed in r.packets()) for n, r in ((1, one), (3, several))}
    # Implicit keypoints are aligned with the picture that a frame is shown on, and jump where it changes.
    assert bits[3] < 1.2 * bits[1]
    assert several.source_picture() == one.source_picture()
    facts = api.info(streams[3])
    assert 2 <= facts.pictures <= 3
    assert facts.source_bytes < facts.picture_bytes <= 20 * 1024
    assert api.info(streams[0]).pictures == 1


def test_the_file_is_shown_on_all_its_pictures_without_being_asked(
    streams: dict[int, Path], clip: Path, folder: Path, family: Family
) -> None:
    # The crops are not at hand here; the light of the second half is.
    dark = {}
    for pictures, stream in streams.items():
        made = frames(stream, folder, family)
        assert len(made) == FRAMES
        dark[pictures] = np.mean([made[number].mean() for number in range(LIGHT_OUT + 5, FRAMES)])
        bright = np.mean([made[number].mean() for number in range(LIGHT_OUT)])
        dark[pictures] /= bright
    assert abs(dark[3] - 0.7) < abs(dark[0] - 0.7)


def test_decoding_twice_gives_the_same_pictures_and_a_jump_needs_no_past(
    streams: dict[int, Path], folder: Path, family: Family
) -> None:
    player = api.StreamPlayer(streams[3], family=family)
    whole = [frame.rgb for frame in player.frames()]
    np.testing.assert_array_equal([frame.rgb for frame in player.frames()], whole)
    last = [frame.rgb for frame in player.frames(from_us=(FRAMES - 5) * 40_000)]
    assert len(last) == 5
    assert metrics.psnr(last[-1:], whole[-1:]) > 25


def test_a_file_that_breaks_off_within_its_pictures_is_shown_on_those_before(
    streams: dict[int, Path], folder: Path, family: Family
) -> None:
    data = streams[3].read_bytes()
    source = StreamReader(data).source_picture()
    assert source is not None
    cut = data[: len(source.data) + 400]
    path = folder / "cut.kcs"
    path.write_bytes(cut)
    assert api.info(path).pictures == 1
    assert api.StreamPlayer(path, family=family).renderer.pictures == 1


def test_another_picture_is_moved_alone_and_the_own_ones_come_back(streams: dict[int, Path], family: Family) -> None:
    player = api.StreamPlayer(streams[3], family=family)
    pictures = player.renderer.pictures
    player.show(np.ascontiguousarray(player.stream_source.picture[:, ::-1]))
    assert player.renderer.pictures == 1
    player.show(None)
    assert player.renderer.pictures == pictures > 1


def test_an_encoder_says_which_picture_to_send_while_it_runs(family: Family) -> None:
    player = api.StreamPlayer(sample_stream("astronaut"), family=family)
    crops = [(frame.rgb * 0.75).astype(np.uint8) for frame, _ in zip(player.frames(), range(61), strict=False)]
    bright = player.stream_source.picture
    encoder = api.Encoder(bright, family=family, gallery=2, gallery_kb=12)
    alone, several = (api.Decoder(encoder.source_picture, family=family) for _ in range(2))
    assert encoder.next_picture() is None  # nothing has been seen
    made: dict[int, list[Picture]] = {0: [], 1: []}
    sent = 0
    for number, crop in enumerate(crops):
        packet = encoder.push(crop, number * 40_000)
        if number == 40:
            picture = encoder.next_picture()
            assert picture is not None
            assert len(picture.data) <= 6144
            several.add_picture(picture)
            sent += 1
        if packet is not None:
            for decoder, shown in ((alone, made[0]), (several, made[1])):
                shown += [frame.rgb for frame in decoder.push(bytes(packet))]
    assert encoder.next_picture() is None  # two are all that were allowed
    late = slice(48, 60)
    gain = metrics.psnr(made[1][late], crops[late]) - metrics.psnr(made[0][late], crops[late])
    assert gain > 2


@pytest.mark.parametrize(
    ("gallery", "kilobytes", "said"),
    [(9, 40, "gallery is 9"), (4, 0.5, "gallery_kb is 0.5"), (8, 8, "gallery_kb is 8")],
)
def test_what_is_no_gallery_is_refused_and_nothing_is_written(
    clip: Path, tmp_path: Path, family: Family, gallery: int, kilobytes: float, said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        api.encode(clip, tmp_path / "x.kcs", gallery=gallery, gallery_kb=kilobytes, family=family)
    assert list(tmp_path.iterdir()) == []
