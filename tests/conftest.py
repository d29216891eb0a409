"""What tests of several folders share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from kilocall.api import StreamPlayer, open_family
from kilocall.model.family import Family
from kilocall.sample import sample_stream

# The same examples in every run, and no time limit for one: a busy machine is no defect of the code.
settings.register_profile("kilocall", deadline=None, derandomize=True)
settings.load_profile("kilocall")

ROOT = Path(__file__).parents[1]

#: What runs calls, pages and services, or watches a clock: alone, one after the other. The rest shares the cores.
REAL_TIME = (
    "call",
    "bench/test_call.py",
    "bench/test_network.py",
    "bench/test_streams.py",
    "receiver",
    "runtime",
    "sender/test_capture.py",
    "sender/test_live.py",
    "sender/test_scout.py",
    "test_docker.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    paths = [ROOT / "tests" / name for name in REAL_TIME]
    for item in items:
        if any(item.path.is_relative_to(path) for path in paths):
            item.add_marker(pytest.mark.real_time)


@pytest.fixture(scope="session")
def clips() -> Path:
    """A folder with `test/` and `raw/` clips of people, which the project does not ship: KILOCALL_CLIPS names it."""
    named = os.environ.get("KILOCALL_CLIPS")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no clips of people at {folder}; KILOCALL_CLIPS can name such a folder")
    return folder


@pytest.fixture(scope="session")
def family() -> Family:
    """The package's own, on one thread."""
    return open_family(threads=1)


@pytest.fixture(scope="module")
def player(family: Family) -> StreamPlayer:
    """The built-in astronaut; a module's tests leave it as it was."""
    return StreamPlayer(sample_stream("astronaut"), family=family)
