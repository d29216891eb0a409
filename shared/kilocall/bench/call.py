"""A call between the built-in speakers as three processes, for measuring: on the loopback or over a bad network.

The signalling server and both parties run as anybody would run them, `kilocall serve` and `kilocall call --headless`.
`measure_call` lets them talk for minutes and says whether anything grows.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Literal, Protocol, Self

import numpy as np
from pydantic import BaseModel

from kilocall.bench.network import SIDES, BadNetwork, Side, Way, why_unavailable
from kilocall.bench.slower_cores import slower_cores
from kilocall.bench.slower_cores import why_unavailable as why_not_slower
from kilocall.call import ROOM_VARIABLE
from kilocall.call.link import RoomAddress
from kilocall.call.report import CallReport, Sample
from kilocall.proto.errors import BadInput
from kilocall.proto.motion_packet import TIMES_MS
from kilocall.proto.trust import LinkSecret
from kilocall.receiver.video_file import VideoFile
from kilocall.runtime.files import check_output_folder, write_whole
from kilocall.sample import NAMES, sample_clip

__all__ = [
    "CallBenchReport",
    "Party",
    "PartyReport",
    "Shown",
    "TwoParties",
    "empty_room",
    "longest_gap_ms",
    "measure_call",
    "slope",
]

ROOM: Final = "bench"
START_WITHIN_S: Final = 60.0
END_WITHIN_S: Final = 15.0
#: Caches and allocators have filled by then; slopes are taken of what follows.
WARM_UP_S: Final = 60.0


@dataclass(frozen=True)
class Shown:
    """One picture that was shown."""

    time_us: int
    """Capture; both on the machine's monotonic clock."""
    made_us: int


