"""Programs of this package that are started as processes of their own."""

from __future__ import annotations

import os
import sys

__all__ = ["module_command", "same_modules"]


def module_command(module: str, *arguments: str) -> list[str]:
    """Runs a module by name, without those that happen to lie in the working folder."""
    return [sys.executable, "-P", "-m", module, *arguments]


def same_modules() -> dict[str, str]:
    """An environment in which another Python finds the modules that this one has, wherever they came from."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
