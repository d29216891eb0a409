"""What a check found, line by line: for the terminal and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Finding", "Section", "State"]

State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Finding:
    """One line. "missing" is something optional that is absent; "broken" stops kilocall from working."""

    name: str
    value: str
    state: State = "ok"
    milliseconds: dict[str, float] = field(default_factory=dict)  # of one run of each network, of engines only


@dataclass(frozen=True)
class Section:
    title: str
    findings: tuple[Finding, ...]
