"""Two people in two browsers: Chromium with a fake camera and microphone each, two nodes, a signalling server."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest

from call.kept import distances, kept, points
from kilocall.api import StreamPlayer
from kilocall.bench.lip_sync import EVERY_S, LipSync
from kilocall.bench.two_pages import (
    Page,
    find_chromium,
    heard_and_seen,
    speaking_clip,
    start_probes,
    two_pages,
    wait_for,
    write_beeps,
    write_camera,
)
from kilocall.bench.wire_count import WireCount
from kilocall.call.report import CallReport
from kilocall.model.compact.family import CompactFamily
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family_loader import load_family
from kilocall.proto.errors import BadInput
from kilocall.proto.motion_packet import TIMES_MS
from kilocall.sample import sample_stream

pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no chromium is installed to open the pages with")

# Two browsers without a GPU and two nodes share two cores: few frames a second, so that none has to wait for another.
SIDE = 320
SPEAKER_FPS, DRAWING_FPS = 12, 8
SLOWEST_FPS = 3.0
MEASURE_S = 14.0
BEEPS_AT_S = (0.5, 2.5)
NAMES = ("speaker", "drawing")
BOTH_WAYS = [NAMES, NAMES[::-1]]


@dataclass
class Seen:
    """What the call has left behind."""

    folder: Path
    sync: LipSync | None = None
    """None when no opening of the mouth was seen and heard in both pages."""
    drawn_fps: dict[str, float] = field(default_factory=dict)
    """Pictures a second, by the page that shows them."""
    errors: dict[str, list[str]] = field(default_factory=dict)
    badges: dict[str, str] = field(default_factory=dict)
    visible_status: dict[str, bool] = field(default_factory=dict)
    canvases: dict[str, list[tuple[int, np.ndarray]]] = field(default_factory=dict)
    """Capture time in microseconds and RGB pixels of the other person's canvas."""
    previews: dict[str, np.ndarray] = field(default_factory=dict)
    sound_late_ms: dict[str, float] = field(default_factory=dict)
    """How long the page says that its buffer holds sounds."""
    heard: dict[str, int] = field(default_factory=dict)
    levels: dict[str, list[float]] = field(default_factory=dict)
    shown_kbps: dict[str, tuple[float, float]] = field(default_factory=dict)
    wire_kbps: dict[str, tuple[float, float]] = field(default_factory=dict)
    reports: dict[str, CallReport] = field(default_factory=dict)


@pytest.fixture(scope="module")
def family() -> CompactFamily:
    family = load_family(engine=choose_engine("auto", 1))
    assert isinstance(family, CompactFamily)
    return family


