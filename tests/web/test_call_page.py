"""The page of a call in Chromium, with nothing beside it: it sees a `kilocall call`, or another page, and is seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pytest

from kilocall.api import StreamPlayer
from kilocall.bench.two_pages import write_camera
from kilocall.call.signalling import Joined, Signalling
from meeting import OTHER_SECRET, SECRET, Server
from web.background import Background
from web.film import film_of
from web.hosting import CHROMIUM, has_browser, has_engine
from web.python_party import python_party

pytestmark = [has_engine, has_browser]

#: Loading 17 MB and compiling the networks twice takes seconds; a busy machine takes several times that.
OPEN_WITHIN_MS: Final = 120_000
SEEN_WITHIN_MS: Final = 180_000
CAMERA_FPS: Final = 10


@pytest.fixture(scope="module")
def camera(player: StreamPlayer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of the built-in speaker, over and over."""
    path = tmp_path_factory.mktemp("camera") / "speaker.y4m"
    write_camera(path, film_of(player, CAMERA_FPS), CAMERA_FPS)
    return path


@pytest.fixture(scope="module")
def browser(camera: Path) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-video-capture={camera}",
                "--autoplay-policy=no-user-gesture-required",
            ],
        )
        yield browser
        browser.close()


class CallPage:
    """The page as a person has it, with everything that goes wrong on it."""

    def __init__(self, browser: Any, link: str) -> None:
        context = browser.new_context(permissions=["camera", "microphone"], viewport={"width": 1280, "height": 860})
        self.page = context.new_page()
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda said: self.problems.append(said.text) if said.type == "error" else None)
        self.page.goto(link)

    def sees(self, text: str, within_ms: float) -> None:
        self.page.get_by_text(text).first.wait_for(timeout=within_ms)

    def until(self, condition: str, within_ms: float = SEEN_WITHIN_MS) -> None:
        # The page's policy lets no text be run, so that wait_for_function cannot be used.
        deadline = time.monotonic() + within_ms / 1000
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, f"{condition}: {self.problems}"
            self.page.wait_for_timeout(100)

    @property
    def words(self) -> list[str]:
        words: list[str] = self.page.locator("#words li").all_text_contents()
        return words

    def shown(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        png = self.page.locator("#remote-picture").screenshot()
        picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        return np.asarray(picture, np.uint8)

    def close(self) -> None:
        self.page.context.close()
        assert not self.problems


def test_the_page_sees_a_python_party_and_is_seen(
    server: Server, browser: Any, astronaut_clip: Path, tmp_path: Path
) -> None:
    link = f"{server.url}/tea#{SECRET.text}"
    with python_party(link, astronaut_clip, tmp_path) as party:
        page = CallPage(browser, link)
        page.until("window.kilocall?.stats().drawn >= 5")
        page.sees("Reconstructed from", OPEN_WITHIN_MS)
        assert len(page.words) == 4
        page.until("document.getElementById('source-caption').textContent.startsWith('Taken at')")
        # The layer was asked for, and is shown.
        page.until("window.kilocall.stats().layer?.used >= 2")
        page.sees("and a little video", SEEN_WITHIN_MS)

        # The own film has as many pictures a second as are sent.
        page.page.evaluate("window.ownFilm = document.getElementById('own-picture').srcObject.getVideoTracks()[0]")
        page.until(
            "Math.abs(document.getElementById('rate-out').textContent - ownFilm.getConstraints().frameRate?.max) < 0.06"
        )

        # Their head turns here, and nowhere else.
        before = page.shown()
        page.page.locator("#yaw").fill("30")
        deadline = time.monotonic() + 60  # where they look just then, the film decides
        while np.abs(page.shown().astype(int) - before).mean() < 2:
            assert time.monotonic() < deadline

        # What is shown can be saved, and played elsewhere.
        page.page.locator("#record").click()
        page.page.locator("#recording").wait_for(timeout=OPEN_WITHIN_MS)
        drawn = page.page.evaluate("window.kilocall.stats().drawn")
        page.until(f"window.kilocall.stats().drawn >= {drawn + 6}")
        with page.page.expect_download(timeout=OPEN_WITHIN_MS) as saved:
            page.page.locator("#record").click()
        recorded = tmp_path / saved.value.suggested_filename
        saved.value.save_as(recorded)
        player = StreamPlayer(recorded, threads=1)
        frames = list(player.frames())
        assert len(frames) >= 4
        assert not player.reader.damage

        # What the camera sees is shown as it is, and the speaker again after.
        page.page.locator("#show-camera").click()
        page.until("document.getElementById('show-camera').dataset.on === 'true'")
        page.page.wait_for_timeout(4000)
        page.page.locator("#show-camera").click()
        page.until("document.getElementById('show-camera').dataset.on === 'false'")

        page.page.locator("#camera").click()
        page.sees("Your camera is off", OPEN_WITHIN_MS)
        page.until("ownFilm.readyState === 'ended'")
        page.page.locator("#leave").click()
        page.sees("The call is over", OPEN_WITHIN_MS)
        page.page.wait_for_timeout(5000)  # what the farewell needs, on a busy machine
        party.end()
        page.close()
    told = party.told()
    # The browser's face was shown on the other side; how often, the machine decides.
    assert told.pictures >= 3
    assert told.layer.sent >= told.layer.sent_keys >= 1
    # The browser's layer was decoded, and its camera seen.
    assert told.layer.decoded >= 2
    assert told.layer.camera_pictures >= 1
    assert told.layer.refused == 0
    assert (told.phase, told.connections) == ("ended", 1)
    # On a busy machine the browser may take a second picture right after the first, which is an offer too many.
    assert told.malformed <= 1
    assert "hung up" in told.reason


def test_two_pages_see_each_other_and_no_python_takes_part(server: Server, browser: Any) -> None:
    # A link without a secret begins a call: the page makes one.
    first = CallPage(browser, f"{server.url}/tea")
    first.sees("Waiting for the other person", OPEN_WITHIN_MS)
    link = first.page.locator("#link").input_value()
    assert link.startswith(f"{server.url}/tea#")
    assert first.page.url == link
    second = CallPage(browser, link)
    for page in (first, second):
        page.until("window.kilocall?.stats().drawn >= 3")
    assert first.words == second.words
    assert len(first.words) == 4
    first.page.locator("#same").click()
    first.page.locator("#badge-verified").wait_for(timeout=OPEN_WITHIN_MS)
    second.page.locator("#leave").click()
    first.sees("The call is over", OPEN_WITHIN_MS)
    for page in (first, second):
        page.close()


def test_a_link_that_does_not_fit_gets_one_sentence(server: Server, background: Background, browser: Any) -> None:
    first = Signalling(server.url, "tea", SECRET)
    background.run(first.__aenter__())
    assert isinstance(background.run(first.next()), Joined)
    stranger = CallPage(browser, f"{server.url}/tea#{OTHER_SECRET.text}")
    stranger.sees("This call cannot be joined", OPEN_WITHIN_MS)
    assert "another secret" in stranger.page.locator("#status-text").text_content()
    broken = CallPage(browser, f"{server.url}/tea#no-secret")
    broken.sees("This call cannot be joined", OPEN_WITHIN_MS)
    for page in (stranger, broken):
        page.close()
    background.run(first.close())
