"""A call as two people have it: two nodes, each with its page in a browser of its own, fake cameras and microphones.

Needs playwright and Chromium. Measures what only a browser can tell: whether lips and sound meet, and whether the
numbers that the page shows are the bytes that went over the wire.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.bench.lip_sync import EVERY_S, FIRST_AT_S, OPEN_S, LipSync, lip_sync, openings
from kilocall.bench.wire_count import WireCount
from kilocall.call import ROOM_VARIABLE
from kilocall.call.link import RoomAddress
from kilocall.model.compact.family import CompactFamily
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import Picture
from kilocall.model.family_loader import load_family
from kilocall.model.interior import BASIS
from kilocall.proto.errors import BadInput
from kilocall.proto.trust import LinkSecret
from kilocall.runtime.files import open_private
from kilocall.sample import perform

__all__ = [
    "Page",
    "find_chromium",
    "heard_and_seen",
    "measure",
    "report",
    "speaking_clip",
    "start_probes",
    "two_pages",
    "wait_for",
    "write_beeps",
    "write_camera",
]

HERE: Final = Path(__file__).parent
RATE: Final = 48_000
START_WITHIN_S: Final = 90.0
#: Small, because a browser without a GPU draws on the cores that the call needs.
VIEWPORT: Final = {"width": 640, "height": 400}
#: A browser's sound begins late, by up to half a second, and makes that up within some seconds.
SETTLE_S: Final = 6.0
CLIP_S: Final = 8.0


def find_chromium() -> str | None:
    """The browser that playwright is to drive: Debian's package or Google's."""
    return shutil.which("chromium") or shutil.which("google-chrome")


# What the fake devices play


def write_camera(path: Path, frames: Iterable[Picture], fps: int) -> None:
    """Pictures (uint8 RGB, all of one even size) as a .y4m file, which Chromium plays in a loop as its camera."""
    with path.open("wb") as file:
        for number, rgb in enumerate(frames):
            height, width = rgb.shape[:2]
            if not number:
                file.write(f"YUV4MPEG2 W{width} H{height} F{fps}:1 Ip A1:1 C420jpeg\n".encode())
            file.write(b"FRAME\n" + cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420).tobytes())


def write_beeps(path: Path, at_s: Sequence[float], length_s: float, loop_s: float, *, hertz: float = 500.0) -> None:
    """A .wav of `loop_s` seconds with a tone at each of the moments, which Chromium plays in a loop."""
    sound = np.zeros(round(loop_s * RATE), np.int16)
    times = np.arange(round(length_s * RATE)) / RATE
    tone = (9000 * np.sin(2 * math.pi * hertz * times)).astype(np.int16)
    for at in at_s:
        start = round(at * RATE)
        sound[start : start + len(tone)] = tone
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(sound.tobytes())


def speaking_clip(folder: Path, family: CompactFamily, *, fps: int = 25, side: int = 384) -> tuple[Path, Path]:
    """Camera and microphone of somebody who opens their mouth suddenly, every time with a beep: .y4m and .wav.

    The two begin together only if the browser opens both devices in one moment, which it does not: what is compared
    is when either reaches the page, and when it arrives at the other one.
    """
    camera, sound = folder / "speaking.y4m", folder / "speaking.wav"
    moments = np.arange(FIRST_AT_S, CLIP_S - OPEN_S, EVERY_S)
    portrait = cv2.resize(perform.portrait(), (family.size, family.size), interpolation=cv2.INTER_AREA)
    source = family.source(np.asarray(portrait, np.uint8))
    jaw = family.shape_model.project(perform.open_jaw(source.shape))
    still = np.zeros(2 * len(source.implicit), np.float32)
    dark = BASIS @ perform.DARK_MOUTH
    renderer = family.renderer(source)

    def frames() -> Iterator[Picture]:
        for number in range(round(CLIP_S * fps)):
            time_s = number / fps
            opened = any(0 <= time_s - at + 1e-6 < OPEN_S for at in moments)
            turn = 0.06 * math.sin(2 * math.pi * time_s / CLIP_S)
            pose = source.pose
            motion = replace(
                pose,
                rotation=(pose.rotation[0] + turn, pose.rotation[1], pose.rotation[2]),
                expression=np.concatenate((opened * jaw, still, opened * dark)).astype(np.float32),
            )
            yield np.asarray(cv2.resize(renderer.render(motion), (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)

    write_camera(camera, frames(), fps)
    write_beeps(sound, list(moments), 0.25, CLIP_S)
    return camera, sound


# The call


@dataclass
class Page:
    """One party: its node, and its page in its browser."""

    name: str
    page: Any
    """playwright's."""
    process: subprocess.Popen[bytes]
    folder: Path
    errors: list[str] = field(default_factory=list)
    """What the browser's console and the page's scripts complained about."""

    told: list[dict[str, Any]] = field(default_factory=list)
    """The numbers that its node sent to it."""

    def ask(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.page.evaluate(script)

    def probe(self, name: str) -> list[list[Any]]:
        """A list of probe.js."""
        told: list[list[Any]] = self.ask(f"kilocallProbe.{name}")
        return told

    def pictures(self, name: str) -> list[tuple[float, str]]:
        """Moments and small pictures that probe.js has noted."""
        return [(when, picture) for when, picture in self.probe(name)]

    def numbers(self, from_s: float, to_s: float) -> tuple[float, float, float, float]:
        """Means of the kbit/s (sent, received) that the page shows, and the first and last moment that they are of.

        BadInput when there were not two between the moments, or when the page shows something else than it was told.
        """
        counted = [told for told in self.told if from_s <= told["counted_at"] < to_s]
        if len(counted) < 2:
            raise BadInput(f"{self.name}'s page was told {len(counted)} numbers, at least 2 are needed")
        for when, *texts in self.probe("numbers"):
            if texts[0][0].isdecimal() and not any(_is_shown(told, texts) for told in self.told):
                raise BadInput(f"{self.name}'s page shows {texts} at {when:.0f}, which it was never told")
        # Each is of the time since the one before.
        spans = [(after["counted_at"] - before["counted_at"], after) for before, after in itertools.pairwise(counted)]
        first, last = counted[0]["counted_at"], counted[-1]["counted_at"]
        out, into = (
            sum(span * told[name] for span, told in spans) / (last - first) for name in ("out_kbps", "in_kbps")
        )
        return out, into, first, last

    def udp_ports(self) -> set[int]:
        """Ports that the node has opened."""
        inodes = set()
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found = re.match(r"socket:\[(\d+)\]", os.readlink(link))
                if found:
                    inodes.add(found[1])
        ports = set()
        for table in ("udp", "udp6"):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                columns = line.split()
                if columns[9] in inodes:
                    ports.add(int(columns[1].rpartition(":")[2], 16))
        return ports


@contextlib.contextmanager
def two_pages(folder: Path, devices: dict[str, tuple[Path, Path]]) -> Iterator[dict[str, Page]]:
    """A running call of two: `devices` are name -> camera (.y4m) and microphone (.wav). Ends when the block does.

    Each node writes FOLDER/NAME.json and keeps pictures in FOLDER/NAME. Raises BadInput when a part does not start.
    """
    from playwright.sync_api import sync_playwright

    chromium = find_chromium()
    if chromium is None:
        raise BadInput("no chromium on PATH to open the pages with")
    server = _kilocall(folder / "serve.log", "serve", "--port", "0")
    started: list[subprocess.Popen[bytes]] = [server]
    pages: dict[str, Page] = {}
    try:
        meeting = _said(server, folder / "serve.log", r"(http://[\d.]+:\d+)")
        link = RoomAddress(meeting, "two", LinkSecret.make()).link
        with sync_playwright() as engine:
            nodes = {}
            for name in devices:
                nodes[name] = _kilocall(
                    folder / f"{name}.log",
                    *("call", "--verbose", "--no-open", "--port", "0", "--camera", "browser"),
                    *("--report", str(folder / f"{name}.json"), "--keep-pictures", str(folder / name)),
                    *("--recordings", str(folder)),
                    link=link,
                )
                started.append(nodes[name])
            for name, (camera, sound) in devices.items():
                address = _said(nodes[name], folder / f"{name}.log", r"page: (http://\S+)\n")
                browser = engine.chromium.launch(
                    executable_path=chromium,
                    args=["--no-sandbox", "--disable-dev-shm-usage", *_fake_devices(camera, sound)],
                )
                pages[name] = _open(browser, name, address, nodes[name], folder)
            yield pages
            for page in pages.values():
                page.page.context.browser.close()
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGINT)
        for process in reversed(started):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _fake_devices(camera: Path, sound: Path) -> list[str]:
    return [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={camera}",
        f"--use-file-for-fake-audio-capture={sound}",
        "--autoplay-policy=no-user-gesture-required",
    ]


