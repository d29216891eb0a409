"""A clip with a card that no source picture shows, through files: encode, info, decode."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kilocall import api
from kilocall.api import StreamPlayer
from kilocall.cli import run
from kilocall.model.family import Family, Picture
from kilocall.proto.errors import BadInput
from kilocall.proto.stream_file import StreamReader
from kilocall.receiver.render import View
from kilocall.receiver.video_file import VideoFile
from kilocall.sample import sample_stream
from kilocall.sender.capture import open_clip
from layers import CARD_FROM, FRAME_US, decibels, pictures_with_card

COUNT = 75


@pytest.fixture(scope="module")
def truth(player: StreamPlayer) -> list[Picture]:
    return pictures_with_card(player, COUNT)


@pytest.fixture(scope="module")
def clip(truth: list[Picture], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("layer") / "card.mp4"
    with VideoFile(path, fps=Fraction(25), size=(256, 256)) as video:
        for number, picture in enumerate(truth):
            video.write(picture, number * FRAME_US)
    return path


@pytest.fixture(scope="module")
def source(truth: list[Picture], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first picture: the card is not in it."""
    path = tmp_path_factory.mktemp("layer") / "first.png"
    Image.fromarray(truth[0]).save(path)
    return path


@pytest.fixture(scope="module")
def stream(clip: Path, source: Path, family: Family) -> Path:
    out = clip.with_suffix(".kcs")
    report = api.encode(clip, out, source=source, crop="whole", layer=6, family=family)
    assert 0 < report.layer_kbps < 6 * (1 + 2 / 3)  # 2 s may be saved up, of 3
    return out


def test_info_counts_the_layer_apart(stream: Path, clip: Path, source: Path, family: Family) -> None:
    found = api.info(stream)
    without = clip.with_name("without.kcs")
    api.encode(clip, without, source=source, crop="whole", quality=75, family=family)
    alone = api.info(without)
    assert (alone.layer_frames, alone.layer_bytes) == (0, 0)
    assert found.payload_bits_mean == alone.payload_bits_mean
    assert found.layer_frames > 15
    assert found.layer_bytes == sum(len(frame.data) for frame in StreamReader(stream).layer_frames())
    assert found.file_bytes > alone.file_bytes + found.layer_bytes


def test_a_decoded_video_shows_the_card_with_the_layer_alone(
    stream: Path, truth: list[Picture], family: Family, tmp_path: Path
) -> None:
    videos = {}
    for layer in (True, False):
        report = api.decode(stream, tmp_path / f"{layer}.mp4", layer=layer, family=family)
        assert (report.layer_frames > 10) == layer
        assert report.damaged_layer == 0
        videos[layer] = [frame.rgb for frame in open_clip(tmp_path / f"{layer}.mp4")]
    later = range(CARD_FROM + 5, COUNT)
    with_layer, without = (np.mean([decibels(videos[layer][n], truth[n]) for n in later]) for layer in (True, False))
    assert with_layer > without + 4


def test_another_face_and_a_turned_head_are_shown_without_it(stream: Path, family: Family) -> None:
    plain = StreamPlayer(stream, layer=False, family=family)
    layered = StreamPlayer(stream, family=family)
    for player in (plain, layered):
        player.renderer.view = View(yaw=15)
    turned = [next(iter(player.frames(2_000_000))).rgb for player in (plain, layered)]
    assert np.array_equal(turned[0], turned[1])
    assert layered.layer is not None
    assert layered.layer.used == 0


def test_seeking_shows_the_layer_of_that_moment(stream: Path, truth: list[Picture], family: Family) -> None:
    player = StreamPlayer(stream, family=family)
    for number in (60, 30, 70):
        frame = next(iter(player.frames(number * FRAME_US)))
        plain = next(iter(StreamPlayer(stream, layer=False, family=family).frames(number * FRAME_US)))
        assert decibels(frame.rgb, truth[number]) > decibels(plain.rgb, truth[number]) + 3


def test_a_source_picture_of_somebody_else_has_no_layer(clip: Path, family: Family, tmp_path: Path) -> None:
    drawing = StreamPlayer(sample_stream("drawing"), family=family)
    other = tmp_path / "other.png"
    Image.fromarray(drawing.stream_source.picture).save(other)
    report = api.encode(clip, tmp_path / "other.kcs", source=other, crop="whole", layer=3, family=family)
    assert report.relative
    assert report.layer_kbps == 0
    assert any("there is no layer" in warning for warning in report.warnings)
    assert not list(StreamReader(tmp_path / "other.kcs").layer_frames())


def test_a_rate_that_is_none_of_the_ladders_is_refused_and_leaves_no_file(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.kcs"
    with pytest.raises(BadInput, match=r"layer is 4 kbit/s; allowed are 0 \(none\), 1\.5, 3, 6, 12, 24"):
        api.encode(clip, out, layer=4)
    assert run(["encode", str(clip), "-o", str(out), "--layer", "4"]) == 2
    assert "allowed are 0 (none)" in capsys.readouterr().err
    assert not out.exists()
