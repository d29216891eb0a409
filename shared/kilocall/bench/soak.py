"""A long call between the built-in speakers, watched from outside: does memory, delay or anything else grow?

Signalling server, both parties and the processes that those start are looked at once a minute; delay and pictures a
second of each minute come from the parties' reports. Memory is judged by a straight line through what follows the
warm-up.
"""

from __future__ import annotations

import csv
import io
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

import numpy as np
import psutil
from pydantic import BaseModel

from kilocall.bench.call import START_WITHIN_S, TwoParties
from kilocall.bench.network import SIDES
from kilocall.call.report import CallReport
from kilocall.runtime.files import check_output_folder, write_whole

__all__ = ["Growth", "Look", "ProcessSoak", "SoakReport", "growth", "measure_soak"]

EVERY_S: Final = 60.0
#: Caches, allocators and further pictures of the speaker have filled by then (eight of them take two minutes).
WARM_UP_S: Final = 240.0
#: A call of a day then grows by less than half of what it begins with.
FLAT_MIB_PER_HOUR: Final = 10.0
#: Looks that a line needs.
LEAST_LOOKS: Final = 5
MIB: Final = 1 << 20

Verdict = Literal["flat", "grows", "unclear", "too short"]


class _Held(TypedDict):
    memory_mib: float
    threads: int
    open_files: int


class Look(BaseModel):
    """A process at one moment, and what its party saw in the minute before."""

    seconds: float
    """Since both saw each other."""
    process: str
    """ "meeting", "a", "b", or "a: children" for the sum of those that "a" has started."""
    memory_mib: float
    """Resident."""
    threads: int
    open_files: int
    """Sockets included; on Windows handles of every kind."""
    delay_p50_ms: float | None = None
    """From capture to picture; of a party alone, like the next two."""
    delay_p95_ms: float | None = None
    fps_in: float | None = None


class Growth(BaseModel):
    """A straight line through the memory of a process after the warm-up."""

    mib_per_hour: float
    error_mib_per_hour: float
    """Twice the standard error: what looks as uneven as these would vary by."""
    verdict: Verdict


class ProcessSoak(BaseModel):
    """One process over the whole call."""

    growth: Growth | None
    """None: too few looks after the warm-up."""
    looks: list[Look]


class SoakReport(BaseModel):
    """`report.json` of the soak."""

    date: str
    cores: int
    minutes: float
    options: list[str]
    processes: dict[str, ProcessSoak]
    calls: dict[str, CallReport]

    @property
    def verdict(self) -> Verdict:
        """Of all processes together: the worst that one of them has."""
        found = {"too short" if one.growth is None else one.growth.verdict for one in self.processes.values()}
        worst: Verdict
        for worst in ("grows", "unclear", "too short"):
            if worst in found:
                return worst
        return "flat"

    @property
    def sentence(self) -> str:
        """The verdict for people."""
        bound = f"{FLAT_MIB_PER_HOUR:g} MiB an hour"
        return {
            "flat": f"memory is flat: no process grows by more than {bound}",
            "grows": f"memory grows by more than {bound}",
            "unclear": f"memory varies too much to tell whether it grows by more than {bound}; let them talk longer",
            "too short": f"too short to tell whether memory grows: the first {WARM_UP_S / 60:g} minutes do not count",
        }[self.verdict]


def growth(looks: Sequence[Look], warm_up_s: float = WARM_UP_S) -> Growth | None:
    """Memory an hour by least squares, and whether that is more than FLAT_MIB_PER_HOUR as far as can be told."""
    points = [(look.seconds / 3600, look.memory_mib) for look in looks if look.seconds >= warm_up_s]
    if len(points) < LEAST_LOOKS:
        return None
    hours, memory = np.array(points, np.float64).T
    (slope, _), covariance = np.polyfit(hours, memory, 1, cov=True)
    error = 2 * float(np.sqrt(covariance[0, 0]))
    verdict: Verdict = "unclear"
    if slope + error <= FLAT_MIB_PER_HOUR:
        verdict = "flat"
    elif slope - error > FLAT_MIB_PER_HOUR:
        verdict = "grows"
    return Growth(mib_per_hour=float(slope), error_mib_per_hour=error, verdict=verdict)


