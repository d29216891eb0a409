"""What a correction is: a change to one package that can be taken back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Correction", "Undo", "replace"]

Undo = Callable[[], None]


@dataclass(frozen=True)
class Correction:
    """A change to one package that can be taken back."""

    name: str
    package: str
    put: Callable[[], Undo]
    """Puts it in force and returns how to undo that."""


def replace(owner: Any, **new: Any) -> Undo:
    """Sets attributes of a class or module, and returns how to set the old ones again."""
    old = {name: getattr(owner, name) for name in new}
    for name, value in new.items():
        setattr(owner, name, value)

    def undo() -> None:
        for name, value in old.items():
            setattr(owner, name, value)

    return undo
