"""What tests of several folders share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, and no time limit for one: a busy machine is no defect of the code.
settings.register_profile("kilocall", deadline=None, derandomize=True)
settings.load_profile("kilocall")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def clips() -> Path:
    """A folder with `test/` and `raw/` clips of people, which the project does not ship: KILOCALL_CLIPS names it."""
    named = os.environ.get("KILOCALL_CLIPS")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no clips of people at {folder}; KILOCALL_CLIPS can name such a folder")
    return folder
