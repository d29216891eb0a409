"""A call of two processes and a signalling server in a third, each with a film for its camera."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from kilocall.call import ROOM_VARIABLE
from kilocall.call.link import RoomAddress
from kilocall.call.report import CallReport
from kilocall.proto.trust import LinkSecret

__all__ = ["ROOM", "Finished", "call_of_two"]

ROOT = Path(__file__).parents[2]
ROOM = "test"
#: For loading, meeting and closing, on a slow machine.
BESIDE_S = 42


@dataclass
class Finished:
    """How the call ended, by party."""

    codes: dict[str, int]
    reports: dict[str, CallReport]
    output: dict[str, str]
    server_code: int
    folder: Path


def call_of_two(folder: Path, cameras: dict[str, Path], seconds: float, *arguments: str) -> Finished:
    """Reports and kept pictures are in `folder` under the parties' names."""
    server, address = _serve(folder)
    link = RoomAddress(address, ROOM, LinkSecret.make()).link
    nodes: dict[str, subprocess.Popen[str]] = {}
    try:
        for name, camera in cameras.items():
            nodes[name] = _kilocall(
                folder / f"cache_{name}",
                *("call", "--headless", "--camera", str(camera), "--seconds", str(seconds)),
                *("--report", str(folder / f"{name}.json"), "--keep-pictures", str(folder / name)),
                *arguments,
                link=link,
            )
        output = {name: node.communicate(timeout=seconds + BESIDE_S)[0] for name, node in nodes.items()}
    finally:
        for process in nodes.values():
            process.kill()
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=10)
    codes = {name: node.returncode for name, node in nodes.items()}
    assert set(codes.values()) == {0}, output
    reports = {name: CallReport.model_validate_json((folder / f"{name}.json").read_text()) for name in cameras}
    return Finished(codes, reports, output, server.returncode, folder)


def _environment(cache: Path) -> dict[str, str]:
    roots = [str(ROOT / root) for root in ("sender", "receiver", "shared", "proto")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(roots), "OMP_NUM_THREADS": "1", "KILOCALL_CACHE": str(cache)}


def _kilocall(cache: Path, *arguments: str, link: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kilocall.cli", *arguments],
        env={**_environment(cache), ROOM_VARIABLE: link},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _serve(folder: Path) -> tuple[subprocess.Popen[str], str]:
    server = _kilocall(folder, "serve", "--port", "0")
    assert server.stdout is not None
    said = server.stdout.readline()
    address = re.search(r"http://[\d.]+:\d+", said)
    if address is None:
        server.kill()
        pytest.fail(f"the meeting point did not start: {said}{server.communicate()[0]}")
    return server, address.group()
