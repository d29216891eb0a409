from __future__ import annotations

import io
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from kilocall.bench.loss import motion
from kilocall.bench.loss.link import Link, Outages
from kilocall.bench.loss.measure import LossSettings, measure_loss
from kilocall.bench.loss.methods import METHODS
from kilocall.bench.loss.motion import send_motion
from kilocall.bench.loss.plot import loss_plot, print_loss
from kilocall.bench.loss.results import LossReport
from kilocall.bench.quality.clips import BenchClip, read_clip
from kilocall.cli import run
from kilocall.model.family import Family
from kilocall.proto.errors import BadInput

FPS = 12


def _portrait(angle: float, dx: float) -> NDArray[np.uint8]:
    bgr = cv2.imread(str(Path(__file__).parents[1] / "data" / "astronaut.webp"))
    assert bgr is not None
    matrix = cv2.getRotationMatrix2D((224, 122), angle, 1.45)
    matrix[:, 2] += np.array([dx + 128 - 224, 118 - 122])
    return np.asarray(cv2.warpAffine(bgr[..., ::-1], matrix, (256, 256), flags=cv2.INTER_AREA), np.uint8)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> LossReport:
    folder = tmp_path_factory.mktemp("loss")
    with av.open(str(folder / "sway.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=FPS)
        stream.width = stream.height = 256
        stream.pix_fmt = "bgr0"
        for number, s in enumerate(np.sin(np.arange(30) / 3)):
            frame = av.VideoFrame.from_ndarray(_portrait(6 * s, 10 * s), format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (folder / "text.mp4").write_text("this is no video")
    settings = LossSettings(losses=(0.0, 0.4), patterns=("random",), layers=(0.0, 6.0), engine="openvino")
    return measure_loss([folder / "sway.mkv", folder / "text.mp4"], settings)


def test_random_losses_are_as_many_as_wanted_and_the_same_again() -> None:
    link, same, other = (Outages(0.2, "random", seed) for seed in ("a", "a", "b"))
    fates = [[one.loses(i / 25) for i in range(5000)] for one in (link, same, other)]
    assert fates[0] == fates[1] != fates[2]
    # Three standard deviations of a mean of 5000 are 0.017.
    assert link.lost / link.sent == pytest.approx(0.2, abs=0.017)


def test_outages_last_as_long_as_stated_whoever_asks() -> None:
    link = Outages(0.3, "bursts", "a")
    times = np.arange(0, 2000, 0.01)
    down = [link.loses(t) for t in times]
    lengths = [0.01 * len(list(run)) for out, run in groupby(down) if out]
    # About 3000 outages of 0.2 s; sampling at 10 ms leaves out the shortest.
    assert np.mean(lengths) == pytest.approx(0.2, rel=0.1)
    assert np.mean(down) == pytest.approx(0.3, abs=0.03)
    again = Outages(0.3, "bursts", "a")
    assert [again.loses(t) for t in times[::-7]] == down[::-7]


def test_link_that_loses_nothing_loses_nothing() -> None:
    assert not any(Outages(0, "bursts", "a").loses(t) for t in range(1000))
    with pytest.raises(BadInput, match="loss is 1"):
        Outages(1, "random", "a")


def test_without_loss_every_frame_is_new(report: LossReport) -> None:
    calm = {point.method: point for point in report.points if point.loss == 0}
    assert list(calm) == [*(method.title for method in METHODS), "kilocall, layer 6"]
    assert all(point.new_pictures == 1 and point.longest_freeze_s == 0 for point in calm.values())
    # Nothing is asked for, so the ways to ask make no difference.
    for video in ("x264", "VP8"):
        assert calm[video].psnr_db == calm[f"{video}, sent again"].psnr_db
        assert calm[video].wire_kbps == calm[f"{video}, sent again"].wire_kbps


def test_loss_freezes_video_for_longer_than_motion(report: LossReport) -> None:
    lossy = {point.method: point for point in report.points if point.loss == 0.4}
    calm = {point.method: point for point in report.points if point.loss == 0}
    for method, point in lossy.items():
        assert point.lost > 0
        assert point.new_pictures < 1, method
    # A lost packet costs motion its own frames; video waits for a key frame, which may be lost as well.
    assert lossy["kilocall"].new_pictures > lossy["x264"].new_pictures
    assert lossy["kilocall, repeated"].new_pictures >= lossy["kilocall"].new_pictures
    assert lossy["x264, sent again"].new_pictures >= lossy["x264"].new_pictures
    # Key frames and repeated packets cost bits, the decoder that goes on asks for nothing.
    assert lossy["x264"].wire_kbps > calm["x264"].wire_kbps
    assert lossy["x264, goes on"].wire_kbps == calm["x264, goes on"].wire_kbps


def test_layer_brings_the_picture_nearer_and_costs_what_it_takes(report: LossReport) -> None:
    calm, lossy = ({p.method: p for p in report.points if p.loss == loss} for loss in (0.0, 0.4))
    for points in (calm, lossy):
        alone, layered = points["kilocall, repeated"], points["kilocall, layer 6"]
        # The same messages are lost, so motion is what it was.
        assert (layered.lost, layered.new_pictures) == (alone.lost, alone.new_pictures)
        # Of 6 kbit/s most frames are small and sent twice; the clip is short, and what may be saved up is spent.
        assert 3 < layered.wire_kbps - alone.wire_kbps < 16
    assert calm["kilocall, layer 6"].psnr_db > calm["kilocall, repeated"].psnr_db + 1
    assert lossy["kilocall, layer 6"].psnr_db > lossy["kilocall, repeated"].psnr_db - 0.1


class _Loses(Outages):
    """What is sent at these times."""

    def __init__(self, *spans_s: tuple[float, float]) -> None:
        super().__init__(0, "random", "")
        self._spans_s = spans_s

    def loses(self, at_s: float) -> bool:
        return any(start <= at_s < end for start, end in self._spans_s)


@pytest.fixture(scope="module")
def long_clip(astronaut_clip: Path, family: Family) -> BenchClip:
    return read_clip(astronaut_clip, family, seconds=5)


def _shown(
    clip: BenchClip, family: Family, forward: Outages, back: Outages, layer: float = 6, repeats: bool = False
) -> NDArray[np.uint8]:
    shown = send_motion(clip, family, Link(forward, back, 0.1), repeats=repeats, layer_kbps=layer)
    return np.stack(shown.pictures)


def test_layer_that_ended_comes_back_with_the_key_frame_that_is_asked_for(
    long_clip: BenchClip, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    gap, never = _Loses((0.9, 1.3)), _Loses((0, 99))
    # Motion is as fine without a layer as beside one here; without acknowledgements it is coded otherwise and looks so.
    monkeypatch.setattr(motion, "usual_quality", lambda layer_kbps: 50)
    rows = []
    for back in (_Loses(), never):
        alone, layered = (_shown(long_clip, family, gap, back, layer) for layer in (0, 6))
        rows.append([not np.array_equal(a, b) for a, b in zip(alone, layered, strict=True)])
    mended, ended = rows
    # It is there before the gap; what nobody hears of ends it, once the last correction is 1.4 s old.
    assert mended[20]
    assert ended[20]
    assert mended[-1]
    assert not any(ended[80:])


def test_small_frames_that_are_sent_twice_outlive_a_lost_message(long_clip: BenchClip, family: Family) -> None:
    # One message of three frames; nothing that is asked for is heard.
    once, never = _Loses((1.9, 2.01)), _Loses((0, 99))
    whole = _shown(long_clip, family, _Loses(), never, repeats=True)
    assert np.array_equal(whole[-1], _shown(long_clip, family, once, never, repeats=True)[-1])
    assert not np.array_equal(whole[-1], _shown(long_clip, family, once, never)[-1])


def test_clip_that_cannot_be_used_is_named(report: LossReport) -> None:
    assert report.clips == ["sway.mkv"]
    assert report.failures[0][0] == "text.mp4"


def test_report_is_drawn_and_printed(report: LossReport) -> None:
    assert LossReport.model_validate_json(report.model_dump_json()) == report
    png = cv2.imdecode(np.frombuffer(loss_plot(report), np.uint8), cv2.IMREAD_COLOR)
    assert png is not None
    assert png.shape[1] == 1500
    console = Console(width=80, file=io.StringIO())
    print_loss(report, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    assert "40% random" in text
    assert "x264, sent again" in text
    assert "left out: text.mp4" in text


def test_command_refuses_what_makes_no_sense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.mp4").write_text("this is no video")
    assert run(["bench", "loss", str(tmp_path / "text.mp4"), "-o", str(tmp_path / "out")]) == 2
    assert "none of 1 clips can be used" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(["bench", "loss", str(tmp_path / "text.mp4"), "-o", str(tmp_path / "out"), "--layer", "4"]) == 2
    assert "layer is 4 kbit/s; allowed are 0 (none), 1.5, 3" in capsys.readouterr().err
    assert run(["bench", "loss", str(tmp_path / "text.mp4"), "-o", str(tmp_path / "out"), "--loss", "95"]) == 2
