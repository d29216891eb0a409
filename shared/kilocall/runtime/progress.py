"""How far a long piece of work is, told to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress", "silent"]

Progress = Callable[[int, int | None], None]
"""Called with what is done and, where it is known, of how much."""


def silent(done: int, total: int | None) -> None:
    """Shows nothing."""