def _open(browser: Any, name: str, address: str, node: subprocess.Popen[bytes], folder: Path) -> Page:
    context = browser.new_context(viewport=VIEWPORT, permissions=["camera", "microphone"])
    context.add_init_script(path=HERE / "probe.js")
    page = Page(name, context.new_page(), node, folder)
    page.page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.page.on("console", lambda said: page.errors.append(said.text) if said.type == "error" else None)
    page.page.on("websocket", lambda live: live.on("framereceived", lambda frame: _note_numbers(page, frame)))
    page.page.goto(address)
    return page


def _note_numbers(page: Page, frame: str | bytes) -> None:
    if isinstance(frame, str) and (message := json.loads(frame))["type"] == "numbers" and "counted_at" in message:
        page.told.append(message)


def _is_shown(told: dict[str, Any], texts: Sequence[str]) -> bool:
    """Whether the two texts are these numbers, rounded to a decimal one way or the other."""
    return all(abs(float(text) - told[name]) < 0.06 for text, name in zip(texts, ("out_kbps", "in_kbps"), strict=True))


def _kilocall(log: Path, *arguments: str, link: str = "") -> subprocess.Popen[bytes]:
    with open_private(log) as file:
        return subprocess.Popen(
            [sys.executable, "-m", "kilocall.cli", *arguments],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "KILOCALL_CACHE": str(log.with_suffix(".cache")),
                ROOM_VARIABLE: link,
            },
            stdout=file,
            stderr=subprocess.STDOUT,
            # Linux shares the processor between sessions: a browser has one of its own, and so has a user's terminal.
            start_new_session=True,
        )


