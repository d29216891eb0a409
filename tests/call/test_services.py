"""The one-way services, sender and receiver in one process, over a real connection on the loopback; who may ask."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from handshakes import OFFER
from kilocall.proto.errors import BadInput, NotProven
from kilocall.proto.trust import ONE_WAY_ROOM, Handshake
from kilocall.receiver import service as receiver_service
from kilocall.receiver.service import ReceiverService, ReceiverSettings
from kilocall.runtime.peer import Peer
from kilocall.runtime.peer_settings import PeerSettings
from kilocall.runtime.web import PageKey
from kilocall.sender import service as sender_service
from kilocall.sender.__main__ import main as start_sender
from kilocall.sender.service import SenderService, SenderSettings
from meeting import OTHER_SECRET, SECRET

WITHIN_S = 40.0


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not true():  # noqa: ASYNC110  (nothing tells the test)
            await asyncio.sleep(0.02)


def serve(sender: SenderService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets receivers' HTTP requests be calls on the same event loop; those to http://between get another's answer."""
    loop = asyncio.get_running_loop()

    async def take(address: str, body: dict[str, str]) -> dict[str, Any]:
        if address.endswith("/handshakes"):
            return {"commitment": sender.meet(body["commitment"])}
        sdp, tag = await sender.answer_proven(body["sdp"], body.get("commitment", ""), body.get("tag", ""))
        if address.startswith("http://between"):
            between = Peer(PeerSettings(audio=False, loopback="only"))
            sdp = await between.answer(body["sdp"])
            await between.close()
        return {"sdp": sdp, "tag": tag}

    def post(address: str, body: dict[str, str]) -> dict[str, Any]:
        return asyncio.run_coroutine_threadsafe(take(address, body), loop).result(WITHIN_S)

    monkeypatch.setattr(receiver_service, "_post", post)


