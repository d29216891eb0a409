"""The call's page in a real browser, where one is installed, against a node that says what the test wants."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI, Response, WebSocket, WebSocketDisconnect

import kilocall.call
from kilocall.runtime.web import LOOPBACK, PageKey, guard_page, mount_page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed to look at the page with")

PAGE = Path(kilocall.call.__file__).parent / "page"
PATIENCE_S = 10.0
HELLO = {
    "type": "hello",
    "room": "tea",
    "link": "http://meeting.example/tea#secret",
    "camera": "0",
    "family": "compact-256",
    "version": "0.1.0",
    "size": 256,
}
NUMBERS = {
    "type": "numbers",
    "out_kbps": 8.42,
    "in_kbps": 9.1,
    "out_motion_kbps": 2.1,
    "in_motion_kbps": 2.3,
    "audio_out_kbps": 5.9,
    "audio_in_kbps": 6.2,
    "payload_bits_per_frame": 57.3,
    "fps_out": 25.0,
    "fps_in": 24.6,
    "loss_pct": 0.4,
    "rtt_ms": 23.0,
    "delay_ms": 117.0,
    "frames_per_message": 3,
    "h264_kbps": 22.6,
    "sender_ms": 9.8,
    "render_ms": 11.2,
    "dropped": {"late_packets": 2, "skipped_frames": 1},
}
OVERLAY = {
    "type": "overlay",
    "face": True,
    "faces": 1,
    "box": [0.3, 0.3, 0.6, 0.8],
    "points": [[0.4, 0.5], [0.5, 0.5], [0.45, 0.6]],
    "ideal_box": [0.35, 0.2, 0.65, 0.7],
    "ideal_points": [[0.45, 0.4], [0.55, 0.4], [0.5, 0.5]],
    "advice": "turn left",
    "good": False,
    "eyes_open": True,
    "sharp": False,
}
GOOD = {**OVERLAY, "good": True, "advice": "good", "sharp": True}


def jpeg(colour: tuple[int, int, int], width: int = 256, height: int = 256) -> bytes:
    """One colour (red, green, blue) all over."""
    picture = np.full((height, width, 3), colour[::-1], np.uint8)
    return cv2.imencode(".jpg", picture)[1].tobytes()


class FakeNode:
    """Speaks the node's side of the page's socket from the test's thread; remembers what the page asked for."""

    def __init__(self) -> None:
        self.key = PageKey()
        self.commands: list[dict[str, Any]] = []
        self.arrivals = 0
        self._page: WebSocket | None = None
        self._events: asyncio.AbstractEventLoop | None = None
        self.state: dict[str, Any] = {
            "type": "state",
            "phase": "open",
            "trouble": "",
            "in_room": True,
            "reason": None,
            "muted": False,
            "camera_off": False,
            "camera": {"number": 0, "problem": ""},
            "camera_view": {"available": False, "shown": None},
            "recording": False,
            "remote": {
                "present": True,
                "face": True,
                "since_ms": 0,
                "source_taken_at": "14:03",
                "reconstructed": True,
                "layered": False,
                "camera_off": False,
            },
            "trust": {"words": [], "verified": False, "expected": False},
            "own_source_at": "13:58",
            "remote_view": {"yaw": 0, "pitch": 0, "roll": 0},
            "virtual_camera": {"available": False, "on": False, "reason": "there is no loopback camera"},
        }

    def app(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            self._events = asyncio.get_running_loop()
            yield

        app = FastAPI(lifespan=lifespan)
        # As the node: no eval, no inline script or style, nothing from elsewhere, and only who has the key.
        guard_page(app, LOOPBACK, PAGE, self.key)

        @app.get("/api/{name}.jpg")
        def source(name: str) -> Response:
            return Response(jpeg((90, 120, 90)), media_type="image/jpeg")

        @app.websocket("/live")
        async def live(page: WebSocket) -> None:
            await page.accept()
            self._page = page
            for message in (HELLO, self.state, self.sources("a")):
                await page.send_text(json.dumps(message))
            self.arrivals += 1
            try:
                while True:
                    self.commands.append(json.loads(await page.receive_text()))
            except WebSocketDisconnect:
                return

        mount_page(app, PAGE)
        return app

    @staticmethod
    def sources(current: str | None) -> dict[str, Any]:
        recent = [{"id": i, "taken_at": "13:58", "thumb": f"/api/{i}.jpg"} for i in "ab"]
        return {"type": "sources", "recent": recent, "current": current}

    def say(self, *messages: dict[str, Any] | bytes) -> None:
        async def send() -> None:
            assert self._page is not None
            for message in messages:
                if isinstance(message, bytes):
                    await self._page.send_bytes(message)
                else:
                    await self._page.send_text(json.dumps(message))

        assert self._events is not None
        asyncio.run_coroutine_threadsafe(send(), self._events).result(PATIENCE_S)

    def become(self, **change: Any) -> None:
        remote = change.pop("remote", {})
        self.state.update(change)
        self.state["remote"].update(remote)
        self.say(self.state)

    def show(self, capture_us: int, data: bytes, kind: int = 1) -> None:
        self.say(struct.pack(">BQ", kind, capture_us) + data)

    def drop(self) -> None:
        assert self._events is not None
        assert self._page is not None
        asyncio.run_coroutine_threadsafe(self._page.close(), self._events).result(PATIENCE_S)

    def asked(self, kind: str) -> list[dict[str, Any]]:
        return [command for command in self.commands if command["type"] == kind]


def wait(condition: Callable[[], Any]) -> None:
    # Not playwright's own waiting: its conditions are evaluated text, which the strict policy forbids.
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.03)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
def address(node: FakeNode) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(node.app(), log_level="error", ws="websockets-sansio"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
        thread.start()
        wait(lambda: server.started)
        yield node.key.opens(f"http://127.0.0.1:{listening.getsockname()[1]}")
        server.should_exit = True
        thread.join(PATIENCE_S)
    assert not thread.is_alive()


@pytest.fixture
def page(browser: Any, node: FakeNode, address: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(address)
    wait(lambda: node.arrivals == 1 and page.is_enabled("#mute"))
    yield page
    context.close()
    assert not problems


def stats(page: Any) -> dict[str, Any]:
    told: dict[str, Any] = page.evaluate("kilocall.stats()")
    return told


def pixel(page: Any, canvas: str) -> list[int]:
    read = f"[...document.getElementById('{canvas}').getContext('2d').getImageData(8, 8, 1, 1).data]"
    values: list[int] = page.evaluate(read)
    return values[:3]


def drawn_colours(page: Any) -> dict[str, int]:
    """How many pixels of the overlay are mostly red, green, blue."""
    script = """() => {
      const canvas = document.getElementById('overlay');
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      const count = { red: 0, green: 0, blue: 0 };
      for (let i = 0; i < data.length; i += 4) {
        if (data[i + 3] < 200) continue;
        const [r, g, b] = data.slice(i, i + 3);
        if (r > 200 && g < 150) count.red += 1;
        if (b > 200 && r < 150) count.blue += 1;
        if (g > 200 && r < 150 && b < 200) count.green += 1;
      }
      return count;
    }"""
    counted: dict[str, int] = page.evaluate(script)
    return counted


def test_pictures_are_drawn_and_their_capture_time_is_told(page: Any, node: FakeNode) -> None:
    assert page.inner_text("#status-title") == "Connected"
    node.show(1_000_000, jpeg((200, 30, 30)))
    node.show(7_000_000, jpeg((30, 30, 200), 320, 240), kind=2)
    wait(lambda: stats(page)["drawn"] == 1 and stats(page)["own"]["drawn"] == 1)
    assert stats(page)["captureUs"] == 1_000_000
    assert 0 <= stats(page)["drawDelayMs"] < 1000
    assert np.abs(np.array(pixel(page, "remote-picture")) - (200, 30, 30)).max() <= 4
    assert np.abs(np.array(pixel(page, "own-picture")) - (30, 30, 200)).max() <= 4
    assert not page.is_visible("#status")


def test_another_user_of_the_computer_is_told_what_to_do_and_shown_nothing(
    browser: Any, page: Any, node: FakeNode, address: str
) -> None:
    plain = address.partition("#")[0]
    assert page.url == plain
    context = browser.new_context()
    stranger = context.new_page()
    stranger.goto(plain)
    wait(lambda: stranger.inner_text("#status-title") == "This page is locked")
    assert "Open the address that kilocall printed" in stranger.inner_text("#status-text")
    assert not stranger.is_enabled("#mute")
    assert stranger.input_value("#link") == ""
    context.close()
    page.reload()
    wait(lambda: node.arrivals == 2 and page.is_enabled("#mute"))


def test_a_burst_leaves_no_backlog_and_the_newest_stays(page: Any, node: FakeNode) -> None:
    large = jpeg((90, 90, 90), 2048, 2048)  # slow to decode
    node.say(*[struct.pack(">BQ", 1, i) + large for i in range(29)], struct.pack(">BQ", 1, 29) + jpeg((10, 200, 10)))
    wait(lambda: stats(page).get("captureUs") == 29)
    told = stats(page)
    assert told["drawn"] + told["replaced"] == 30
    assert told["replaced"] > 0
    assert np.abs(np.array(pixel(page, "remote-picture")) - (10, 200, 10)).max() <= 4


def test_a_broken_picture_is_skipped(page: Any, node: FakeNode) -> None:
    node.show(1, b"not a picture")
    node.show(2, jpeg((40, 40, 40)))
    wait(lambda: stats(page).get("captureUs") == 2)
    assert stats(page)["broken"] <= 1  # 0 when the next came before decoding began


def test_overlay_is_red_and_blue_then_green(page: Any, node: FakeNode) -> None:
    node.show(1, jpeg((128, 128, 128), 320, 240), kind=2)
    page.keyboard.press("c")
    wait(lambda: node.asked("calibrate") == [{"type": "calibrate", "on": True}])
    node.say(OVERLAY)
    wait(lambda: sum(drawn_colours(page).values()) > 0)
    before = drawn_colours(page)
    assert before["red"] > 50
    assert before["blue"] > 50
    assert before["green"] == 0
    node.say(GOOD)
    wait(lambda: drawn_colours(page)["green"] > 100)
    after = drawn_colours(page)
    assert after["red"] == after["blue"] == 0
    page.keyboard.press("Escape")
    wait(lambda: node.asked("calibrate")[-1]["on"] is False)
    assert sum(drawn_colours(page).values()) == 0


def test_steady_advice_is_announced_and_flicker_is_not(page: Any, node: FakeNode) -> None:
    page.click("#new-picture")
    assert page.get_attribute("#advice", "role") == "status"
    page.evaluate(
        "window.heard = []; new MutationObserver(() => heard.push(document.getElementById('advice').textContent))"
        ".observe(document.getElementById('advice'), { childList: true, characterData: true, subtree: true })"
    )
    for i in range(12):
        node.say({**OVERLAY, "advice": "move closer" if i % 4 < 2 else "move back"})
        time.sleep(0.05)
    for _ in range(8):
        node.say(OVERLAY)
        time.sleep(0.1)
    wait(lambda: page.inner_text("#advice") == "Turn your head to the left.")
    assert page.evaluate("heard") == ["Turn your head to the left."]


def test_good_pose_takes_the_picture_by_itself(page: Any, node: FakeNode) -> None:
    page.click("#new-picture")
    started = time.monotonic()
    while not node.asked("take_source"):
        # One bad look in between, as a wink would be, does not start the countdown again.
        node.say(OVERLAY if 1.0 < time.monotonic() - started < 1.1 else GOOD)
        assert time.monotonic() - started < PATIENCE_S
        time.sleep(0.1)
    assert 2.9 < time.monotonic() - started < 4.5
    assert page.is_visible("#calibration")
    node.say(node.sources("b"))
    wait(lambda: not page.is_visible("#calibration"))
    assert len(node.asked("take_source")) == 1
    wait(lambda: page.inner_text("#announcer") == "The picture was taken")


def test_bad_pose_takes_nothing_until_the_button_is_pressed(page: Any, node: FakeNode) -> None:
    page.click("#new-picture")
    for _ in range(5):
        node.say(OVERLAY)
        time.sleep(0.1)
    assert not node.asked("take_source")
    page.click("#take")
    wait(lambda: len(node.asked("take_source")) == 1)
    node.say({"type": "error", "text": "The picture is blurred."})
    wait(lambda: page.inner_text("#advice") == "The picture is blurred.")
    assert page.is_visible("#calibration")


def test_calibration_opens_by_itself_without_a_source_picture(page: Any, node: FakeNode) -> None:
    node.become(own_source_at=None)
    node.say(node.sources(None))
    wait(lambda: page.is_visible("#calibration"))
    page.click("#cancel")
    node.become()
    time.sleep(0.2)
    assert not page.is_visible("#calibration")  # once is an offer, twice would be nagging


def test_who_has_no_source_picture_is_told_how_the_other_side_may_see_them(page: Any, node: FakeNode) -> None:
    node.become(own_source_at=None)
    node.say(node.sources(None))
    caption = "None yet. The other person cannot see you without one."
    wait(lambda: page.inner_text("#source-caption") == caption)
    node.become(camera_view={"available": True, "shown": None})
    caption = "None yet. Without one the other person sees you only while your camera is shown."
    wait(lambda: page.inner_text("#source-caption") == caption)


def test_mute_is_sent_by_key_and_by_button(page: Any, node: FakeNode) -> None:
    page.keyboard.press("m")
    wait(lambda: node.asked("mute") == [{"type": "mute", "on": True}])
    node.become(muted=True)
    wait(lambda: page.inner_text("#mute") == "Unmute")
    wait(lambda: page.inner_text("#announcer") == "Your microphone is off")
    page.click("#mute")
    wait(lambda: node.asked("mute")[-1] == {"type": "mute", "on": False})


def test_what_the_camera_sees_is_shown_when_the_other_side_can_and_both_sides_say_so(page: Any, node: FakeNode) -> None:
    assert not page.is_visible("#show-camera")
    page.keyboard.press("w")
    node.become(camera_view={"available": True, "shown": None})
    wait(lambda: page.is_visible("#show-camera"))
    assert page.inner_text("#show-camera") == "Show camera"
    page.click("#show-camera")
    wait(lambda: node.asked("show_camera") == [{"type": "show_camera", "on": True}])
    node.become(camera_view={"available": True, "shown": "asked"})
    wait(lambda: page.inner_text("#show-camera") == "Stop showing")
    assert page.inner_text("#own-note") == "They see what your camera sees, as it is"
    page.keyboard.press("w")
    wait(lambda: node.asked("show_camera")[-1] == {"type": "show_camera", "on": False})
    node.become(camera_view={"available": True, "shown": "away"})
    wait(lambda: page.inner_text("#own-note") == "Your face is not in view, so they see what your camera sees")
    assert page.inner_text("#show-camera") == "Show camera"


def test_a_picture_of_a_camera_says_that_it_is_one_and_keeps_its_shape(page: Any, node: FakeNode) -> None:
    node.become(remote={"reconstructed": False, "face": False})
    wait(lambda: page.inner_text(".badge") == "Camera, not reconstructed")
    assert page.inner_text("#remote-note") == ""
    assert page.get_attribute("#remote-picture", "aria-label") == "What the other person's camera sees"
    node.show(5_000_000, jpeg((20, 90, 160), 320, 180))
    wait(lambda: page.evaluate("document.getElementById('remote-picture').width") == 320)
    assert page.evaluate("getComputedStyle(document.getElementById('remote-picture')).objectFit") == "contain"
    node.become(remote={"reconstructed": True})
    wait(lambda: page.inner_text(".badge") == "Reconstructed from a picture taken at 14:03")
    node.become(remote={"layered": True})
    wait(lambda: page.inner_text(".badge") == "Reconstructed from a picture taken at 14:03 and a little video")


def test_keys_do_not_disturb_typing_dialogs_or_those_who_switch_them_off(page: Any, node: FakeNode) -> None:
    node.become(phase="alone")
    wait(lambda: page.is_visible("#link"))
    page.locator("#link").focus()
    page.keyboard.press("m")
    page.keyboard.press("Tab")
    page.keyboard.press("Control+m")
    page.keyboard.press("h")
    assert page.is_visible("#help")
    page.keyboard.press("m")
    page.uncheck("#keys-on")
    page.keyboard.press("Escape")
    assert not page.is_visible("#help")
    page.keyboard.press("m")
    page.click("#camera")
    wait(lambda: node.asked("camera") == [{"type": "camera", "on": False}])
    assert not node.asked("mute")


def test_numbers_are_shown_and_plotted(page: Any, node: FakeNode) -> None:
    node.say(NUMBERS)
    wait(lambda: page.inner_text("#out-kbps") == "8.4")
    shown = {name: page.inner_text(f"#{name}") for name in ("in-kbps", "payload", "fps-in", "loss", "delay", "dropped")}
    assert shown == {"in-kbps": "9.1", "payload": "57", "fps-in": "25", "loss": "0.4", "delay": "117", "dropped": "3"}
    assert page.inner_text("#comparison") == (
        "Your picture takes 2.1 kbit/s. An equally good one with H.264 would take about 22.6."
    )
    node.say({**NUMBERS, "out_kbps": 12.0, "loss_pct": None})
    wait(lambda: page.inner_text("#out-kbps") == "12.0")
    assert page.inner_text("#loss") == "–"  # noqa: RUF001
    assert page.get_attribute("[data-series=out]", "d").count("L") >= 1


def test_fewer_pictures_are_explained_beside_the_numbers(page: Any, node: FakeNode) -> None:
    sent = {"rate_out": 12.5, "rate_out_limit": "the other side"}
    shown = {"rate_in": 10.0, "rate_in_limit": "processor"}
    node.say({**NUMBERS, **sent, **shown})
    wait(lambda: page.inner_text("#rate-out") == "12.5")
    assert page.inner_text("#rate-in") == "10.0"
    assert page.inner_text("#rate-why") == (
        "12.5 a second are sent: the other computer shows no more. "
        "10 a second are shown: this computer's processor makes no more."
    )
    all_of_them = {"rate_out": 25.0, "rate_out_limit": "none", "rate_in": 25.0, "rate_in_limit": "none"}
    node.say({**NUMBERS, **all_of_them})
    wait(lambda: page.inner_text("#rate-out") == "25.0")
    assert page.text_content("#rate-why") == ""


@pytest.mark.parametrize(
    ("change", "title", "text"),
    [
        ({"phase": "alone"}, "Waiting for the other person", "Send them this link."),
        ({"phase": "alone", "in_room": False}, "Looking for the meeting point", ""),
        (
            {"phase": "alone", "trouble": "the meeting point cannot be reached: nothing listens at example.org:8700"},
            "The meeting point cannot be reached",
            "Nothing listens at example.org:8700. It is tried again",
        ),
        ({"phase": "connecting"}, "Connecting", "One moment."),
        ({"phase": "lost", "reason": "nothing heard for 8 s"}, "The connection was lost", "Nothing heard for 8 s."),
        ({"phase": "ended", "reason": "they left"}, "The call is over", "They left."),
        ({"phase": "refused", "reason": "the room is full"}, "This call cannot be joined", "The room is full."),
        ({"remote": {"camera_off": True}}, "Their camera is off", "You can still hear each other."),
    ],
)
def test_states_are_told_in_plain_words(
    page: Any, node: FakeNode, change: dict[str, Any], title: str, text: str
) -> None:
    node.show(1, jpeg((80, 80, 80)))
    wait(lambda: not page.is_visible("#status"))
    node.become(**change)
    wait(lambda: page.is_visible("#status"))
    assert page.inner_text("#status-title") == title
    assert text in page.inner_text("#status-text")
    wait(lambda: page.inner_text("#announcer") == title)
    waits = change.get("phase") == "alone" and change.get("in_room", True) and not change.get("trouble")
    assert page.is_visible("#link") == waits


def test_a_face_out_of_view_is_told_without_hiding_the_picture(page: Any, node: FakeNode) -> None:
    node.show(1, jpeg((80, 80, 80)))
    node.become(remote={"face": False})
    wait(lambda: page.inner_text("#remote-note").startswith("They are out of view for a moment."))
    assert not page.is_visible("#status")
    node.become(remote={"face": True})
    wait(lambda: page.inner_text("#remote-note") == "")


def test_a_computer_that_is_too_slow_is_told_on_the_picture_it_is_too_slow_for(page: Any, node: FakeNode) -> None:
    node.show(1, jpeg((80, 80, 80)))
    node.become(slow={"shows": "this computer shows 0.2 of 25 pictures a second with facevid2vid", "sends": ""})
    wait(lambda: page.inner_text("#remote-note").startswith("This computer shows 0.2 of 25 pictures a second"))
    wait(lambda: page.inner_text("#announcer").startswith("This computer shows"))
    assert page.inner_text("#own-note") == ""
    node.become(slow={"shows": "", "sends": "this computer sends 3.1 of 25 pictures a second"})
    wait(lambda: page.inner_text("#own-note").startswith("This computer sends 3.1 of 25"))
    assert page.inner_text("#remote-note") == ""


def test_the_own_face_out_of_view_is_read_out_when_it_lasts(page: Any, node: FakeNode) -> None:
    heard = "new MutationObserver(() => heard.push(document.getElementById('announcer').textContent))"
    page.evaluate(f"window.heard = []; {heard}.observe(document.getElementById('announcer'), {{ childList: true }})")
    node.become(own_face=False)
    wait(lambda: page.inner_text("#own-note").startswith("Your face is not in view"))
    node.become(own_face=True)
    wait(lambda: page.inner_text("#own-note") == "")
    node.become(own_face=False)
    wait(lambda: any(text.startswith("Your face is not in view") for text in page.evaluate("heard")))
    assert sum(text.startswith("Your face") for text in page.evaluate("heard")) == 1


def test_a_camera_that_is_gone_is_told_and_another_is_chosen(page: Any, node: FakeNode) -> None:
    choice = page.locator("#camera-number")
    wait(lambda: choice.input_value() == "0")
    node.become(camera={"number": 0, "problem": "camera 0 gives no pictures"})
    wait(lambda: "Camera 0 gives no pictures." in page.inner_text("#own-note"))
    assert "They see you standing still" in page.inner_text("#own-note")
    choice.select_option("2")
    wait(lambda: node.asked("choose_camera"))
    assert node.asked("choose_camera") == [{"type": "choose_camera", "number": 2}]
    node.become(camera={"number": 2, "problem": ""})
    wait(lambda: page.inner_text("#own-note") == "")
    # A clip has no number, and with the browser's own the browser is asked.
    node.become(camera={"number": None, "problem": ""})
    wait(lambda: not page.is_visible("#camera-choice"))


def test_badge_says_when_and_shows_the_picture(page: Any, node: FakeNode) -> None:
    assert page.inner_text(".badge") == "Reconstructed from a picture taken at 14:03"
    node.become(remote={"pictures": 3})
    wait(lambda: page.inner_text(".badge") == "Reconstructed from 3 pictures, the first taken at 14:03")
    page.click("#badge-button")
    wait(lambda: page.evaluate("document.getElementById('remote-source-picture').naturalWidth") == 256)
    assert page.is_visible("#remote-source-picture")
    assert page.get_attribute("#badge-button", "aria-expanded") == "true"


WORDS = ["acorn", "river", "panda", "velvet"]


def test_words_are_shown_and_that_they_are_the_same_is_told_with_the_words(page: Any, node: FakeNode) -> None:
    assert not page.is_visible("#trust")
    node.become(trust={"words": WORDS, "verified": False, "expected": False})
    wait(lambda: page.is_visible("#trust"))
    assert page.inner_text("#words").split() == WORDS
    assert page.inner_text("#trust-text").startswith("Read these out: the other side must see the same.")
    assert not page.is_visible("#badge-verified")
    page.click("#same")
    wait(lambda: node.asked("compared") == [{"type": "compared", "words": WORDS}])
    node.become(trust={"words": WORDS, "verified": True, "expected": True})
    wait(lambda: page.is_visible("#badge-verified"))
    assert page.inner_text("#badge-verified") == "Verified"
    assert not page.is_visible("#same")
    wait(lambda: page.inner_text("#announcer") == "Verified: nobody is in between")


def test_somebody_else_on_a_link_whose_words_were_compared_is_told(page: Any, node: FakeNode) -> None:
    node.become(trust={"words": WORDS, "verified": False, "expected": True})
    wait(lambda: "the other side is another computer now, or somebody else" in page.inner_text("#trust-text"))
    assert page.is_visible("#same")
    assert not page.is_visible("#badge-verified")


def test_head_turn_is_asked_for_and_reset(page: Any, node: FakeNode) -> None:
    page.locator("#yaw").focus()
    page.keyboard.press("ArrowRight")
    wait(lambda: node.asked("view") == [{"type": "view", "yaw": 1, "pitch": 0, "roll": 0}])
    page.keyboard.press("s")
    wait(lambda: node.asked("view")[-1]["yaw"] == 0)
    assert page.inner_text("#yaw + .angle") == "0°"


def test_earlier_picture_can_be_used_again(page: Any, node: FakeNode) -> None:
    page.click("#recent [data-id=b]")
    wait(lambda: node.asked("use_source") == [{"type": "use_source", "id": "b"}])
    node.say(node.sources("b"))
    wait(lambda: page.get_attribute("#recent [data-id=b]", "aria-pressed") == "true")


def test_recording_is_asked_for_and_its_place_is_told(page: Any, node: FakeNode) -> None:
    page.keyboard.press("r")
    wait(lambda: node.asked("record") == [{"type": "record", "on": True}])
    node.become(recording=True)
    wait(lambda: page.is_visible("#recording"))
    page.keyboard.press("r")
    wait(lambda: node.asked("record")[-1]["on"] is False)
    node.say({"type": "recorded", "stream": "call.kcs", "frames": 50})
    wait(lambda: page.is_visible("#message") and page.inner_text("#message-text") == "The recording is in call.kcs")


def test_leaving_ends_the_call_at_once(page: Any, node: FakeNode) -> None:
    page.click("#leave")
    wait(lambda: node.asked("hang_up"))
    node.drop()
    assert page.inner_text("#status-title") == "The call is over"
    assert page.is_disabled("#mute")


def test_page_comes_back_when_the_node_does(page: Any, node: FakeNode) -> None:
    node.drop()
    wait(lambda: page.inner_text("#status-title") == "kilocall has stopped")
    assert page.is_disabled("#mute")
    wait(lambda: node.arrivals == 2 and page.inner_text("#status-title") == "Connected")


@pytest.mark.parametrize("width", [320, 390, 1100])
def test_a_note_on_the_own_preview_is_readable_at_any_width(page: Any, node: FakeNode, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    node.become(slow={"shows": "", "sends": "this computer sends 3.1 of 25 pictures a second: others keep it busy"})
    wait(lambda: page.inner_text("#own-note").startswith("This computer sends"))
    inside = """() => {
      const note = document.getElementById("own-note").getBoundingClientRect();
      const cut = (box) => getComputedStyle(box).overflow !== "visible";
      const all = [...document.querySelectorAll(".stage, .own")].filter(cut);
      const boxes = all.map((box) => box.getBoundingClientRect());
      return boxes.every((box) => box.left <= note.left && note.right <= box.right && box.top <= note.top &&
        note.bottom <= box.bottom);
    }"""
    wait(lambda: page.evaluate(inside))
    assert page.evaluate("document.documentElement.scrollHeight") <= 800 or width < 960


@pytest.mark.parametrize("width", [320, 390, 768, 1100, 1280, 1920])
def test_nothing_sticks_out_at_any_width(page: Any, node: FakeNode, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    node.become(muted=True, camera_view={"available": True, "shown": "asked"})
    wait(lambda: page.inner_text("#show-camera").startswith("Stop"))
    rows = "[...document.querySelectorAll('.buttons button')].map((one) => one.getBoundingClientRect())"
    assert (
        page.evaluate(
            f"{rows}.every((one) => one.left >= 0 && one.right <= document.querySelector('main, .controls')"
            f".getBoundingClientRect().right)"
        )
        or width < 960
    )
    page.click("#new-picture")
    node.say(OVERLAY)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    inside = """(id) => {
      const box = document.getElementById(id).getBoundingClientRect();
      return box.width > 0 && box.left >= 0 && box.right <= innerWidth;
    }"""
    for name in ("badge-button", "take", "mute", "leave", "own"):
        assert page.evaluate(inside, name), name
