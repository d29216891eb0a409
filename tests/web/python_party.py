"""A whole `kilocall call` in a process of its own, for a browser to meet."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from kilocall.call import ROOM_VARIABLE
from kilocall.call.report import CallReport

__all__ = ["PythonParty", "python_party"]

ROOT: Final = Path(__file__).parents[2]


class PythonParty:
    """That one call."""

    def __init__(self, node: subprocess.Popen[str], report: Path, said: list[str]) -> None:
        self._node, self._report, self._said = node, report, said

    def end(self) -> None:
        """Nobody is there to hang up on that side: it would wait for the other to come back."""
        self._node.terminate()
        self._node.wait(60)

    def told(self) -> CallReport:
        """Once it has ended, as it should."""
        assert self._node.returncode == 0, "".join(self._said)
        return CallReport.model_validate_json(self._report.read_text())


@contextmanager
def python_party(link: str, clip: Path, folder: Path) -> Iterator[PythonParty]:
    """With a clip for a camera; `folder` gets its cache and its report."""
    roots = os.pathsep.join(str(ROOT / root) for root in ("sender", "receiver", "shared", "proto"))
    report = folder / "report.json"
    options = ["call", "--headless", "--camera", str(clip), "--seconds", "300", "--report", str(report)]
    node = subprocess.Popen(
        [sys.executable, "-m", "kilocall.cli", *options],
        env={**os.environ, "PYTHONPATH": roots, "KILOCALL_CACHE": str(folder), ROOM_VARIABLE: link},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # Its pipe is read, or it would stand still when that is full.
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(node.stdout or ()))
    reader.start()
    try:
        yield PythonParty(node, report, said)
    finally:
        node.kill()
        node.wait()
        reader.join()
        assert node.stdout is not None
        node.stdout.close()
