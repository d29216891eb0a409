"""The page in a real browser, where one is installed: pictures arrive, keys and controls do what they say."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kilocall.receiver.display import DisplayServer, create_app, listen

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed to look at the page with"),
]


def until(page: Any, condition: str) -> None:
    """Waits for a JavaScript condition; the page's policy forbids it to be waited for in the page itself."""
    deadline = time.monotonic() + 10
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(20)


@pytest.fixture
def address(spoken_film: Any) -> Iterator[str]:
    film = spoken_film
    ready = threading.Event()
    app = create_app(film, name="clip.kcs", read_face=lambda data: film.renderer.source.picture, loop=True)
    server = DisplayServer(app, on_ready=ready.set)
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
        thread.start()
        assert ready.wait(10)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(address)
        until(page, "document.getElementById('frame').textContent.includes(' of 60')")
        yield page
        browser.close()
    assert not problems


BRIGHTNESS = "document.getElementById('picture').getContext('2d').getImageData(16, 16, 1, 1).data[0]"


def test_the_page_plays_and_obeys(page: Any) -> None:
    badge = page.inner_text(".badge")
    assert badge.startswith("Reconstructed from one picture. Source: the stream’s own picture, from clip.kcs.")  # noqa: RUF001
    page.keyboard.press("Space")
    until(page, "document.getElementById('play').textContent === 'Play'")
    page.locator("#seek").fill("2")
    until(page, "document.getElementById('frame').textContent === '51 of 60'")
    assert abs(page.evaluate(BRIGHTNESS) - 50) <= 2
    page.locator("#seek").focus()
    page.keyboard.press("ArrowRight")
    until(page, "document.getElementById('frame').textContent === '60 of 60'")
    page.locator("#seek").fill("2")
    page.locator("#yaw").focus()
    page.keyboard.press("End")
    until(page, f"{BRIGHTNESS} > 90")
    assert page.inner_text("output[for=yaw]") == "45°"
    page.locator("#straight").click()
    until(page, f"{BRIGHTNESS} < 55")
    page.keyboard.press("ArrowLeft")
    until(page, "document.getElementById('frame').textContent === '26 of 60'")
    assert page.is_checked("#loop")
    page.keyboard.press("l")
    until(page, "!document.getElementById('loop').checked")


def test_speech_follows_the_pictures(page: Any) -> None:
    speech = "document.getElementById('speech')"
    apart = f"Math.abs({speech}.currentTime - document.getElementById('seek').value)"
    assert page.is_visible("#sound")
    until(page, f"!{speech}.paused && {speech}.currentTime > 0.2 && {apart} < 0.2")
    # A browser may have kept it silent until somebody presses something.
    if page.evaluate(f"{speech}.muted"):
        page.keyboard.press("m")
    assert not page.evaluate(f"{speech}.muted")
    until(page, f"!{speech}.paused && {apart} < 0.2")
    page.keyboard.press("Space")
    until(page, f"{speech}.paused")
    page.locator("#seek").fill("2")
    page.keyboard.press("Space")
    until(page, f"!{speech}.paused && {apart} < 0.2")
    page.keyboard.press("m")
    assert page.evaluate(f"{speech}.muted")