def _drawing(folder: Path) -> tuple[Path, Path]:
    player = StreamPlayer(sample_stream("drawing"), threads=1)
    step = round(float(player.reader.header.fps) / DRAWING_FPS)
    frames = (
        np.asarray(cv2.resize(frame.rgb, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.uint8)
        for frame in itertools.islice(player.frames(), 0, 4 * DRAWING_FPS * step, step)
    )
    write_camera(folder / "drawing.y4m", frames, DRAWING_FPS)
    write_beeps(folder / "drawing.wav", BEEPS_AT_S, 0.3, 4.0, hertz=700)
    return folder / "drawing.y4m", folder / "drawing.wav"


def _pixels(url: str) -> np.ndarray:
    bgr = cv2.imdecode(np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    return np.ascontiguousarray(bgr[..., ::-1])


def _look(seen: Seen, page: Page) -> None:
    name = page.name
    seen.badges[name] = page.page.inner_text("#badge-text")
    seen.visible_status[name] = page.page.is_visible("#status")
    seen.canvases[name] = [(captured, _pixels(url)) for captured, url in page.ask("kilocallProbe.kept()")]
    seen.previews[name] = _pixels(page.ask("document.getElementById('own-picture').toDataURL()"))
    seen.sound_late_ms[name] = page.ask("kilocall.stats().soundLateMs?.buffer ?? 0")
    seen.heard[name] = len(page.probe("heard"))
    seen.levels[name] = [level for _, level in page.probe("levels")]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, family: CompactFamily) -> Seen:
    folder = tmp_path_factory.mktemp("pages")
    seen = Seen(folder)
    devices = {"speaker": speaking_clip(folder, family, fps=SPEAKER_FPS, side=SIDE), "drawing": _drawing(folder)}
    with two_pages(folder, devices) as pages:
        start_probes(pages)
        for page in pages.values():
            wait_for(lambda page=page: page.probe("heard"), f"a sound from the other side in {page.name}'s page")
        ports = [pages[name].udp_ports() for name in NAMES]
        wire = WireCount(*ports) if sys.platform == "linux" and os.geteuid() == 0 else None
        for page in pages.values():
            page.ask("kilocallProbe.keepEvery = 1")
        began = time.time()
        pages["speaker"].page.wait_for_timeout(1000 * MEASURE_S)
        for name, page in pages.items():
            sent, received, first, last = page.numbers(began, began + MEASURE_S)
            seen.shown_kbps[name] = sent, received
            if wire is not None:
                counted = wire.kbps(first, last)
                seen.wire_kbps[name] = counted if name == NAMES[0] else counted[::-1]
        if wire is not None:
            wire.close()
        for name, page in pages.items():
            drawn = [when for when, _ in page.pictures("drawn")]
            seen.drawn_fps[name] = sum(1e-3 * when >= began for when in drawn) / (time.time() - began)
        with contextlib.suppress(BadInput):
            seen.sync = heard_and_seen(pages["speaker"], pages["drawing"], 1000 * began)
        for page in pages.values():
            _look(seen, page)
            seen.errors[page.name] = page.errors
            with urllib.request.urlopen(page.page.url + "health") as answer:
                assert json.load(answer)["alive"]
    for name in NAMES:
        seen.reports[name] = CallReport.model_validate_json((folder / f"{name}.json").read_text())
    return seen


def _skip_unless_shown(seen: Seen, name: str, fps: float) -> None:
    """Where pictures come this rarely the processor is busy with something else, and times say nothing of the call.

    Less than one a second is no slowness but a call that does not work.
    """
    assert seen.drawn_fps[name] > 1
    if seen.drawn_fps[name] < fps:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
        pytest.skip(
            f"the machine is too slow: {seen.drawn_fps[name]:.1f} pictures a second were shown, {fps:g} are needed "
            f"(load {load:.1f} on {os.cpu_count()} cores)"
        )


@pytest.mark.parametrize(("sender", "receiver"), BOTH_WAYS)
def test_the_canvas_shows_the_face_that_was_sent(seen: Seen, family: CompactFamily, sender: str, receiver: str) -> None:
    _skip_unless_shown(seen, receiver, SLOWEST_FPS)
    shown = [(captured // 1000 % TIMES_MS, rgb) for captured, rgb in seen.canvases[receiver]]
    # A fake camera on a busy machine is less even than a packet's mean spacing.
    found = distances(family, kept(seen.folder / sender, "sent"), shown, within_ms=40)
    assert len(found) >= 3
    assert np.median(found) <= 5
    # A still picture would not do: points of the face have been in places that lie apart.
    moved = np.ptp(np.stack([points(family, rgb) for _, rgb in shown]), axis=0)
    assert np.linalg.norm(moved, axis=1).max() >= 4


@pytest.mark.parametrize("name", NAMES)
def test_the_own_preview_is_the_cameras_picture(seen: Seen, name: str) -> None:
    camera = cv2.VideoCapture(str(seen.folder / ("speaking.y4m" if name == "speaker" else "drawing.y4m")))
    preview = seen.previews[name].astype(np.int16)
    apart = []
    while (read := camera.read())[0]:
        frame = cv2.resize(read[1][..., ::-1], preview.shape[1::-1], interpolation=cv2.INTER_AREA)
        apart.append(float(np.abs(frame - preview).mean()))
    # Of all its pictures one, but for two compressions.
    assert len(apart) > 10
    assert min(apart) < 5


@pytest.mark.parametrize("name", NAMES)
def test_the_other_persons_beeps_are_heard(seen: Seen, name: str) -> None:
    # One every two seconds, of which a busy machine may swallow some.
    assert seen.heard[name] >= 3
    assert -35 < max(seen.levels[name]) < 0
    assert min(seen.levels[name]) < max(seen.levels[name]) - 10  # with silence in between


@pytest.mark.parametrize("name", NAMES)
def test_the_page_measures_how_late_its_sound_is(seen: Seen, name: str) -> None:
    _skip_unless_shown(seen, name, SLOWEST_FPS)
    assert 0 < seen.sound_late_ms[name] < 2000


def test_lips_and_sound_arrive_together(seen: Seen) -> None:
    _skip_unless_shown(seen, "drawing", SPEAKER_FPS / 2)
    assert seen.sync is not None
    # One every two seconds, the first while the picture before it is still being learnt.
    assert len(seen.sync.offset_ms) >= 3
    # 80 ms are the aim where the machine has cores enough; `kilocall bench pages` measures that.
    assert abs(np.median(seen.sync.offset_ms)) < 300
    assert 0 < np.median(seen.sync.picture_ms) < 1000 * EVERY_S
    assert 0 < np.median(seen.sync.sound_ms) < 1000 * EVERY_S


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_on_the_page_are_the_bytes_on_the_wire(seen: Seen, name: str) -> None:
    if not seen.wire_kbps:
        pytest.skip("counting packets from outside needs root on Linux")
    assert seen.shown_kbps[name] == pytest.approx(seen.wire_kbps[name], rel=0.05)
    assert min(seen.shown_kbps[name]) > 1


@pytest.mark.parametrize("name", NAMES)
def test_the_badge_says_that_the_picture_is_reconstructed_and_since_when(seen: Seen, name: str) -> None:
    pictures = r"(a picture taken at [\d:]{5}|\d pictures)( and a little video)(, the first taken at [\d:]{5})?"
    assert re.fullmatch(f"Reconstructed from {pictures}", seen.badges[name])
    assert not seen.visible_status[name]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_went_wrong_on_the_way(seen: Seen, name: str) -> None:
    assert not seen.errors[name]
    report = seen.reports[name]
    assert report.connections == 1
    assert report.malformed == 0, (seen.folder / f"{name}.log").read_text()[-3000:]
    assert report.pictures > MEASURE_S
