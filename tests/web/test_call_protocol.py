"""The protocol of a call as a browser speaks it: Chromium on one end, and Python or another page on the other."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from kilocall.call.link import Link, RoomAddress
from kilocall.call.web_page import read_web_page
from kilocall.control.rate_control import Plan, RateControl
from kilocall.control.session import Session
from kilocall.proto.control import Hello, SourcePicture
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.trust import Handshake, LinkSecret
from kilocall.runtime.clock import now_us
from kilocall.runtime.inbox import Message
from kilocall.runtime.peer import Peer
from kilocall.runtime.peer_settings import PeerSettings
from kilocall.runtime.tasks import Tasks
from kilocall.runtime.web_files import has_engine
from meeting import SECRET, Server

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SIDE: Final = Path(__file__).with_name("side.mjs")
HASH: Final = "a5" * 32
HELLO: Final = Hello("compact-256", "0f" * 32, HASH, 25_000, 1000, 256)
PICTURE: Final = bytes(range(256)) * 12
WITHIN_S: Final = 20.0
#: Chromium leaves the loopback out unless told, and hides addresses behind names for the local network.
FLAGS: Final = (
    "--no-sandbox",
    "--allow-loopback-in-peer-connection",
    "--disable-features=WebRtcHideLocalIpsWithMdns",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed"),
    pytest.mark.skipif(not has_engine(), reason="the browser's engine is missing: run `make web`"),
]


class Background:
    """An event loop on a thread of its own: the browser is driven on this one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Awaitable[Any]) -> Any:
        async def waited() -> Any:
            return await coroutine

        return asyncio.run_coroutine_threadsafe(waited(), self.loop).result(WITHIN_S)

    def close(self) -> None:
        self.run(self._cancel())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    async def _cancel(self) -> None:
        """What a test that failed has left."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


class PythonEnd:
    """A Link and its Session, without camera and networks."""

    def __init__(self, address: RoomAddress, hello: Hello = HELLO) -> None:
        self.acknowledged: list[int] = []
        self.prepared: list[tuple[str, bytes]] = []
        self.confirmed: list[str] = []
        self.packets: list[MotionPacket] = []
        self.heard = 0
        self.not_proven = ""
        self.tasks = Tasks()
        self.session = Session(self, self, rate=RateControl(), clock_us=now_us, link_name=address.secret.name)
        self.session.introduce(hello)
        self.session.own_source(SourcePicture("webp", PICTURE))
        self.link = Link(address, PeerSettings(loopback="only"), self, self.tasks)

    async def start(self) -> None:
        self.tasks.own(self.link.run(), "link")

    async def close(self) -> None:
        await self.link.close(lambda: self.session.bye("good night"))
        await self.tasks.close()

    # What the session asks

    def acknowledge(self, sequence: int) -> None:
        self.acknowledged.append(sequence)

    def confirm(self, picture_hash: str) -> None:
        self.confirmed.append(picture_hash)

    def follow(self, plan: Plan) -> None: ...
    def limit(self, fps: float) -> None: ...
    def prepare(self, picture_hash: str, data: bytes) -> None:
        self.prepared.append((picture_hash, data))
        self.session.picture_ready(picture_hash)

    def use(self, picture_hash: str, from_us: int) -> None: ...
    def adapt(self, file_hash: str, data: bytes) -> None: ...
    def refer(self, base_hash: str, picture_hash: str, data: bytes) -> None: ...
    def expect(self, fps: float) -> None: ...
    def forget(self) -> None: ...

    # What the link tells

    def joined(self, address: RoomAddress, others: int) -> None: ...
    def paired(self) -> None: ...
    def opened(self, peer: Peer, handshake: Handshake) -> None:
        self.session.opened(peer.send_control, handshake)
        if peer.remote_audio is not None:
            self.tasks.own(self._hear(peer.remote_audio), "speech")

    async def _hear(self, track: Any) -> None:
        while True:
            await track.recv()
            self.heard += 1

    def motion(self, message: Message) -> None:
        self.packets.append(MotionPacket.parse(message.data))

    def control(self, message: Message) -> None:
        self.session.control(message.data, message.arrived_us)

    def delivered(self, data: bytes) -> None:
        self.session.delivered(data)

    def closed(self, reason: str) -> None:
        self.session.closed("lost" if self.session.said_bye is None else "ended", self.session.said_bye or reason)

    def wants_another(self) -> bool:
        return self.session.phase == "lost"

    def expects_motion(self) -> bool:
        return False

    def left(self) -> None: ...
    def audio_track(self) -> Any:
        return None

    def say_motion(self) -> None:
        """Twelve packets of nothing in particular."""
        assert self.link.peer is not None
        for sequence in range(12):
            packet = MotionPacket(sequence, 40 * sequence, 40_000, 3, None, 4, b"\1\2\3")
            assert self.link.peer.send_motion(bytes(packet))
            self.session.motion_sent(packet)


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
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        yield browser
        browser.close()


class BrowserEnd:
    """A page of the signalling server's with `side.mjs` on it."""

    def __init__(self, browser: Any, link: str, *, hello: Hello = HELLO, speaks: bool = True) -> None:
        self.page = browser.new_page()
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._note)
        text = SIDE.read_text().replace("../../shared/kilocall/web/", "./")
        self.page.route("**/side.mjs", lambda route: route.fulfill(body=text, content_type="text/javascript"))
        # The page itself would be in the room.
        document = link.split("#")[0]
        self.page.route(document, lambda route: route.fulfill(body="<!doctype html>", content_type="text/html"))
        self.page.goto(link)
        made = read_web_page()
        assert made is not None
        hashes = [hello.weights_hash, hello.codebook_hash]
        fields = [hello.family, *hashes, hello.fps_numerator, hello.fps_denominator, hello.picture_size]
        self.page.evaluate(
            """async ([version, link, hello, speaks, picture]) => {
                const { begin } = await import(`/web/${version}/side.mjs`);
                globalThis.side = await begin(link, hello, speaks, picture);
            }""",
            [made.version, link, fields, speaks, [*PICTURE[:99]]],
        )

    def _note(self, message: Any) -> None:
        if message.type == "error":
            self.problems.append(message.text)

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.page.evaluate("() => side.state")
        return state

    def do(self, script: str) -> Any:
        return self.page.evaluate(f"() => {script}")

    def until(self, condition: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        deadline = time.monotonic() + WITHIN_S
        while not condition(state := self.state):
            assert time.monotonic() < deadline, f"{state}; {self.problems}"
            self.page.wait_for_timeout(50)
        return state

    def asked(self, what: str) -> list[list[Any]]:
        return [asked for asked in self.state["asked"] if asked[0] == what]

    def close(self) -> None:
        self.page.close(run_before_unload=False)


def waits(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def address(server: Server, secret: LinkSecret = SECRET) -> RoomAddress:
    return RoomAddress(server.url, "tea", secret)


@pytest.mark.parametrize("first", ["browser", "python"])
def test_browser_and_python_meet_whoever_makes_the_offer(
    server: Server, background: Background, browser: Any, first: str
) -> None:
    link = address(server)
    python = PythonEnd(link)
    if first == "python":
        background.run(python.start())
        waits(lambda: server.rooms)
    page = BrowserEnd(browser, link.link)
    if first == "browser":
        waits(lambda: server.rooms)
        background.run(python.start())
    state = page.until(lambda state: state["phase"] == "open" and len(state["words"]) == 4)
    waits(lambda: python.session.phase == "open" and python.session.acquaintance.words)
    assert tuple(state["words"]) == python.session.acquaintance.words
    assert (state["malformed"], python.session.malformed) == (0, 0)
    # Pictures, the one of Python's side in several parts.
    waits(lambda: python.session.confirmed and python.prepared)
    assert python.prepared[0][1] == PICTURE[:99]
    assert [size for _, _, size in page.asked("prepare")] == [len(PICTURE)]
    # Motion, and what is told of it.
    background.loop.call_soon_threadsafe(python.say_motion)
    page.until(lambda state: state["packets"] == 12)
    waits(lambda: python.acknowledged == [*range(12)])
    waits(lambda: python.session.rtt_ms is not None)
    page.do("side.sendMotion()")
    waits(lambda: len(python.packets) == 1)
    # Speech: the fake microphone beeps.
    waits(lambda: python.heard > 2)
    assert page.state["hears"]
    # The rest of what is said.
    background.loop.call_soon_threadsafe(lambda: python.session.own_media(muted=True, camera_off=False))
    background.loop.call_soon_threadsafe(lambda: python.session.own_face(True, 1))
    page.until(lambda state: state["remote"]["muted"] and state["remote"]["face"])
    page.do("side.session.acquaintance.compared(side.session.acquaintance.words)")
    background.run(python.close())
    state = page.until(lambda state: state["phase"] == "ended")
    assert state["saidBye"] == "good night"
    assert page.problems == []
    page.close()
