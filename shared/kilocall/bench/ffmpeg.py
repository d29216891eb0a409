"""The ffmpeg program that encodes, decodes and measures for the bench.

The package imageio-ffmpeg carries one with every encoder that is compared and with libvmaf, so that the same build
runs everywhere; the environment variable IMAGEIO_FFMPEG_EXE names another one.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from kilocall.proto.errors import BadInput

__all__ = ["Ffmpeg", "find_ffmpeg"]

_QUIET: Final = ("-hide_banner", "-nostdin", "-loglevel", "error", "-y")


@dataclass(frozen=True)
class Ffmpeg:
    """One ffmpeg binary and what it was built with."""

    path: Path
    version: str
    encoders: frozenset[str]
    filters: frozenset[str]

    def run(self, arguments: Sequence[str], *, folder: Path, stdin: bytes = b"", timeout_s: float = 600) -> bytes:
        """Runs `ffmpeg ARGUMENTS` in `folder` and gives its stdout. BadInput with ffmpeg's last words if it fails."""
        # Where it reads pictures from stdin, -nostdin only keeps it from taking them for key strokes.
        command = [str(self.path), *_QUIET, *arguments]
        try:
            done = subprocess.run(command, input=stdin, capture_output=True, cwd=folder, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise BadInput(f"ffmpeg {' '.join(arguments)}: no end within {timeout_s:.0f} s") from error
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be started ({error})") from error
        if done.returncode:
            said = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
            raise BadInput(f"ffmpeg ended with code {done.returncode}: {'; '.join(said[-3:]) or 'it said nothing'}")
        return done.stdout


@cache
def find_ffmpeg() -> Ffmpeg:
    """The ffmpeg of imageio-ffmpeg; BadInput when the package is missing or its program cannot be started."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError as error:
        raise BadInput("imageio-ffmpeg is not installed: pip install 'kilocall[bench]'") from error
    try:
        path = Path(get_ffmpeg_exe())
    except RuntimeError as error:
        raise BadInput(f"imageio-ffmpeg found no ffmpeg: {error}") from error
    return Ffmpeg(path, _words(path, "-version")[0][2], _names(path, "-encoders"), _names(path, "-filters"))


def _names(path: Path, what: str) -> frozenset[str]:
    return frozenset(words[1] for words in _words(path, what) if len(words) > 2)


def _words(path: Path, what: str) -> list[list[str]]:
    try:
        done = subprocess.run([path, "-hide_banner", what], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BadInput(f"{path}: cannot be asked for {what} ({error})") from error
    return [line.split() for line in done.stdout.splitlines()]