def _said(process: subprocess.Popen[bytes], log: Path, pattern: str) -> str:
    """The last group of the first match in what it has written."""
    end = time.monotonic() + START_WITHIN_S
    while process.poll() is None and time.monotonic() < end:
        found = re.search(pattern, log.read_text())
        if found:
            return found[found.re.groups]
        time.sleep(0.1)
    raise BadInput(f"a part of the call did not start: {log.read_text()[-500:]}")


def wait_for(condition: Any, what: str, within_s: float = START_WITHIN_S) -> None:
    """Raises BadInput when `condition()` is not true in time."""
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end:
            raise BadInput(f"two pages: {what} did not happen within {within_s:.0f} s")
        time.sleep(0.1)


def start_probes(pages: dict[str, Page]) -> None:
    """Waits until both see each other and have sound, then listens."""
    for page in pages.values():
        wait_for(lambda page=page: page.ask("kilocall.stats().drawn > 5"), f"a picture for {page.name}")
        wait_for(lambda page=page: page.ask("document.querySelector('audio').srcObject !== null"), "a sound")
        page.ask("kilocallProbe.listen()")


# Lips and sound


def heard_and_seen(speaker: Page, listener: Page, from_ms: float) -> LipSync:
    """What the probes of a call with `speaking_clip` have noted since then. BadInput when too little."""

    def sounds(page: Page, name: str) -> NDArray[np.float64]:
        return np.array([when for (when,) in page.probe(name) if when >= from_ms])

    return lip_sync(
        openings(speaker.pictures("cameraFrames"), from_ms),
        openings(listener.pictures("drawn"), from_ms),
        sounds(speaker, "spoken"),
        sounds(listener, "heard"),
        output_latency_ms=float(listener.ask("kilocallProbe.outputLatencyMs") or 0.0),
    )


# Both, as a measurement


@dataclass(frozen=True)
class Measured:
    """One call of two pages."""

    sync: LipSync
    shown_kbps: tuple[float, float]
    """Sent and received, as the speaker's page says."""
    wire_kbps: tuple[float, float] | None
    """The same seconds, counted on the loopback; None without root."""


def measure(folder: Path, *, seconds: float, fps: int) -> Measured:
    """A call between `speaking_clip` and a silent listener whose picture hardly moves, both on this machine."""
    family = load_family(engine=choose_engine("auto", 1))
    assert isinstance(family, CompactFamily)  # the default one
    camera, sound = speaking_clip(folder, family, fps=fps, side=320)
    still = [np.asarray(cv2.resize(perform.portrait(), (320, 320)), np.uint8)] * 8
    write_camera(folder / "still.y4m", still, 2)
    write_beeps(folder / "still.wav", [], 0.0, CLIP_S)
    devices = {"speaker": (camera, sound), "listener": (folder / "still.y4m", folder / "still.wav")}
    with two_pages(folder, devices) as pages:
        start_probes(pages)
        speaker, listener = pages["speaker"], pages["listener"]
        wire = WireCount(speaker.udp_ports(), listener.udp_ports()) if os.geteuid() == 0 else None
        speaker.page.wait_for_timeout(1000 * SETTLE_S)
        began = time.time()
        speaker.page.wait_for_timeout(1000 * seconds)
        out, into, first, last = speaker.numbers(began, math.inf)
        counted = wire.kbps(first, last) if wire is not None else None
        if wire is not None:
            wire.close()
        return Measured(heard_and_seen(speaker, listener, 1000 * began), (out, into), counted)


def report(measured: Measured) -> list[tuple[str, str]]:
    """Lines to print: what, and how much."""

    def spread(values: NDArray[np.float64]) -> str:
        low, middle, high = np.percentile(values, (5, 50, 95))
        return f"{middle:.0f} ms median, {low:.0f} to {high:.0f} for 9 in 10"

    sync = measured.sync
    lines = [
        ("openings of the mouth", f"{len(sync.offset_ms)}"),
        ("camera to canvas", spread(sync.picture_ms)),
        ("microphone to loudspeaker", f"{spread(sync.sound_ms)}; {sync.output_latency_ms:.0f} of it after the page"),
        ("sound after lips", spread(sync.offset_ms)),
        ("apart", f"at most {np.percentile(np.abs(sync.offset_ms), 90):.0f} ms for 9 in 10"),
        ("shown on the page", "{:.2f} kbit/s out, {:.2f} in".format(*measured.shown_kbps)),
    ]
    if measured.wire_kbps is not None:
        lines.append(("counted on the wire", "{:.2f} kbit/s out, {:.2f} in".format(*measured.wire_kbps)))
    return lines
