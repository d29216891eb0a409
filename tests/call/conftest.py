"""What tests of calls share."""

from __future__ import annotations

from pathlib import Path

import pytest

from kilocall.bench.network import Side


@pytest.fixture(scope="session")
def cameras(astronaut_clip: Path, drawing_clip: Path) -> dict[Side, str]:
    """The built-in speakers, as each of two parties' camera."""
    return {"a": str(astronaut_clip), "b": str(drawing_clip)}
