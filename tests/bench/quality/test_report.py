"""The whole comparison on a small clip: numbers, files, page, cache and pool."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from kilocall.api import open_family
from kilocall.bench.ffmpeg import find_ffmpeg
from kilocall.bench.quality import compare as compare_module
from kilocall.bench.quality.clips import read_clip
from kilocall.bench.quality.compare import compare, find_clips
from kilocall.bench.quality.curves import bd_rates, curve, match_of
from kilocall.bench.quality.facts import METRICS, MeanPoint, QualityReport, Rates
from kilocall.bench.quality.report import measure_quality, print_summary
from kilocall.bench.quality.results import PointScores
from kilocall.bench.quality.settings import QualitySettings
from kilocall.bench.quality.wire import Wire
from kilocall.cli import run
from kilocall.model import metrics
from kilocall.model.family import weights_folder
from kilocall.model.family_loader import FamilyChoice
from kilocall.proto.errors import BadInput
from kilocall.runtime.pictures import decode_picture, encode_picture

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SETTINGS = QualitySettings(codecs=("x264-live", "svt-av1-live"), qualities=(50.0,), layers=(), engine="openvino")
KILOCALL_ALONE = dataclasses.replace(SETTINGS, codecs=("none",))
POINTS = 1 + 1 + 2 * 5


@pytest.fixture(scope="module")
def made(swaying: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[QualityReport, Path]:
    out = tmp_path_factory.mktemp("made") / "report"
    return measure_quality([swaying], out, SETTINGS), out


def _point(report: QualityReport, codec: str) -> MeanPoint:
    return next(point for point in report.means if point.codec == codec)


def test_files_are_written_and_json_is_read_back(made: tuple[QualityReport, Path]) -> None:
    report, out = made
    assert QualityReport.model_validate_json((out / "report.json").read_text()) == report
    names = {path.name for path in out.iterdir()}
    assert {"index.html", "report.json", "psnr_db.png", "landmark_px.png", "cache"} <= names
    assert (out / "psnr_db.png").read_bytes().startswith(b"\x89PNG")
    assert len(report.points) == POINTS
    assert not report.missing


def test_frozen_picture_has_the_psnr_that_can_be_computed_by_hand(
    made: tuple[QualityReport, Path], swaying: Path
) -> None:
    frames = read_clip(swaying, open_family(engine="openvino", threads=1)).frames
    data = encode_picture(frames[0])[1]
    squares = [np.mean((decode_picture(data).astype(float) - frame) ** 2) for frame in frames]
    wanted = np.mean([10 * math.log10(255**2 / square) for square in squares])
    frozen = _point(made[0], "frozen")
    assert frozen.scores["psnr_db"] == pytest.approx(wanted, abs=1e-6)
    assert frozen.rates.kbps == 0
    assert frozen.rates.first_bytes == len(data)


def test_rates_add_up(made: tuple[QualityReport, Path]) -> None:
    report, _ = made
    for point in report.points:
        rates = point.rates
        assert rates.kbps == pytest.approx(rates.bits_mean * 12 / 1000)
        assert rates.call_kbps[10] == pytest.approx(rates.kbps + 0.8 * rates.first_bytes / 1000)
        assert rates.call_kbps[600] < rates.call_kbps[60] < rates.call_kbps[10]
        for wire in rates.wire:
            both = wire.forward_kbps + wire.back_kbps
            assert wire.call_kbps[60] == pytest.approx(both + 8 * wire.first_bytes / 60 / 1000)
            assert wire.forward_kbps >= rates.kbps
    x264 = next(point for point in report.points if point.codec == "x264-live" and point.setting == "q36")
    assert x264.file_bytes is not None
    # 26 pictures, one part each after the first, of which every part has a start code of 4 bytes at most.
    payload = x264.rates.bits_mean / 8 * 25 + x264.rates.first_bytes
    assert 0 < x264.file_bytes - payload <= 4 * 28
    ours = _point(report, report.kilocall).rates
    assert [wire.how for wire in ours.wire] == [
        "data channel, 1 frame a packet", *(f"data channel, {n} frames a packet" for n in (2, 3, 4))
    ]  # fmt: skip
    forward = [wire.forward_kbps for wire in ours.wire]
    assert forward == sorted(forward, reverse=True)


def test_kilocall_follows_the_head_for_fewer_bits_than_video(made: tuple[QualityReport, Path]) -> None:
    report, _ = made
    ours, frozen = _point(report, report.kilocall), _point(report, "frozen")
    video = [point for point in report.means if point.codec in ("x264-live", "svt-av1-live")]
    assert ours.rates.kbps < min(point.rates.kbps for point in video)
    assert ours.scores["landmark_px"] is not None
    assert frozen.scores["landmark_px"] is not None
    assert ours.scores["landmark_px"] < frozen.scores["landmark_px"] / 2
    assert any(sentence.startswith("On the wire the distance shrinks") for sentence in report.sentences)


def test_exact_settings_are_in_the_report(made: tuple[QualityReport, Path]) -> None:
    commands = {codec.key: codec.command for codec in made[0].codecs}
    assert "-preset veryslow" in commands["x264-live"]
    assert "-tune zerolatency" in commands["x264-live"]
    assert "-crf Q" in commands["svt-av1-live"]
    assert all(command in made[1].joinpath("index.html").read_text() for command in commands.values())


def test_summary_fits_a_terminal(made: tuple[QualityReport, Path]) -> None:
    console = Console(width=80, file=io.StringIO())
    print_summary(made[0], console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for word in ("kilocall compact-256", "x264 live", "AV1 live (SVT)", "frozen picture", "landmark distance"):
        assert word in text
    assert "…" not in text


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed to look at the page with")
def test_page_opens_in_a_browser_and_asks_nobody_for_anything(made: tuple[QualityReport, Path]) -> None:
    from playwright.sync_api import sync_playwright

    said: list[str] = []
    asked: list[str] = []
    page_file = (made[1] / "index.html").as_uri()
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file, wait_until="load")
        sizes: Any = page.evaluate("Array.from(document.images, image => image.naturalWidth)")
        rows = page.locator("tr.own").count()
        title = page.title()
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page_file]
    # Every plot, and three moments of the original, kilocall, the frozen picture and two codecs, twice.
    assert len(sizes) == len(list(made[1].glob("*.png"))) + 3 * 5 * 2
    assert min(sizes) > 0
    assert rows > 0
    assert title == "kilocall: bits against quality"


def test_without_pictures_the_page_shows_none_of_the_clip(
    swaying: Path, made: tuple[QualityReport, Path], tmp_path: Path
) -> None:
    measure_quality([swaying], tmp_path, KILOCALL_ALONE, cache=made[1] / "cache", pictures=False)
    text = (tmp_path / "index.html").read_text()
    assert "image/jpeg" not in text
    assert "image/png" in text


def test_layers_are_further_points_of_kilocalls_curve(
    swaying: Path, made: tuple[QualityReport, Path], tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, qualities=(30.0, 50.0), layers=(6.0, 0.0, 3.0, 6.0))
    report = measure_quality([swaying], tmp_path, settings, cache=made[1] / "cache")
    own = [point for point in report.means if point.codec == "compact-256"]
    assert [point.setting for point in own] == [
        "quality 30", "quality 50", "quality 75, layer 6", "quality 75, layer 3"
    ]  # fmt: skip
    plain, thick, thin = own[1:]
    # What is said of kilocall is said of it without a layer, which costs what it did.
    assert (report.kilocall_setting, report.own_point.rates) == ("quality 50", _point(made[0], "compact-256").rates)
    assert report.layered == [thin, thick]
    for before, after in ((plain, thin), (thin, thick)):
        assert before.rates.kbps < after.rates.kbps
        assert before.rates.first_bytes < after.rates.first_bytes
        for cheap, dear in zip(before.rates.wire, after.rates.wire, strict=True):
            assert cheap.forward_kbps < dear.forward_kbps
            assert cheap.first_bytes < dear.first_bytes
            # Headers are paid once: what the layer takes is added, and 6 bytes before each of up to ten pieces a
            # second, with up to 3 that fill the message.
            more = after.rates.kbps - before.rates.kbps
            assert dear.forward_kbps - cheap.forward_kbps == pytest.approx(more, abs=0.75)
    assert [sentence.split(" has ")[0] for sentence in report.sentences if sentence.startswith("With layer")] == [
        "With layer 3 kilocall", "With layer 6 kilocall"
    ]  # fmt: skip
    console = Console(width=80, file=io.StringIO())
    print_summary(report, console)
    assert isinstance(console.file, io.StringIO)
    assert "\n   layer 3 " in console.file.getvalue()
    text = (tmp_path / "index.html").read_text()
    # At kilocall's own rate it is shown as it was, near 10 kbit/s with the layer that takes the most of it.
    assert text.count("<b>kilocall compact-256</b>quality 50<br>") == 1
    assert text.count("<b>kilocall compact-256</b>quality 75, layer 6<br>") == 1


def test_interrupted_run_goes_on_from_its_cache(
    swaying: Path, made: tuple[QualityReport, Path], tmp_path: Path
) -> None:
    settings = dataclasses.replace(KILOCALL_ALONE, qualities=(10.0, 50.0))
    seen: list[tuple[int, int | None]] = []

    def stop(done: int, total: int | None) -> None:
        seen.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare([swaying], settings, cache=tmp_path, progress=stop)
    assert seen[-1] == (2, 3)
    kept = list(tmp_path.iterdir())
    assert len(kept) == 2
    kept[0].write_text("{")  # a damaged result counts as none
    whole = compare([swaying], settings, cache=tmp_path)
    assert whole.cached == 1
    assert len(list(tmp_path.iterdir())) == 3
    alone = {point.setting: point.scores for point in made[0].points}
    assert [result.setting for result in whole.results] == ["first frame", "quality 10", "quality 50"]
    assert all(r.scores == alone[r.setting] for r in whole.results if r.setting in alone)


def test_other_settings_do_not_use_the_cache(swaying: Path, made: tuple[QualityReport, Path], tmp_path: Path) -> None:
    shutil.copytree(made[1] / "cache", tmp_path, dirs_exist_ok=True)
    assert compare([swaying], KILOCALL_ALONE, cache=tmp_path).cached == 2
    assert compare([swaying], dataclasses.replace(KILOCALL_ALONE, seconds=2), cache=tmp_path).cached == 0


def test_two_processes_find_the_same_numbers(swaying: Path, made: tuple[QualityReport, Path], tmp_path: Path) -> None:
    second = tmp_path / "second.mkv"
    shutil.copy(swaying, second)
    found = compare([swaying, second], dataclasses.replace(KILOCALL_ALONE, workers=2))
    alone = {point.codec: point.scores for point in made[0].points}
    assert [result.clip.name for result in found.results] == ["sway.mkv", "sway.mkv", "second.mkv", "second.mkv"]
    assert all(result.scores == alone[result.codec] for result in found.results)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_ray_that_is_not_installed_is_named(swaying: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="needs Ray, which is not installed"):
        compare([swaying], dataclasses.replace(KILOCALL_ALONE, ray_address="local"))


def test_missing_encoder_and_useless_clips_are_named_and_the_rest_goes_on(
    swaying: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_clip: Callable[..., Path],
    swaying_pictures: Callable[..., list[Any]],
) -> None:
    whole = find_ffmpeg()
    poor = dataclasses.replace(whole, encoders=whole.encoders - {"libx264", "libsvtav1"})
    monkeypatch.setattr(compare_module, "find_ffmpeg", lambda: poor)
    write_clip(tmp_path / "short.mkv", swaying_pictures(10))
    write_clip(tmp_path / "wall.mkv", [np.full((200, 300, 3), 90, np.uint8)] * 25)
    (tmp_path / "text.mp4").write_text("this is no video")
    report = measure_quality([swaying, tmp_path], tmp_path / "report", SETTINGS)
    assert [clip.name for clip in report.clips] == ["sway.mkv"]
    reasons = {item.clip or item.codec: item.reason for item in report.missing}
    assert "has no encoder libx264" in reasons["x264-live"]
    assert "has no encoder libsvtav1" in reasons["svt-av1-live"]
    assert "at least 2 s are needed" in reasons["short.mkv"]
    assert "no face" in reasons["wall.mkv"]
    assert "not a readable video" in reasons["text.mp4"]
    assert "libsvtav1" in (tmp_path / "report" / "index.html").read_text()


def test_what_cannot_be_measured_at_all_is_refused(
    swaying: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadInput, match="no such file or folder"):
        find_clips([tmp_path / "none.mp4"])
    with pytest.raises(BadInput, match="no clip in"):
        find_clips([tmp_path])
    with pytest.raises(BadInput, match=r"two clips are called sway\.mkv"):
        find_clips([swaying, swaying])
    (tmp_path / "text.mp4").write_text("this is no video")
    with pytest.raises(BadInput, match=r"none of 1 clips can be used; text\.mp4"):
        compare([tmp_path], SETTINGS)
    assert run(["bench", "quality", str(swaying), "-o", str(tmp_path / "text.mp4")]) == 2
    assert "is a file, wanted is a folder" in capsys.readouterr().err
    assert run(["bench", "quality", str(swaying), "-o", str(tmp_path / "r"), "--size", "300"]) == 2
    assert "size is 300" in capsys.readouterr().err
    assert run(["bench", "quality", str(swaying), "-o", str(tmp_path / "r"), "--codec", "h263"]) == 2
    assert "codec is 'h263'" in capsys.readouterr().err
    assert run(["bench", "quality", str(swaying), "-o", str(tmp_path / "r"), "--layer", "3", "--layer", "5"]) == 2
    assert "layer is 5 kbit/s; allowed are 0 (none), 1.5, 3, 6, 12, 24" in capsys.readouterr().err


def _mean(codec: str, setting: str, kbps: float, psnr: float) -> MeanPoint:
    wire = Wire(how="RTP", forward_kbps=kbps, back_kbps=0, first_bytes=0, call_kbps={10: kbps, 60: kbps, 600: kbps})
    rates = Rates(bits_mean=0, bits_p95=0, bits_max=0, kbps=kbps, first_bytes=0, call_kbps={}, wire=[wire])
    scores = {name: None for name in PointScores.model_fields} | {"psnr_db": psnr}
    return MeanPoint(codec=codec, setting=setting, clips=1, rates=rates, scores=scores)


PSNR = METRICS[0]


def test_rate_of_equal_quality_lies_between_the_points() -> None:
    means = [_mean("other", "a", 10, 30), _mean("other", "b", 40, 34), _mean("other", "worse", 20, 29)]
    assert [point[2] for point in curve(means, "other", PSNR, lambda p: p.rates.kbps)] == ["a", "b"]
    match = match_of(PSNR, "other", _mean("ours", "x", 2, 32), means)
    assert match.kbps == pytest.approx(20)  # halfway on a logarithmic axis
    assert match.times == pytest.approx(10)
    assert match.text == "20.0 (10.0 x)"
    assert match_of(PSNR, "other", _mean("ours", "x", 2, 29), means).text == "better from its lowest, 10.0, on (30.00)"
    assert match_of(PSNR, "other", _mean("ours", "x", 2, 35), means).text == "not even at 40.0 (34.00)"


def test_bd_rate_of_a_codec_that_always_needs_half_is_minus_fifty() -> None:
    rates = [(5, 28.0), (10, 31.0), (20, 34.0), (40, 36.0)]
    means = [_mean("base", str(r), r, q) for r, q in rates] + [_mean("half", str(r), r / 2, q) for r, q in rates]
    means += [_mean("below", str(r), r, q - 20) for r, q in rates]
    half, apart = bd_rates(means, "base", ["base", "half", "below"])
    assert (half.codec, half.metric) == ("half", PSNR.name)
    assert half.percent == pytest.approx(-50, abs=0.1)
    assert apart.percent is None
    assert apart.text == "no overlap: 16.00 at 40.00 kbit/s"


def test_ctrl_c_ends_the_command_and_keeps_what_was_measured(swaying: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kilocall.cli", "bench", "quality", str(swaying), "-o", str(tmp_path / "out")]
    cache = tmp_path / "out" / "cache"
    # A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen([*command, "--codec", "none"], stdout=subprocess.DEVNULL)
    signal.signal(signal.SIGINT, before)
    try:
        deadline = time.monotonic() + 150
        while not (cache.is_dir() and any(cache.glob("*.json"))) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    # An interrupt while the interpreter starts or ends a pool kills it by the signal itself: 130 to a shell as well.
    assert process.returncode in (130, -signal.SIGINT)
    kept = list(cache.glob("*.json"))
    assert kept
    assert all(json.loads(path.read_text())["clip"]["name"] == "sway.mkv" for path in kept)
    assert not (tmp_path / "out" / "index.html").exists()


def test_scores_are_those_of_the_metrics(made: tuple[QualityReport, Path], swaying: Path) -> None:
    from kilocall.bench.quality.codecs import RatePoint, code_video, named

    frames = read_clip(swaying, open_family(engine="openvino", threads=1)).frames
    shown = code_video(frames, 12, named("x264-live"), RatePoint(36), find_ffmpeg()).shown
    point = next(p for p in made[0].points if (p.codec, p.setting) == ("x264-live", "q36"))
    assert point.scores.psnr_db == pytest.approx(metrics.psnr(shown, frames))
    assert point.scores.ssim == pytest.approx(metrics.ssim(shown, frames))
    assert point.scores.ms_ssim == pytest.approx(metrics.ms_ssim(shown, frames))
    assert point.scores.face_found == 1


def test_own_weights_and_perceptual_distances_are_measured_beside(
    swaying: Path, made: tuple[QualityReport, Path], tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(weights_folder(), mine)
    heads = {f"lin{i}.model.1.weight": torch.full((1, n, 1, 1), 0.1) for i, n in enumerate((64, 192, 384, 256, 256))}
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    torch.manual_seed(0)
    for number, (outputs, inputs, kernel) in shapes.items():
        heads[f"features.{number}.weight"] = torch.randn(outputs, inputs, kernel, kernel) / (inputs * kernel**2) ** 0.5
        heads[f"features.{number}.bias"] = torch.zeros(outputs)
    torch.save(heads, tmp_path / "lpips.pth")
    settings = dataclasses.replace(
        KILOCALL_ALONE, families=(FamilyChoice("compact-256", mine),), lpips=(tmp_path / "lpips.pth",)
    )
    report = measure_quality([swaying], tmp_path / "report", settings)
    assert set(report.families) == {"compact-256", "compact-256 mine"}
    assert report.kilocall == "compact-256"
    own, packaged = _point(report, "compact-256 mine"), _point(report, "compact-256")
    # The same weights from another folder: the same bits and scores.
    assert (own.rates, own.scores) == (packaged.rates, packaged.scores)
    assert own.scores["psnr_db"] == pytest.approx(_point(made[0], "compact-256").scores["psnr_db"])
    frozen = _point(report, "frozen").scores["lpips"]
    assert own.scores["lpips"] is not None
    assert frozen is not None
    assert 0 < own.scores["lpips"] < frozen
    assert report.distances_by[0].startswith("LPIPS 0.1, AlexNet")
    assert "<th>LPIPS</th>" in (tmp_path / "report" / "index.html").read_text()
    # Who does not ask for it does not hear of it, and finds results of before.
    assert "LPIPS" not in (made[1] / "index.html").read_text()
    assert measure_quality([swaying], tmp_path / "report", settings) is not None
    again = compare([swaying], settings, cache=tmp_path / "report" / "cache")
    assert again.cached == 3


def test_families_without_weights_are_refused(
    swaying: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "report")
    assert run(["bench", "quality", str(swaying), "-o", out, "--family", "facevid2vid"]) == 2
    assert "--family is given 1 times and --weights 0 times" in capsys.readouterr().err
    missing = ["--family", "facevid2vid", "--weights", str(tmp_path / "none.pth")]
    assert run(["bench", "quality", str(swaying), "-o", out, *missing]) == 2
    assert "no such file" in capsys.readouterr().err
    assert run(["bench", "quality", str(swaying), "-o", out, "--lpips", str(tmp_path / "none.pth")]) == 2
    assert "no such file" in capsys.readouterr().err
