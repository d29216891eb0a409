"""What the tests of calls in a browser share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meeting import Server
from web.background import Background


@pytest.fixture(scope="module")
def background() -> Iterator[Background]:
    made = Background()
    yield made
    made.close()


@pytest.fixture
def server(background: Background) -> Iterator[Server]:
    made = Server()
    background.run(made.__aenter__())
    yield made
    background.run(made.__aexit__())
