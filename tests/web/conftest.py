"""What the tests in a browser share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from meeting import Server
from web.background import Background
from web.hosting import CHROMIUM


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, as it comes."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