def new_receiver(token: str = SECRET.text) -> ReceiverService:
    return ReceiverService(ReceiverSettings(loopback="only", token=token))


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def test_one_sender_serves_two_receivers_and_stops(drawing_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        sender = SenderService(SenderSettings(camera=str(drawing_clip), loopback="only", token=SECRET.text))
        serve(sender, monkeypatch)
        await sender.start()
        with pytest.raises(BadInput, match="running already"):
            await sender.start()
        first, second = new_receiver(), new_receiver()
        await asyncio.gather(first.open(), second.open())
        # Somebody in between, and a receiver that has not the token: nothing comes of them.
        await second.start("http://between")
        await until(lambda: second.not_proven > 0)
        await second.stop()
        assert sender.not_proven == 0
        stranger = new_receiver(OTHER_SECRET.text)
        await stranger.open()
        await stranger.start("http://sender")
        await until(lambda: stranger.not_proven > 0)
        await stranger.close()
        assert sender.not_proven == stranger.not_proven
        with pytest.raises(NotProven, match="the receiver needs the same KILOCALL_TOKEN"):
            await sender.answer_proven(OFFER, "", "")
        await until(lambda: not sender.receivers)
        await first.start("http://sender")
        await until(lambda: first.pictures >= 5)
        # The second comes in when packets already refer to what only the first holds.
        await second.start("http://sender")
        await until(lambda: second.pictures >= 5 and first.pictures >= 10)
        assert first.source is not None
        assert second.source == first.source
        assert first.jpeg is not None
        assert first.jpeg[:2] == b"\xff\xd8"
        state = sender.state()
        assert [receiver["state"] for receiver in state["receivers"]] == ["open", "open"]
        assert state["payload_bits_per_frame"] < 200
        await second.stop()
        await until(lambda: len(sender.receivers) == 1)
        await sender.stop()
        # Told by the farewell, and by the next try half a second later.
        await until(lambda: bool(re.search("was stopped|is not running", first.problem or "")))
        assert sender.state()["running"] is False
        await asyncio.gather(first.close(), second.close())

    run(main())


def test_a_video_layer_goes_to_those_receivers_that_take_it_and_to_one_that_comes_later_at_once(
    drawing_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        sender = SenderService(SenderSettings(camera=str(drawing_clip), loopback="only", token=SECRET.text))
        serve(sender, monkeypatch)
        await sender.start()
        first, plain, late = new_receiver(), new_receiver(), new_receiver()
        await asyncio.gather(first.open(), late.open())
        with monkeypatch.context() as patched:
            patched.setattr(receiver_service, "LAYER_TAKEN_BPS", 0)
            await plain.open()
        await plain.start("http://sender")
        await until(lambda: plain.pictures >= 3)
        assert sender.sending is not None
        assert sender.sending.layer.frames == 0  # nobody takes one
        await first.start("http://sender")
        await until(lambda: first.layered)
        keys = sender.sending.layer.key_frames
        await late.start("http://sender")
        await until(lambda: late.layered)
        assert sender.sending.layer.key_frames > keys
        assert sender.sending.layer.setting is not None
        assert sender.sending.layer.setting.kbps == 3
        assert sender.state()["layer_frames"] >= 2
        shown = plain.pictures
        await until(lambda: plain.pictures > shown)
        # Had it been sent any it would show it; a program that does not know fragments would lose the motion, too.
        assert not plain.layered
        assert [one.layer_bps for one in sender.receivers].count(0) == 1
        assert all(receiver["malformed"] == 0 for receiver in sender.state()["receivers"])
        # Without anybody who takes it none is coded.
        await asyncio.gather(first.stop(), late.stop())
        await until(lambda: sender.sending is not None and sender.sending.layer.setting is None)
        await sender.stop()
        await asyncio.gather(first.close(), plain.close(), late.close())

    run(main())


def test_layers_rate_is_one_of_the_ladders(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="layer is 4 kbit/s"):
        SenderSettings(layer=4, token=SECRET.text)
    with pytest.raises(SystemExit) as ended:
        start_sender(layer=4.0)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("kilocall.sender: layer is 4 kbit/s; allowed are 0 (none), 1.5, 3")


@pytest.mark.parametrize(
    "address",
    [
        *("sender:8720", "ftp://sender", "file:///etc/passwd", "http://", "http://:8720", "http://[::1"),
        # What would make of /handshakes a part of something else.
        *("http://inner/delete?all=", "http://inner?", "http://inner/#", "http://user@inner", "http://user:word@inner"),
    ],
)
def test_address_that_is_none_is_refused(address: str) -> None:
    async def main() -> None:
        with pytest.raises(BadInput, match="allowed: http://host:port"):
            await new_receiver().start(address)

    run(main())


def test_page_camera_is_refused_by_the_sender() -> None:
    async def main() -> None:
        with pytest.raises(BadInput, match="this service has no page"):
            await SenderService(SenderSettings(camera="browser", token=SECRET.text)).start()

    run(main())


def test_sender_that_is_not_running_says_so_and_asks_for_its_token() -> None:
    app = sender_service.create_app(SenderSettings(camera="missing.mp4", token=SECRET.text), start=False)
    with TestClient(app, base_url="http://127.0.0.1:8720") as client:
        assert client.get("/health").json() == {"running": False}
        assert client.get("/state").status_code == 401
        client.headers["Authorization"] = f"Bearer {SECRET.text}"
        assert client.get("/state").json()["receivers"] == []
        answer = client.post("/receivers", json={"type": "offer", "sdp": "v=0"})
        assert answer.status_code == 422
        assert "the receiver needs the same KILOCALL_TOKEN" in answer.json()["error"]
        mine, offer = Handshake(SECRET.key, ONE_WAY_ROOM, offers=True), OFFER
        mine.meet(client.post("/handshakes", json={"commitment": mine.commitment}).json()["commitment"])
        proven = {"type": "offer", "sdp": offer, "commitment": mine.commitment, "tag": mine.seal(offer)}
        answer = client.post("/receivers", json=proven)
        assert (answer.status_code, answer.json()) == (422, {"error": "the sender is not running; POST /start first"})
        # Once: what was seen on the way is worth nothing.
        assert "no handshake came before this offer" in client.post("/receivers", json=proven).json()["error"]
        assert app.state.service.not_proven == 2
        answer = client.post("/start", json={})
        assert answer.status_code == 422
        assert "missing.mp4" in answer.json()["error"]
        assert client.put("/source", content=b"no picture").status_code == 422
        assert b"kilocall_sender_receivers 0.0" in client.get("/metrics").content


BEARER = {"Authorization": f"Bearer {SECRET.text}"}


def test_a_page_from_elsewhere_does_not_turn_on_the_camera_of_a_waiting_sender(tmp_path: Path) -> None:
    app = sender_service.create_app(SenderSettings(camera="missing.mp4", token=SECRET.text), start=False)
    foreign = {"Origin": "https://example.org"}
    with TestClient(app, base_url="http://127.0.0.1:8720") as client:
        # As a page can send it without asking first: no header, no JSON type.
        assert client.post("/start", content="{}", headers={**foreign, "Content-Type": "text/plain"}).status_code == 403
        # With a token that was learnt somewhere, too.
        assert client.post("/start", headers={**foreign, **BEARER}).status_code == 403
        assert client.post("/handshakes", json={"commitment": "0" * 64}, headers=foreign).status_code == 403
        # Nor does anybody without the token, or one under a name that was made to lead here.
        assert client.post("/start").status_code == client.post("/stop").status_code == 401
        assert client.put("/source", content=b"picture").status_code == client.get("/source.jpg").status_code == 401
        assert client.get("/metrics").status_code == 401
        assert client.post("/start", headers={"Host": "example.org", **BEARER}).status_code == 400
        assert app.state.service.sending is None
        assert app.state.service.problem is None
        assert "missing.mp4" in client.post("/start", headers=BEARER).json()["error"]


INNER = "what only the inside is to know"


class Inner(ThreadingHTTPServer):
    """A server inside somebody's network, and what it was asked: path, headers and body."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: list[tuple[str, str]] = []
        self.address = f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Inner

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        self.server.asked.append((self.path, f"{self.headers}{body}"))
        kind = self.path.split("/")[1]
        if kind == "garbage":
            self.wfile.write(f"{INNER}\r\n\r\n".encode())
            return
        if kind == "redirect":
            self.send_response(302)
            self.send_header("Location", f"{self.server.address}/{INNER.replace(' ', '-')}")
        else:
            self.send_response(500 if kind == "error" else 200, INNER)
        self.end_headers()
        answers = {
            "json": f'{{"commitment": "{INNER}"}}'.encode(),
            "other": f'{{"{INNER}": 1}}'.encode(),
            "deep": b"[" * 60_000,
            "binary": b"\x89" + INNER.encode(),
        }
        self.wfile.write(answers.get(kind, INNER.encode()))

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def inner() -> Iterator[Inner]:
    with Inner() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def receiver() -> Iterator[TestClient]:
    """The service with a page, bound to no sender."""
    app = receiver_service.create_app(ReceiverSettings(token=SECRET.text, loopback="only"), key=PageKey())
    with TestClient(app, base_url="http://127.0.0.1:8730") as client:
        yield client


@contextlib.contextmanager
def receiving_from(receiver: TestClient, sender: str) -> Iterator[None]:
    assert receiver.post("/start", json={"sender": sender}, headers=BEARER).status_code == 200
    yield
    assert receiver.post("/stop", headers=BEARER).status_code == 200


def problem_of(receiver: TestClient) -> str:
    end = time.monotonic() + WITHIN_S
    while not (problem := receiver.get("/state", headers=BEARER).json()["problem"]):
        assert time.monotonic() < end
        time.sleep(0.05)
    return str(problem)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("redirect", "refused with status 302"),
        ("error", "refused with status 500"),
        ("text", "the answer is not a sender's"),
        ("binary", "the answer is not a sender's"),
        ("garbage", "the answer is not a sender's"),
        ("deep", "the answer is not a sender's"),
        ("other", "the answer is not a sender's"),
        ("json", "could not prove"),
    ],
)
def test_a_server_that_is_no_sender_is_not_read_aloud(
    receiver: TestClient, inner: Inner, kind: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving_from(receiver, f"{inner.address}/{kind}"):
        problem = problem_of(receiver)
        assert problem.startswith(f"{inner.address}/{kind}: ")
        assert said in problem
        everything = receiver.get("/state", headers=BEARER).text + receiver.get("/health").text + caplog.text
    assert INNER not in everything
    assert "0x89" not in everything
    # Asked where it was said to be, by what it was said to be asked for, and never told the token.
    assert {path for path, _ in inner.asked} == {f"/{kind}/handshakes"}
    assert all(SECRET.text not in text and "authorization" not in text.lower() for _, text in inner.asked)


def test_nobody_without_token_or_cookie_makes_the_receiver_ask(receiver: TestClient, inner: Inner) -> None:
    command = {"sender": inner.address}
    assert receiver.post("/start", json=command).status_code == 401
    foreign = {"Origin": "https://example.org"}
    assert receiver.post("/start", json=command, headers={**foreign, **BEARER}).status_code == 403
    assert receiver.post("/start", json=command, headers={**BEARER, "Host": "example.org"}).status_code == 400
    for path in ("/state", "/metrics", "/picture.jpg", "/source.jpg", "/stream.mjpg"):
        assert receiver.get(path).status_code == 401, path
    assert receiver.post("/stop").status_code == receiver.post("/view", json={}).status_code == 401
    assert receiver.get("/health").json() == {"connection": "closed"}
    assert b"Reconstructed from one picture" in receiver.get("/").content
    assert not inner.asked


def test_a_receiver_without_a_sender_must_be_named_one(receiver: TestClient) -> None:
    nothing: dict[str, str] = {}
    for command in (nothing, None):
        answer = receiver.post("/start", headers=BEARER, json=command)
        assert (answer.status_code, "sender is missing" in answer.text) == (422, True)


def test_a_receiver_with_a_sender_takes_no_other(inner: Inner) -> None:
    async def main() -> None:
        own = ReceiverService(ReceiverSettings(sender=f"{inner.address}/error", token=SECRET.text, loopback="only"))
        with pytest.raises(BadInput, match="this receiver belongs to"):
            await own.start(f"{inner.address}/text")
        assert own.state()["sender"] is None

    run(main())
    assert not inner.asked


def test_no_service_is_without_a_token_and_none_shows_it() -> None:
    for settings in (SenderSettings, ReceiverSettings):
        with pytest.raises(ValueError, match="token"):
            settings.model_validate({})
        assert SECRET.text not in repr(settings.model_validate({"token": SECRET.text}))
