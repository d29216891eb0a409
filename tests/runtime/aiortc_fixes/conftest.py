"""Every test begins and ends with all corrections in force."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kilocall.runtime import aiortc_fixes
from kilocall.runtime.aiortc_fixes import apply, in_force, withdraw


@pytest.fixture(autouse=True)
def _all_in_force() -> Iterator[None]:
    apply()
    yield
    apply()


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Takes one correction back for the test; Peer does not put it in force again."""

    def take_back(name: str) -> None:
        withdraw(name)
        monkeypatch.setattr(aiortc_fixes, "apply", in_force)

    return take_back
