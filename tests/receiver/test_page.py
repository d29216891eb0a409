"""The pages in a real browser, where one is installed: who is let in, pictures arrive, controls do what they say."""

from __future__ import annotations

import asyncio
import contextlib
import io
import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from PIL import Image

from kilocall.receiver import service
from kilocall.receiver.display import create_app, page_server
from kilocall.receiver.live import Rendered
from kilocall.runtime.web import PageKey, listen, shown_address
from meeting import SECRET

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed to look at the page with")


def until(page: Any, condition: str) -> None:
    """Waits for a JavaScript condition; the page's policy forbids it to be waited for in the page itself."""
    deadline = time.monotonic() + 10
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(20)


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The address of a running application, whose loop is `app.state.loop`."""
    ready = threading.Event()

    def note_ready() -> None:
        app.state.loop = asyncio.get_running_loop()
        ready.set()

    server = page_server(app, on_ready=note_ready)
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
        thread.start()
        try:
            assert ready.wait(60)
            yield shown_address("127.0.0.1", listening)
        finally:
            server.should_exit = True
            thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def address(spoken_stream: Any) -> Iterator[str]:
    """With the key."""
    replay_stream, key = spoken_stream, PageKey()
    app = create_app(
        replay_stream, name="clip.kcs", read_face=lambda data: replay_stream.renderer.source.picture, key=key, loop=True
    )
    with served(app) as address:
        yield key.opens(address)


@pytest.fixture
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    page = browser.new_context().new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(address)
    until(page, PLAYS)
    yield page
    assert not problems


PLAYS = "document.getElementById('frame').textContent.includes(' of 60')"
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


def test_what_the_camera_saw_is_shown_in_its_own_shape_and_said(page: Any, spoken_stream: Any) -> None:
    page.keyboard.press("Space")
    spoken_stream.camera_frames = range(20, 40)
    size = "[document.getElementById('picture').width, document.getElementById('picture').height].join('x')"
    page.locator("#seek").fill("1.2")
    until(page, f"{size} === '32x18'")
    until(page, "document.getElementById('badge-title').textContent === 'Camera, not reconstructed.'")
    assert page.inner_text(".badge") == "Camera, not reconstructed. From clip.kcs."
    assert page.get_attribute("#picture", "aria-label") == "What the speaker’s camera saw"  # noqa: RUF001
    assert page.evaluate("getComputedStyle(document.getElementById('picture')).objectFit") == "contain"
    page.locator("#seek").fill("2")
    until(page, f"{size} === '32x32'")
    assert page.inner_text(".badge").startswith("Reconstructed from one picture.")


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


def test_the_key_is_taken_from_the_address_and_a_reload_works(page: Any, address: str) -> None:
    plain, key = address.split("#")
    assert page.url == plain
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["expires"]) == (True, "Strict", -1)
    assert key not in page.evaluate("document.cookie + JSON.stringify(localStorage)")
    until(page, "document.getElementById('source-picture').naturalWidth > 0")
    page.reload()
    until(page, PLAYS)
    second = page.context.new_page()
    second.goto(plain)
    until(second, PLAYS)


@pytest.mark.parametrize("ending", ["", "#guessed"])
def test_a_page_without_the_key_shows_nothing_and_says_what_to_do(browser: Any, address: str, ending: str) -> None:
    page = browser.new_page()
    page.goto(address.partition("#")[0] + ending)
    until(page, "document.getElementById('notice').textContent.startsWith('This page has no key. Open the address')")
    assert not page.context.cookies()
    assert page.inner_text("#frame") == "\N{EN DASH}"
    # The right address in the same tab: a browser only tells the page that the part behind the # is another.
    with page.expect_event("load"):
        page.goto(address)
    until(page, PLAYS)


def test_two_pages_in_one_browser_keep_each_their_own_cookie(page: Any) -> None:
    """And a page of another user's server on this computer is sent neither."""
    key, spy = PageKey(), FastAPI()
    asked: list[str | None] = []

    @spy.middleware("http")
    async def note(request: Any, call_next: Any) -> Any:
        asked.append(request.headers.get("cookie"))
        return await call_next(request)

    app = service.create_app(service.ReceiverSettings(token=SECRET.text), key=key)
    with served(app) as other, served(spy) as foreign:
        second = page.context.new_page()
        second.goto(key.opens(other))
        until(second, "document.getElementById('stream').src !== ''")
        assert len(page.context.cookies()) == 2
        third = page.context.new_page()
        third.goto(foreign)
        third.reload()
        third.close()
        page.reload()
        until(page, PLAYS)
        second.close()
    assert len(asked) >= 2
    assert set(asked) == {None}


def test_the_receiver_service_shows_its_stream_to_its_page_alone(browser: Any) -> None:
    key = PageKey()
    app = service.create_app(service.ReceiverSettings(token=SECRET.text), key=key)
    jpeg = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 0, 0)).save(jpeg, "JPEG")
    with served(app) as address:
        locked, page = browser.new_page(), browser.new_context().new_page()
        locked.goto(address)
        until(locked, "document.getElementById('notice').textContent.startsWith('This page has no key.')")
        page.goto(key.opens(address))
        end = time.monotonic() + 20
        # Each part of such a stream is drawn when the next one begins.
        while page.evaluate("document.getElementById('stream').naturalWidth") != 64:
            assert time.monotonic() < end
            app.state.loop.call_soon_threadsafe(app.state.service.show, Rendered(jpeg.getvalue(), 0, 0, 0))
            page.wait_for_timeout(100)
        assert page.url == f"{address}/"
        assert page.inner_text("#badge") == "Reconstructed from one picture."
        layered = Rendered(jpeg.getvalue(), 0, 0, 0, layered=True)
        app.state.loop.call_soon_threadsafe(app.state.service.show, layered)
        until(
            page,
            "document.getElementById('badge').textContent === 'Reconstructed from one picture and a little video.'",
        )
        numbers = urlsplit(page.get_attribute("#numbers", "href")).path
        page.goto(address + numbers)
        assert '"connection"' in page.inner_text("body")
        locked.reload()
        assert locked.evaluate("document.getElementById('stream').src") == ""
        page.context.close()