class Party:
    """One process and what it says."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._log = log
        self._said: list[str] = []
        self._news = threading.Condition()
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._reader.start()

    @property
    def said(self) -> str:
        """All of its output so far."""
        with self._news:
            return "".join(self._said)

    def wait_for(self, pattern: str, within_s: float) -> re.Match[str]:
        """The first place in the output that matches. Raises BadInput with the output when none comes."""
        until = time.monotonic() + within_s
        with self._news:
            while True:
                found = re.search(pattern, "".join(self._said))
                if found is not None:
                    return found
                left_s = until - time.monotonic()
                if left_s <= 0 or not (self._reader.is_alive() or self.process.poll() is None):
                    said = "".join(self._said)[-600:]
                    raise BadInput(f"{self._log.stem} did not say {pattern!r} within {within_s:g} s: {said}")
                self._news.wait(min(left_s, 0.5))

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Asks it to end, or kills it, and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(2.0)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return self.process.returncode

    def _read(self, output: IO[str]) -> None:
        with self._log.open("w") as log:
            for line in output:
                log.write(line)
                log.flush()
                with self._news:
                    self._said.append(line)
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()


class Network(Protocol):
    """Where signalling server, "a" and "b" live when it is not the loopback."""

    @property
    def meeting_host(self) -> str:
        """Address of the signalling server, for itself and for both parties."""

    def inside(self, place: Side | Literal["meeting"], command: Sequence[str], /) -> list[str]:
        """`command` as it must be started to run there."""


class TwoParties:
    """Signalling server, "a" and "b"; a context manager.

    `seconds` is how long each party stays at most, `options` what both get beside it, `serve` what the signalling
    server gets. Pictures are kept when `keep` is set: `shown` then says when each was made, and folder/SIDE has some of
    them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seconds: float,
        network: Network | None = None,
        options: Sequence[str] = (),
        serve: Sequence[str] = (),
        cameras: dict[Side, str] | None = None,
        keep: bool = True,
        engine: str = "auto",
    ) -> None:
        self.folder, self.network = folder, network
        self.parties: dict[Side, Party] = {}
        self._seconds, self._options, self._keep, self._engine = seconds, tuple(options), keep, engine
        self._serve = tuple(serve)
        self._cameras = cameras
        self._server: Party | None = None
        self._secret = LinkSecret.make()
        self._address = ""

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            cameras = self._cameras or {
                side: str(sample_clip(name, self.folder, engine=self._engine, threads=1))
                for side, name in zip(SIDES, NAMES, strict=True)
            }
            host = self.network.meeting_host if self.network is not None else "127.0.0.1"
            self._server = self._start("meeting", ["serve", "--host", host, "--port", "0", *self._serve])
            self._address = self._server.wait_for(r"http://[\d.]+:\d+", START_WITHIN_S).group()
            for side in SIDES:
                self._join(side, cameras[side])
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all that still runs."""
        for party in self.parties.values():
            if party.process.poll() is None:
                party.process.send_signal(signal.SIGINT)
        for party in self.parties.values():
            party.end()
        if self._server is not None:
            self._server.end()

    def until_seen(self, within_s: float = START_WITHIN_S) -> None:
        """Waits until both show the other side's picture."""
        for party in self.parties.values():
            party.wait_for("first picture of the other side", within_s)

    @property
    def pids(self) -> dict[str, int]:
        """Of the signalling server and both parties, by name."""
        return {name: party.process.pid for name, party in self._named().items()}

    def check_running(self) -> None:
        """Raises BadInput with the last words of one that has ended."""
        for name, party in self._named().items():
            if party.process.poll() is not None:
                raise BadInput(f"{name} ended with code {party.process.returncode}: {party.said[-400:]}")

    def report(self, side: Side) -> CallReport:
        """Of a party that has ended by itself or was asked to."""
        return CallReport.model_validate_json((self.folder / f"{side}.json").read_text())

    def shown(self, side: Side) -> list[Shown]:
        """What this side showed of the other, in order."""
        pairs: list[tuple[int, int]] = json.loads((self.folder / side / "shown.json").read_text())
        # Packets count milliseconds modulo 65.5 s; no picture is that old.
        wrap_us = 1000 * TIMES_MS
        return [Shown(made_us - (made_us - time_us) % wrap_us, made_us) for time_us, made_us in pairs]

    def _named(self) -> dict[str, Party]:
        named: dict[str, Party] = {} if self._server is None else {"meeting": self._server}
        return named | {str(side): party for side, party in self.parties.items()}

    def _join(self, side: Side, camera: str) -> None:
        arguments = ["call", "--headless", "--verbose"]
        arguments += ["--camera", camera, "--seconds", str(self._seconds), "--engine", self._engine]
        arguments += ["--report", str(self.folder / f"{side}.json"), *self._options]
        if self._keep:
            arguments += ["--keep-pictures", str(self.folder / side)]
        self.parties[side] = self._start(side, arguments)

    def _start(self, name: Side | Literal["meeting"], arguments: list[str]) -> Party:
        command = [sys.executable, "-m", "kilocall.cli", *arguments]
        if self.network is not None:
            command = self.network.inside(name, command)
        # One thread in every library beside the engine's own: both parties share the cores.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        environment |= {"KILOCALL_CACHE": str(self.folder / f"cache_{name}"), "COLUMNS": "200"}
        environment[ROOM_VARIABLE] = RoomAddress(self._address, ROOM, self._secret).link
        return Party(command, environment, self.folder / f"{name}.log")


def empty_room(folder: Path) -> Path:
    """A clip in which there is nobody."""
    path = folder / "empty_room.mp4"
    wall = np.tile(np.linspace(90, 150, 256, dtype=np.uint8)[:, None, None], (1, 256, 3))
    with VideoFile(path, fps=Fraction(25), size=256) as video:
        for number in range(50):
            video.write(wall, number * 40_000)
    return path


def longest_gap_ms(shown: Sequence[Shown], from_us: int, until_us: int) -> float:
    """Longest time without a new picture between two moments, both ends included."""
    times = [from_us, *(one.made_us for one in shown if from_us <= one.made_us <= until_us), until_us]
    return max(later - earlier for earlier, later in pairwise(times)) / 1000


# --- The bench ---------------------------------------------------------------------------------------------------


class Link(BaseModel):
    """The network of a bench; all zero: the loopback."""

    loss: float = 0.0
    rate_kbps: float = 0.0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0

    @property
    def is_loopback(self) -> bool:
        return not (self.loss or self.rate_kbps or self.delay_ms or self.jitter_ms)

    @property
    def way(self) -> Way:
        return Way(self.loss, self.delay_ms / 1000, self.jitter_ms / 1000, 1000 * self.rate_kbps)


class PartyReport(BaseModel):
    """What one party saw."""

    call: CallReport
    memory_percent_per_hour: float | None
    """Slope of a straight line after the warm-up, as a share of its beginning; None in a short call."""
    delay_ms_per_hour: float | None


