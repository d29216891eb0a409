"""The protocol of a call as a browser speaks it: Chromium on one end, and Python or another page on the other."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from aiortc.mediastreams import MediaStreamError

from call.test_turn import TURN_SECRET, coturn
from kilocall.call import ROOM_VARIABLE
from kilocall.call.link import Link, RoomAddress
from kilocall.call.report import CallReport
from kilocall.call.signalling_settings import SignallingSettings
from kilocall.call.web_page import read_web_page
from kilocall.control.rate_control import Plan, RateControl
from kilocall.control.session import Session
from kilocall.model.family import Family
from kilocall.model.hello import hello_of
from kilocall.proto.control import Hello, LayerReport, SourcePicture
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.stream_file import StreamReader
from kilocall.proto.trust import NOT_PROVEN, Handshake, LinkSecret
from kilocall.runtime.clock import now_us
from kilocall.runtime.inbox import Message
from kilocall.runtime.peer import Peer
from kilocall.runtime.peer_settings import PeerSettings
from kilocall.runtime.tasks import Tasks
from kilocall.runtime.web_files import has_engine
from kilocall.sample import sample_stream
from meeting import OTHER_SECRET, SECRET, Server
from web.background import WITHIN_S, Background

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ROOT: Final = Path(__file__).parents[2]
SIDE: Final = Path(__file__).with_name("side.mjs")
HASH: Final = "a5" * 32
HELLO: Final = Hello("compact-256", "0f" * 32, HASH, 25_000, 1000, 256)
PICTURE: Final = bytes(range(256)) * 12
#: After so long without a word somebody has gone.
VANISHED_S: Final = PeerSettings().vanished_after_s
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


class PythonEnd:
    """A Link and its Session, without camera and networks."""

    def __init__(
        self,
        address: RoomAddress,
        hello: Hello = HELLO,
        cache: Path | None = None,
    ) -> None:
        self.acknowledged: list[int] = []
        self.prepared: list[tuple[str, bytes]] = []
        self.confirmed: list[str] = []
        self.packets: list[MotionPacket] = []
        self.heard = 0
        self.not_proven = ""
        self.tasks = Tasks()
        self.session = Session(
            self, self, rate=RateControl(), clock_us=now_us, link_name=address.secret.name, cache=cache
        )
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
    def ask_layer(self, report: LayerReport) -> None: ...
    def take_camera(self) -> None: ...
    def limit(self, fps: float) -> None: ...
    def prepare(self, picture_hash: str, data: bytes) -> None:
        self.prepared.append((picture_hash, data))
        self.session.picture_ready(picture_hash)

    def use(self, picture_hash: str, from_us: int) -> None: ...
    def adapt(self, file_hash: str, data: bytes) -> None: ...
    def refer(self, base_hash: str, picture_hash: str, data: bytes) -> None: ...
    def expect(self, fps: float) -> None: ...
    def show_camera(self, shown: bool, from_us: int) -> None: ...
    def forget(self) -> None: ...

    # What the link tells

    def joined(self, address: RoomAddress, others: int) -> None: ...
    def paired(self) -> None: ...
    def opened(self, peer: Peer, handshake: Handshake) -> None:
        self.session.opened(peer.send_control, handshake)
        if peer.remote_audio is not None:
            self.tasks.own(self._hear(peer.remote_audio), "speech")

    async def _hear(self, track: Any) -> None:
        with contextlib.suppress(MediaStreamError):  # the end of the call
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

    @property
    def speech(self) -> tuple[int, int]:
        """Packets of speech that have come, and their bytes on the wire."""
        assert self.link.peer is not None
        count = self.link.peer.traffic()[1].kinds["audio"]
        return count.packets, count.bytes

    def say_motion(self) -> None:
        """Twelve packets of nothing in particular."""
        assert self.link.peer is not None
        for sequence in range(12):
            packet = MotionPacket(sequence, 40 * sequence, 40_000, 3, None, 4, b"\1\2\3")
            assert self.link.peer.send_motion(bytes(packet))
            self.session.motion_sent(packet)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        yield browser
        browser.close()


class BrowserEnd:
    """A page of the signalling server's with `side.mjs` on it."""

    def __init__(
        self,
        browser: Any,
        link: str,
        *,
        hello: Hello = HELLO,
        speaks: bool = True,
        picture: bytes = PICTURE[:99],
        relay_only: bool = False,
    ) -> None:
        """`browser` may be a context, with what it keeps."""
        self.page = browser.new_page()
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._note)
        text = SIDE.read_text().replace("../../shared/kilocall/web/", "./")
        self.page.route("**/side.mjs", lambda route: route.fulfill(body=text, content_type="text/javascript"))
        # Or the page itself would be in the room.
        self.page.route("**/call/main.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
        self.page.goto(link)
        made = read_web_page()
        assert made is not None
        hashes = [hello.weights_hash, hello.codebook_hash]
        fields = [hello.family, *hashes, hello.fps_numerator, hello.fps_denominator, hello.picture_size]
        self.page.evaluate(
            """async ([version, link, hello, options]) => {
                const { begin } = await import(`/web/${version}/side.mjs`);
                globalThis.side = await begin(link, hello, options);
            }""",
            [made.version, link, fields, {"speaks": speaks, "picture": [*picture], "relayOnly": relay_only}],
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


def meet(
    server: Server,
    background: Background,
    browser: Any,
    python: PythonEnd | None = None,
    *,
    offers: str = "python",
    **more: Any,
) -> tuple[PythonEnd, BrowserEnd]:
    """A Python end and a page, both greeted; who is there first makes the offer."""
    python = python or PythonEnd(address(server))
    if offers == "python":
        background.run(python.start())
        waits(lambda: server.rooms)
    page = BrowserEnd(browser, address(server).link, **more)
    if offers == "browser":
        waits(lambda: server.rooms)
        background.run(python.start())
    page.until(lambda state: state["phase"] == "open" and state["words"])
    waits(lambda: python.session.phase == "open" and python.session.acquaintance.words)
    return python, page


@pytest.mark.parametrize("offers", ["browser", "python"])
def test_browser_and_python_meet_whoever_makes_the_offer(
    server: Server, background: Background, browser: Any, offers: str
) -> None:
    python, page = meet(server, background, browser, offers=offers)
    state = page.state
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
    background.run(python.close())
    state = page.until(lambda state: state["phase"] == "ended")
    assert state["saidBye"] == "good night"
    assert page.problems == []
    page.close()


def test_the_page_is_isolated_and_may_run_networks_on_several_threads(server: Server, browser: Any) -> None:
    page = browser.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.goto(address(server).link)
    made = read_web_page()
    assert made is not None
    found = page.evaluate(
        """async (base) => {
            const engine = await import(`${base}vendor/ort.wasm.bundle.min.mjs`);
            engine.env.wasm.numThreads = 2;
            engine.env.wasm.wasmPaths = { wasm: `${location.origin}${base}vendor/ort-wasm-simd-threaded.wasm` };
            const session = await engine.InferenceSession.create(`${base}networks/eye.onnx`);
            return [crossOriginIsolated, engine.env.wasm.numThreads, session.inputNames.length];
        }""",
        f"/web/{made.version}/",
    )
    assert found[:2] == [True, 2]
    assert found[2] > 0
    assert problems == []
    page.close()


def test_two_browsers_meet(server: Server, browser: Any) -> None:
    first, second = (BrowserEnd(browser, address(server).link) for _ in range(2))
    for page in (first, second):
        page.until(lambda state: state["phase"] == "open" and state["words"] and state["hears"])
        page.until(lambda state: any(asked[0] == "confirm" for asked in state["asked"]))
        page.do("side.sendMotion()")
    words = [page.until(lambda state: state["packets"] == 1)["words"] for page in (first, second)]
    assert words[0] == words[1]
    assert [page.asked("prepare")[0][2] for page in (first, second)] == [99, 99]
    began = time.monotonic()
    second.close()
    # Whoever closes the page says goodbye, and leaves the room to others.
    assert first.until(lambda state: state["phase"] == "ended")["saidBye"] == "hung up"
    assert time.monotonic() - began < VANISHED_S / 2
    waits(lambda: len(server.rooms["tea"].members) == 1)
    assert first.problems == []
    first.close()


def test_page_that_is_closed_says_goodbye_to_python(server: Server, background: Background, browser: Any) -> None:
    python, page = meet(server, background, browser)
    began = time.monotonic()
    page.close()
    waits(lambda: python.session.phase == "ended")
    assert time.monotonic() - began < VANISHED_S / 2
    assert python.session.said_bye == "hung up"
    background.run(python.close())


def test_wrong_secret_gets_one_sentence(server: Server, background: Background, browser: Any) -> None:
    python = PythonEnd(address(server))
    background.run(python.start())
    waits(lambda: server.rooms)
    page = BrowserEnd(browser, address(server, OTHER_SECRET).link)
    state = page.until(lambda state: state["trouble"])
    assert state["trouble"] == "meeting point refused: room tea exists and has another secret; ask for its link"
    assert state["phase"] == "alone"
    page.close()
    background.run(python.close())


class TokenAlone(LinkSecret):
    """What somebody has who was in place of the signalling server: he gets into the room, and no further."""

    @property
    def key(self) -> bytes:
        return bytes(32)


def test_whoever_has_the_token_alone_is_refused_and_not_tried_again(
    server: Server, background: Background, browser: Any
) -> None:
    python = PythonEnd(RoomAddress(server.url, "tea", TokenAlone(SECRET.text)))
    background.run(python.start())
    waits(lambda: server.rooms)
    page = BrowserEnd(browser, address(server).link)
    state = page.until(lambda state: state["trouble"])
    assert state["trouble"] == NOT_PROVEN
    assert (state["notProven"], state["connections"]) == (1, 0)
    assert python.link.connections == 0
    page.close()
    background.run(python.close())


class OtherVersion(PythonEnd):
    """Of the next protocol version, as its first message says."""

    def opened(self, peer: Peer, handshake: Handshake) -> None:
        def send(data: bytes) -> bool:
            return peer.send_control(b"\x98\x01\x02" + data[3:] if data[1] == Hello.TYPE else data)

        self.session.opened(send, handshake)


@pytest.mark.parametrize(
    ("end", "hello", "said"),
    [
        (OtherVersion, HELLO, "different protocol versions .*version 2, this side speaks 1.*: please update the older"),
        (
            PythonEnd,
            replace(HELLO, weights_hash="5a" * 32),
            "weights 5a5a5a5a5a5a, this side 0f0f.*same version of kilo",
        ),
    ],
)
def test_another_version_and_other_weights_get_one_sentence(
    server: Server, background: Background, browser: Any, end: type[PythonEnd], hello: Hello, said: str
) -> None:
    python = end(address(server), hello)
    background.run(python.start())
    waits(lambda: server.rooms)
    page = BrowserEnd(browser, address(server).link, speaks=False)
    state = page.until(lambda state: state["phase"] == "refused")
    assert re.search(said, state["reason"])
    # The other side is told.
    waits(lambda: python.session.said_bye)
    page.close()
    background.run(python.close())


def test_lost_connection_is_made_anew_and_the_picture_is_not_sent_again(
    server: Server, background: Background, browser: Any
) -> None:
    python, page = meet(server, background, browser)
    before = page.state["words"]
    waits(lambda: python.session.confirmed and page.asked("prepare"))
    peer = python.link.peer
    assert peer is not None
    background.run(peer.close())
    page.until(lambda state: state["lost"] == 1)
    state = page.until(lambda state: state["connections"] == 2 and state["phase"] == "open" and state["words"])
    assert state["words"] != before
    waits(lambda: len(page.asked("prepare")) == 2)  # from memory
    assert python.session.pictures.sent == 1
    background.run(python.close())
    page.close()


@pytest.fixture
def turn_port(background: Background, tmp_path: Path) -> Iterator[int]:
    turn = coturn(tmp_path)
    yield background.run(turn.__aenter__())
    background.run(turn.__aexit__(None, None, None))


def test_browser_is_reached_through_the_turn_server_that_the_meeting_point_names(
    background: Background, browser: Any, turn_port: int
) -> None:
    urls = (f"turn:127.0.0.1:{turn_port}",)
    server = Server(SignallingSettings(turn_urls=urls, turn_secret=TURN_SECRET))
    background.run(server.__aenter__())
    python, page = meet(server, background, browser, relay_only=True)
    background.loop.call_soon_threadsafe(python.say_motion)
    state = page.until(lambda state: state["packets"] == 12)
    assert (state["connections"], state["malformed"]) == (1, 0)
    background.run(python.close())
    page.close()
    background.run(server.__aexit__())


def test_without_a_turn_server_nothing_is_tried_that_would_show_the_address(server: Server, browser: Any) -> None:
    page = BrowserEnd(browser, address(server).link, relay_only=True)
    assert page.until(lambda state: state["trouble"])["trouble"].startswith("only a TURN server is to be used, and")
    page.close()


@pytest.mark.slow
def test_other_side_that_stands_still_is_given_up_and_met_again(server: Server, browser: Any) -> None:
    elsewhere = Background()  # apart from the signalling server, which goes on
    python, page = meet(server, elsewhere, browser)
    elsewhere.loop.call_soon_threadsafe(time.sleep, VANISHED_S + 2)
    began = time.monotonic()
    state = page.until(lambda state: state["lost"] == 1)
    assert state["reason"] in ("nothing has arrived for 9 s", "the two sides cannot reach each other")
    assert VANISHED_S - 2 < time.monotonic() - began < VANISHED_S + 2
    state = page.until(lambda state: state["connections"] == 2 and state["phase"] == "open" and state["words"])
    waits(lambda: python.session.acquaintance.words == tuple(state["words"]))
    elsewhere.run(python.close())
    elsewhere.close()
    page.close()


def test_connection_outlives_the_signalling_server(background: Background, browser: Any) -> None:
    before = Server()
    background.run(before.__aenter__())
    python, page = meet(before, background, browser)
    background.run(before.__aexit__())
    page.until(lambda state: state["trouble"])
    assert "the meeting point cannot be reached: 127.0.0.1" in page.state["trouble"]
    after = Server(port=before.port)
    background.run(after.__aenter__())
    state = page.until(lambda state: not state["trouble"])
    waits(lambda: len(after.rooms["tea"].members) == 2)
    background.loop.call_soon_threadsafe(python.say_motion)
    state = page.until(lambda state: state["packets"] == 12)
    assert (state["connections"], state["lost"]) == (1, 0)
    background.run(python.close())
    page.close()
    background.run(after.__aexit__())


def test_computer_that_comes_online_again_goes_on_with_the_same_connection(
    server: Server, background: Background, browser: Any
) -> None:
    context = browser.new_context(permissions=["microphone"])
    python, page = meet(server, background, context)
    before = re.search(r'messages_total\{type="join"\} ([\d.]+)', server.metrics)
    context.set_offline(True)
    context.set_offline(False)

    def came_back() -> bool:
        found = re.search(r'messages_total\{type="join"\} ([\d.]+)', server.metrics)
        return found is not None and before is not None and float(found[1]) == float(before[1]) + 1

    waits(came_back)
    background.loop.call_soon_threadsafe(python.say_motion)
    state = page.until(lambda state: state["packets"] == 12)
    assert (state["connections"], state["lost"], state["trouble"]) == (1, 0, "")
    background.run(python.close())
    context.close()


def test_what_a_browser_keeps_is_there_when_the_link_is_opened_again(
    server: Server, background: Background, browser: Any, tmp_path: Path
) -> None:
    context = browser.new_context(permissions=["microphone"])
    python, page = meet(server, background, context, PythonEnd(address(server), cache=tmp_path))
    waits(lambda: python.session.confirmed)
    assert not page.state["verified"]
    page.do("side.session.acquaintance.compared(side.session.acquaintance.words)")
    assert page.state["verified"]
    page.close()
    waits(lambda: python.session.phase == "ended")
    background.run(python.close())
    again, page = meet(server, background, context, PythonEnd(address(server), cache=tmp_path))
    # The words were compared by the person at the browser: it recognises the other side.
    page.until(lambda state: state["verified"])
    assert not again.session.acquaintance.verified
    waits(lambda: again.session.confirmed)
    assert page.do("side.session.pictures.fromCache") == 1
    assert (python.session.pictures.sent, again.session.pictures.sent) == (1, 0)
    background.run(again.close())
    context.close()


@pytest.mark.slow
@pytest.mark.parametrize("offers", ["browser", "python"])
def test_speech_is_sent_in_the_packets_that_the_plan_asks_for(
    server: Server, background: Background, browser: Any, offers: str
) -> None:
    python, page = meet(server, background, browser, offers=offers)
    # Per packet 40 bytes of headers on IPv4, and 10 of SRTP.
    for packet_ms, bitrate_bps, packets, size in (
        (60, 12_000, (15, 18), 140),
        (120, 6000, (6, 9), 140),
        (20, 6000, (42, 52), 65),
    ):
        page.page.evaluate(f"() => side.link.peer.setSpeech({{ bitrateBps: {bitrate_bps}, packetMs: {packet_ms} }})")
        page.page.wait_for_timeout(500)
        before, began = python.speech, time.monotonic()
        page.page.wait_for_timeout(2000)
        count, octets = (now - then for now, then in zip(python.speech, before, strict=True))
        assert packets[0] <= count / (time.monotonic() - began) <= packets[1]
        assert octets / count < size + 50
    assert page.state["connections"] == 1
    background.run(python.close())
    page.close()


@pytest.mark.slow
def test_a_whole_python_party_sees_the_browser_and_is_seen(
    server: Server, browser: Any, family: Family, astronaut_clip: Path, tmp_path: Path
) -> None:
    """`kilocall call` with the built-in speaker as its camera; the browser sends the motion of the same speaker."""
    roots = [str(ROOT / root) for root in ("sender", "receiver", "shared", "proto")]
    link = address(server).link
    options = (
        "call",
        "--headless",
        "--camera",
        str(astronaut_clip),
        "--seconds",
        "18",
        "--report",
        str(tmp_path / "report.json"),
    )
    node = subprocess.Popen(
        [sys.executable, "-m", "kilocall.cli", *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots), "KILOCALL_CACHE": str(tmp_path), ROOM_VARIABLE: link},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        reader = StreamReader(sample_stream("astronaut"))
        source = reader.source_picture()
        assert source is not None
        page = BrowserEnd(browser, link, hello=hello_of(family, 25), picture=source.data)
        state = page.until(
            lambda state: state["phase"] == "open" and ["confirm", source.picture_hash] in state["asked"]
        )
        packets = [[*bytes(timed.packet)] for timed in reader.packets()]
        page.page.evaluate("(packets) => void side.play(packets)", packets)
        state = page.until(lambda state: state["phase"] == "ended")
        output, _ = node.communicate(timeout=30)
    finally:
        node.kill()
    assert node.returncode == 0, output
    report = CallReport.model_validate_json((tmp_path / "report.json").read_text())
    # A slow computer shows fewer; each is of the browser's motion.
    assert report.pictures > 20
    assert report.packets_received > 0.8 * len(packets)
    assert (report.malformed, report.connections) == (0, 1)
    # And the other way: packets of some frames each, and a picture of the size that cameras give.
    assert state["packets"] > 40
    assert state["malformed"] == 0
    assert page.asked("prepare")[0][2] > 2000
    assert page.problems == []
    page.close()
