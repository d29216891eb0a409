"""A call between the two built-in speakers on this machine: signalling server, two nodes, two pages, live numbers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from kilocall.call import ROOM_VARIABLE
from kilocall.call.link import RoomAddress
from kilocall.call.report import CallReport
from kilocall.proto.errors import BadInput
from kilocall.proto.trust import LinkSecret
from kilocall.runtime.browser import open_in_browser
from kilocall.runtime.files import open_private
from kilocall.sample import NAMES, sample_clip

__all__ = ["DemoCall", "demo_call"]

START_WITHIN_S: Final = 60.0
END_WITHIN_S: Final = 10.0
SHOWN: Final = (
    ("phase", "connection"),
    ("out_kbps", "kbit/s out, everything counted"),
    ("out_motion_kbps", "  of it video"),
    ("h264_kbps", "  H.264 would need"),
    ("payload_bits_per_frame", "bits a frame"),
    ("fps_out", "frames a second out"),
    ("fps_in", "pictures a second in"),
    ("delay_ms", "delay, ms"),
    ("loss_pct", "loss, %"),
    ("sender_ms", "finding the face, ms"),
    ("render_ms", "making the picture, ms"),
)


@dataclass
class DemoCall:
    """How it went: a report for each speaker."""

    pages: dict[str, str] = field(default_factory=dict)
    """Addresses, with the keys that open them."""
    reports: dict[str, CallReport] = field(default_factory=dict)


def demo_call(
    seconds: float, folder: Path, *, browser: bool = False, engine: str = "auto", saver: bool = False
) -> DemoCall:
    """Runs a call of the two sample clips for so long, or until Ctrl-C, and prints links and live numbers.

    Clips and reports go to `folder`. With `browser` both pages are opened. Raises BadInput when a part does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clips = {name: sample_clip(name, folder, engine=engine) for name in NAMES}
    return asyncio.run(_run(seconds, folder, clips, browser=browser, engine=engine, saver=saver))


async def _run(
    seconds: float, folder: Path, clips: dict[str, Path], *, browser: bool, engine: str, saver: bool
) -> DemoCall:
    console = Console(stderr=True, highlight=False)
    room = RoomAddress(f"http://127.0.0.1:{_free_port()}", "demo", LinkSecret.make())
    call = DemoCall()
    processes: list[asyncio.subprocess.Process] = []
    stopped = asyncio.Event()
    # An exception out of a signal handler would leave the programs that are started here running.
    with suppress(NotImplementedError, RuntimeError):
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        processes.append(await _start(folder / "serve.log", "serve", "--port", room.server.rsplit(":", 1)[1]))
        for name, clip in clips.items():
            options = ["--camera", str(clip), "--port", "0", "--no-open"]
            options += ["--report", str(folder / f"call_{name}.json"), "--engine", engine]
            options += ["--recordings", str(folder), *(["--saver"] if saver else [])]
            processes.append(await _start(folder / f"call_{name}.log", "call", *options, link=room.link))
        for name, process in zip(clips, processes[1:], strict=True):
            call.pages[name] = await _page_of(process, folder / f"call_{name}.log")
        console.print(Text(f"room, full with these two: {room.link}"), soft_wrap=True)
        for name, page in call.pages.items():
            console.print(Text(f"{name}'s page: {page}"), soft_wrap=True)
        numbers: dict[str, dict[str, Any]] = {name: {} for name in clips}
        viewers = {
            asyncio.create_task(_watch(page, numbers[name], hidden=browser), name=name)
            for name, page in call.pages.items()
        }
        try:
            await _until_both_see(numbers, processes, folder, stopped)
            if browser:
                for page in call.pages.values():
                    open_in_browser(page)
            live = Live(console=console, get_renderable=lambda: _table(numbers), refresh_per_second=2, transient=True)
            with live, suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), seconds)
            console.print(_table(numbers))
        finally:
            for viewer in viewers:
                viewer.cancel()
            await asyncio.wait(viewers)
    finally:
        await _end(processes)
    for name in clips:
        with suppress(OSError):
            call.reports[name] = CallReport.model_validate_json((folder / f"call_{name}.json").read_text())
    return call


async def _start(log: Path, verb: str, *options: str, link: str = "") -> asyncio.subprocess.Process:
    # One thread in every library beside the engine's own: two nodes share the cores.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", ROOM_VARIABLE: link}
    with open_private(log) as out:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kilocall.cli", verb, *options, stdout=out, stderr=out, env=environment
        )


async def _page_of(process: asyncio.subprocess.Process, log: Path) -> str:
    loop = asyncio.get_running_loop()
    until = loop.time() + START_WITHIN_S
    while True:
        said = await asyncio.to_thread(log.read_text, errors="replace")
        found = re.search(r"page: (\S+)\n", said)
        if found:
            return found[1]
        if process.returncode is not None or loop.time() > until:
            raise BadInput(f"the demo call did not start: {said[-300:]}")
        await asyncio.sleep(0.1)


async def _watch(page: str, numbers: dict[str, Any], *, hidden: bool) -> None:
    """Is one more viewer of a page's server; without it, or a browser, nothing would be rendered."""
    address, _, key = page.partition("/#")
    live_address, headers = address.replace("http://", "ws://") + "/live", {"Authorization": f"Bearer {key}"}
    while True:
        try:
            async with connect(live_address, additional_headers=headers, max_size=1 << 20) as live:
                if hidden:
                    await live.send(json.dumps({"type": "visible", "on": False}))
                async for message in live:
                    if isinstance(message, bytes):
                        numbers["pictures"] = numbers.get("pictures", 0) + (message[0] == 1)
                        continue
                    told = json.loads(message)
                    if told["type"] in ("numbers", "state"):
                        numbers.update(told)
        except (OSError, TimeoutError, ConnectionClosed, InvalidHandshake):
            pass
        await asyncio.sleep(0.2)  # not there yet, or no more


async def _until_both_see(
    numbers: dict[str, dict[str, Any]],
    processes: list[asyncio.subprocess.Process],
    folder: Path,
    stopped: asyncio.Event,
) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + START_WITHIN_S
    while not all(of.get("phase") == "open" for of in numbers.values()):
        failed = [process for process in processes if process.returncode is not None]
        if failed or loop.time() > until:
            logs = await asyncio.to_thread(_last_words, folder)
            raise BadInput(f"the demo call did not start ({'a part ended' if failed else 'too slow'}): {logs}")
        with suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), 0.1)
            return


def _last_words(folder: Path) -> str:
    return " ".join(log.read_text(errors="replace")[-300:] for log in sorted(folder.glob("*.log")))


async def _end(processes: list[asyncio.subprocess.Process]) -> None:
    for process in reversed(processes):
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            await asyncio.wait_for(process.wait(), END_WITHIN_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def _table(numbers: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="call", title_justify="left", title_style="bold")
    table.add_column("")
    for name in numbers:
        table.add_column(name, justify="right")
    for key, text in SHOWN:
        table.add_row(text, *(_cell(of.get(key)) for of in numbers.values()))
    return table


def _cell(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else "-" if value is None else str(value)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