class CallBenchReport(BaseModel):
    """`report.json` of the bench."""

    date: str
    cores: int
    minutes: float
    link: Link
    options: list[str]
    idle: bool
    """Whether both cameras showed an empty room."""
    slower: float = 0
    """Share of each core that was taken away."""
    parties: dict[str, PartyReport]


def slope(samples: Sequence[Sample], value: Callable[[Sample], float | None]) -> tuple[float, float] | None:
    """A straight line through the samples after the warm-up: growth an hour, and where it begins."""
    points = [(one.seconds, found) for one in samples if one.seconds > WARM_UP_S and (found := value(one)) is not None]
    if len(points) < 4:
        return None
    seconds, values = np.array(points, np.float64).T
    a_second, offset = np.polyfit(seconds, values, 1)
    return float(3600 * a_second), float(offset + a_second * seconds[0])


def measure_call(
    minutes: float,
    out: Path,
    link: Link,
    *,
    options: Sequence[str] = (),
    idle: bool = False,
    slower: float = 0,
    engine: str = "auto",
    progress: Callable[[int, int | None], None] = lambda seconds, of: None,
) -> CallBenchReport:
    """Runs the call and writes report.json and, with matplotlib, call.png to `out`. Raises BadInput.

    `idle`: between two empty rooms, to see what a connection costs that carries nothing. `slower`: with this share of
    each core taken away.
    """
    if not link.is_loopback and (why := why_unavailable()) is not None:
        raise BadInput(f"a bad network cannot be made here: {why}")
    if slower and (why := why_not_slower()) is not None:
        raise BadInput(f"cores cannot be made slower here: {why}")
    check_output_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    cameras: dict[Side, str] | None = None
    if idle:
        cameras = dict.fromkeys(SIDES, str(empty_room(out)))
        options = ("--layer", "0", *options)  # with one the other side would be shown the room
    seconds = 60 * minutes
    network = None if link.is_loopback else BadNetwork(link.way)
    with (
        slower_cores(slower),
        network or nullcontext(),
        TwoParties(
            out, seconds=seconds, network=network, options=options, cameras=cameras, keep=False, engine=engine
        ) as call,
    ):
        until = time.monotonic() + seconds + START_WITHIN_S
        began = time.monotonic()
        while any(party.process.poll() is None for party in call.parties.values()):
            if time.monotonic() > until:
                raise BadInput(f"the call did not end within {seconds + START_WITHIN_S:.0f} s; see {out}/*.log")
            progress(min(round(seconds), round(time.monotonic() - began)), round(seconds))
            time.sleep(0.2)
        failed = {side: party for side, party in call.parties.items() if party.process.returncode}
        if failed:
            side, party = next(iter(failed.items()))
            raise BadInput(f"party {side} ended with code {party.process.returncode}: {party.said[-400:]}")
        parties: dict[str, PartyReport] = {side: _party_report(call.report(side)) for side in SIDES}
    report = CallBenchReport(
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
        cores=os.cpu_count() or 1,
        minutes=minutes,
        link=link,
        options=list(options),
        idle=idle,
        slower=slower,
        parties=parties,
    )
    write_whole(out / "report.json", (report.model_dump_json(indent=2) + "\n").encode())
    _draw(out / "call.png", report)
    return report


def _party_report(call: CallReport) -> PartyReport:
    memory = slope(call.samples, lambda sample: sample.memory_mib)
    delay = slope(call.samples, lambda sample: sample.delay_ms)
    return PartyReport(
        call=call,
        memory_percent_per_hour=None if memory is None else 100 * memory[0] / memory[1],
        delay_ms_per_hour=None if delay is None else delay[0],
    )


def _draw(path: Path, report: CallBenchReport) -> None:
    """Memory, delay, pictures a second and kbit/s over the call; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows: list[tuple[str, Callable[[Sample], float | None]]] = [
        ("memory, MiB", lambda sample: sample.memory_mib),
        ("delay, ms", lambda sample: sample.delay_ms),
        ("pictures a second", lambda sample: sample.fps_in),
        ("out, kbit/s", lambda sample: sample.out_kbps),
    ]
    figure: Any
    figure, axes = pyplot.subplots(len(rows), 1, sharex=True, figsize=(8, 9))
    for axis, (title, value) in zip(axes, rows, strict=True):
        for side, party in report.parties.items():
            points = [(s.seconds / 60, found) for s in party.call.samples if (found := value(s)) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), label=side, linewidth=1)
        axis.set_ylabel(title)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend()
    axes[-1].set_xlabel("minutes")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