def measure_soak(
    minutes: float,
    out: Path,
    *,
    options: Sequence[str] = (),
    engine: str = "auto",
    every_s: float = EVERY_S,
    progress: Callable[[int, int | None], None] = lambda seconds, of: None,
) -> SoakReport:
    """Runs the call and writes report.json, soak.csv and, with matplotlib, soak.png to `out`. Raises BadInput."""
    check_output_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    seconds = 60 * minutes
    looks: list[Look] = []
    # The parties are ended from here, so that the last look finds them.
    with TwoParties(out, seconds=seconds + 2 * START_WITHIN_S, options=options, keep=False, engine=engine) as call:
        call.until_seen()
        began = time.monotonic()
        for number in range(1 + int(seconds // every_s)):
            while (now_s := time.monotonic() - began) < number * every_s:
                call.check_running()
                progress(round(now_s), round(seconds))
                time.sleep(0.2)
            looks += _look(call, now_s)
        call.check_running()
        progress(round(seconds), round(seconds))
    calls: dict[str, CallReport] = {side: call.report(side) for side in SIDES}
    for look in looks:
        if look.process in calls:
            _add_minute(look, calls[look.process])
    names = dict.fromkeys(look.process for look in looks)
    of = {name: [look for look in looks if look.process == name] for name in names}
    report = SoakReport(
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
        cores=os.cpu_count() or 1,
        minutes=minutes,
        options=list(options),
        processes={name: ProcessSoak(growth=growth(mine), looks=mine) for name, mine in of.items()},
        calls=calls,
    )
    write_whole(out / "report.json", (report.model_dump_json(indent=2) + "\n").encode())
    write_whole(out / "soak.csv", _csv(looks).encode())
    _draw(out / "soak.png", report)
    return report


def _look(call: TwoParties, seconds: float) -> Iterator[Look]:
    for name, pid in call.pids.items():
        process = psutil.Process(pid)
        yield Look(seconds=seconds, process=name, **_holds(process))
        children = Look(seconds=seconds, process=f"{name}: children", memory_mib=0, threads=0, open_files=0)
        for child in process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it may end at any moment and be started anew
                held = _holds(child)
                children.memory_mib += held["memory_mib"]
                children.threads += held["threads"]
                children.open_files += held["open_files"]
        if name != "meeting":
            yield children


def _holds(process: psutil.Process) -> _Held:
    with process.oneshot():
        return {
            "memory_mib": process.memory_info().rss / MIB,
            "threads": process.num_threads(),
            "open_files": _open_files(process),
        }


def _open_files(process: psutil.Process) -> int:
    # Each is there on its own systems alone.
    if sys.platform == "win32":
        return process.num_handles()
    return process.num_fds()


def _add_minute(look: Look, call: CallReport) -> None:
    """What the party saw in the minute that ends with this look; both count from the first pictures."""
    number = math.ceil(round(look.seconds) / 60) - 1
    if 0 <= number < len(call.minutes):
        minute = call.minutes[number]
        look.delay_p50_ms, look.delay_p95_ms, look.fps_in = minute.delay_p50_ms, minute.delay_p95_ms, minute.fps_in


def _csv(looks: Sequence[Look]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Look.model_fields), lineterminator="\n")
    writer.writeheader()
    for look in looks:
        row = look.model_dump()
        writer.writerow({name: round(value, 2) if isinstance(value, float) else value for name, value in row.items()})
    return text.getvalue()


def _draw(path: Path, report: SoakReport) -> None:
    """What is in the CSV, over the minutes; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows: list[tuple[str, list[tuple[str, Callable[[Look], float | None]]]]] = [
        ("memory, MiB", [("", lambda look: look.memory_mib)]),
        ("threads", [("", lambda look: look.threads)]),
        ("open files", [("", lambda look: look.open_files)]),
        ("delay, ms", [(" median", lambda look: look.delay_p50_ms), (" 95 %", lambda look: look.delay_p95_ms)]),
        ("pictures a second", [("", lambda look: look.fps_in)]),
    ]
    figure: Any
    figure, axes = pyplot.subplots(len(rows), 1, sharex=True, figsize=(8, 11))
    for axis, (title, lines) in zip(axes, rows, strict=True):
        for name, process in report.processes.items():
            for suffix, value in lines:
                points = [(look.seconds / 60, found) for look in process.looks if (found := value(look)) is not None]
                if points:
                    axis.plot(*zip(*points, strict=True), label=name + suffix, linewidth=1)
        axis.set_ylabel(title)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="x-small", loc="lower right")
    axes[-1].set_xlabel("minutes")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
