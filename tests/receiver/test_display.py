"""The page gets the newest picture and state, commands and uploads are checked, other sites are kept out."""

from __future__ import annotations

import io
import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image
from starlette.websockets import WebSocketDisconnect

from kilocall.proto.errors import BadInput
from kilocall.receiver import display
from kilocall.receiver.display import FRAME_HEADER, MAX_UPLOAD_BYTES, create_app
from kilocall.runtime.web import COMMON, PageKey, listen

Picture = NDArray[np.uint8]
ADDRESS = "http://127.0.0.1:8765"
LIVE = "ws://127.0.0.1:8765/live"
PAGE = Path(display.__file__).parent / "page"


def read_face(data: bytes) -> Picture:
    """What the command line does with an upload, without a network: any picture that is not black has a face."""
    with Image.open(io.BytesIO(data)) as picture:
        rgb = np.array(picture.convert("RGB"), np.uint8)
    if not rgb.any():
        raise BadInput("no face in it")
    return rgb


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 32), (value,) * 3).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def client(replay_stream: Any) -> Iterator[TestClient]:
    key = PageKey()
    app = create_app(replay_stream, name="clip.kcs", read_face=read_face, key=key)
    with TestClient(app, base_url=ADDRESS, headers={"Authorization": f"Bearer {key.text}"}) as client:
        yield client


class Page:
    """A page's side of the socket."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.stream = self.text("stream")

    def ask(self, **command: object) -> None:
        self.session.send_text(json.dumps(command))

    def message(self) -> tuple[dict[str, Any] | None, bytes | None]:
        message = self.session.receive()
        if message["type"] == "websocket.close":
            raise WebSocketDisconnect(message["code"])
        return (json.loads(message["text"]), None) if message.get("text") else (None, message["bytes"])

    def text(self, kind: str, **fields: object) -> dict[str, Any]:
        """The next text of a kind with these values; an endless wait is ended by the test's own limit."""
        for _ in range(500):
            text, _ = self.message()
            if text and text["type"] == kind and fields.items() <= text.items():
                return text
        raise AssertionError(f"no {kind} with {fields}")

    def picture(
        self, accept: Callable[[int, int], bool] = lambda frame, brightness: True
    ) -> tuple[int, int, int, float]:
        """Frame, time, brightness and bits of the next picture that is accepted."""
        for _ in range(500):
            _, data = self.message()
            if data is None:
                continue
            frame, time_us, bits, _made_ms, _camera = FRAME_HEADER.unpack_from(data)
            decoded = cv2.imdecode(np.frombuffer(data[FRAME_HEADER.size :], np.uint8), cv2.IMREAD_COLOR)
            assert decoded is not None
            if accept(frame, int(decoded.mean())):
                return frame, time_us, int(decoded.mean()), bits
        raise AssertionError("no such picture")


@pytest.fixture
def page(client: TestClient) -> Iterator[Page]:
    with client.websocket_connect(LIVE) as session:
        yield Page(session)


def test_the_page_learns_what_the_stream_is(page: Page) -> None:
    facts = page.stream
    assert (facts["name"], facts["frames"], facts["fps"]) == ("clip.kcs", 60, 25.0)
    assert facts["duration_us"] == 2_400_000
    assert facts["keys_us"] == [0, 1_200_000]
    assert facts["bits_per_frame"] == 32


def test_it_plays_as_soon_as_somebody_looks(page: Page) -> None:
    assert page.text("state", playing=True)["speed"] == 1.0
    frame, time_us, brightness, bits = page.picture(lambda frame, _: frame > 3)
    assert time_us == (frame - 1) * 40_000
    assert abs(brightness - (frame - 1)) <= 1
    assert bits == 32


def test_commands_change_what_is_shown(page: Page) -> None:
    page.ask(do="pause")
    page.text("state", playing=False)
    page.ask(do="seek", time_us=2_000_000)
    assert page.picture(lambda frame, _: frame == 51)[1] == 2_000_000
    page.ask(do="turn", yaw=90, pitch=0, roll=-5.5)
    assert page.text("state")["position_us"] == 2_000_000
    assert page.picture(lambda _, brightness: brightness > 120)[0] == 51
    page.ask(do="speed", speed=0.5)
    page.ask(do="loop", loop=True)
    state = page.text("state", loop=True)
    assert state["speed"] == 0.5
    assert state["view"] == {"yaw": 90, "pitch": 0, "roll": -5.5}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Invalid JSON"),
        ('{"do": "dance"}', "does not match any of the expected tags"),
        ('{"do": "seek", "time_us": -1}', "greater than or equal to 0"),
        ('{"do": "seek", "time_us": "1"}', "valid integer"),
        ('{"do": "turn", "yaw": 91, "pitch": 0, "roll": 0}', "less than or equal to 90"),
        ('{"do": "turn", "yaw": NaN, "pitch": 0, "roll": 0}', ""),
        ('{"do": "speed", "speed": 1000}', "less than or equal to 4"),
        ('{"do": "play", "really": true}', "Extra inputs are not permitted"),
    ],
)
def test_a_wish_that_is_none_is_refused_with_its_reason(page: Page, text: str, reason: str) -> None:
    page.session.send_text(text)
    error = page.text("error")["text"]
    assert reason in error
    page.ask(do="pause")
    page.text("state", playing=False)


def test_bytes_are_no_command(page: Page) -> None:
    page.session.send_bytes(b"play")
    assert "bytes" in page.text("error")["text"]


def test_an_uploaded_picture_is_shown_and_the_own_one_comes_back(client: TestClient, page: Page) -> None:
    page.ask(do="pause")
    page.text("state", playing=False)
    reply = client.post("/source", params={"name": "C:\\faces\\an\nna.png"}, content=png(100))
    assert reply.status_code == 200, reply.text
    state = page.text("state", relative=True)
    assert (state["source"], state["source_number"]) == ("anna.png", 1)
    page.picture(lambda _, brightness: brightness >= 99)
    shown = cv2.imdecode(np.frombuffer(client.get("/source.jpg").content, np.uint8), cv2.IMREAD_COLOR)
    assert shown is not None
    assert abs(shown.mean() - 100) < 1
    page.ask(do="own_source")
    assert page.text("state", relative=False)["source"] is None
    page.picture(lambda _, brightness: brightness < 60)


def test_speech_can_be_had_in_parts(spoken_stream: Any) -> None:
    key = PageKey()
    app = create_app(spoken_stream, name="clip.kcs", read_face=read_face, key=key)
    with TestClient(app, base_url=ADDRESS, headers={"Authorization": f"Bearer {key.text}"}) as client:
        whole = client.get("/sound.ogg")
        assert (whole.status_code, whole.headers["content-type"]) == (200, "audio/ogg")
        assert whole.content[:4] == b"OggS"
        part = client.get("/sound.ogg", headers={"Range": "bytes=100-199"})
        assert (part.status_code, part.content) == (206, whole.content[100:200])
        assert part.headers["content-range"] == f"bytes 100-199/{len(whole.content)}"
        assert client.get("/sound.ogg", headers={"Range": "bytes=-10"}).content == whole.content[-10:]
        assert client.get("/sound.ogg", headers={"Range": "bytes=100-"}).content == whole.content[100:]
        assert client.get("/sound.ogg", headers={"Range": f"bytes={len(whole.content)}-"}).status_code == 416
        assert client.get("/sound.ogg", headers={"Range": "lines=1-2"}).content == whole.content
    with av.open(io.BytesIO(whole.content), "r") as container:
        samples = sum(frame.samples for frame in container.decode(container.streams.audio[0]))
    assert abs(samples / 48_000 - 2.4) < 0.1


def test_a_stream_without_speech_has_none(client: TestClient) -> None:
    assert client.get("/sound.ogg").status_code == 404


def test_a_picture_without_a_face_is_refused(client: TestClient) -> None:
    reply = client.post("/source", content=png(0))
    assert (reply.status_code, reply.json()) == (422, {"error": "no face in it"})


def test_an_empty_upload_is_refused(client: TestClient) -> None:
    assert client.post("/source", content=b"").status_code == 422


@pytest.mark.parametrize("stated", [True, False])
def test_an_upload_over_the_limit_is_refused(client: TestClient, stated: bool) -> None:
    body = bytes(MAX_UPLOAD_BYTES + 1)
    reply = client.post("/source", content=body if stated else iter([body[:1000], body[1000:]]))
    assert reply.status_code == 413
    assert "4 MiB" in reply.json()["error"]


def test_another_site_gets_nothing(client: TestClient) -> None:
    foreign = {"origin": "https://example.org"}
    assert client.post("/source", content=png(100), headers=foreign).status_code == 403
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(LIVE, headers=foreign):
        pass
    assert client.get("/", headers={"host": "example.org"}).status_code == 400


def test_another_user_of_the_computer_gets_no_picture_and_presses_nothing(client: TestClient) -> None:
    del client.headers["Authorization"]
    assert client.get("/source.jpg").status_code == 401
    assert client.post("/source", content=png(100)).status_code == 401
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(LIVE):
        pass
    assert client.get("/").status_code == client.get("/health").status_code == 200


def test_the_same_site_is_let_in(client: TestClient) -> None:
    own = {"origin": ADDRESS, "host": "127.0.0.1:8765"}
    assert client.post("/source", content=png(100), headers=own).status_code == 200
    with client.websocket_connect(LIVE, headers=own) as session:
        assert Page(session).stream["frames"] == 60


def test_only_so_many_viewers_are_served(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "MAX_VIEWERS", 1)
    with client.websocket_connect(LIVE) as first:
        Page(first)
        with client.websocket_connect(LIVE) as second, pytest.raises(WebSocketDisconnect):
            Page(second)


def test_playing_stops_when_the_last_viewer_leaves(client: TestClient, replay_stream: Any) -> None:
    with client.websocket_connect(LIVE) as session:
        Page(session).picture()
    while client.get("/health").json()["viewers"]:
        pass
    before = client.get("/health").json()["pictures"]
    with client.websocket_connect(LIVE) as session:
        assert Page(session).text("state", playing=True)["position_us"] < 2_400_000
    assert client.get("/health").json()["pictures"] >= before


def test_health_tells_a_broken_model(client: TestClient, page: Page, replay_stream: Any) -> None:
    assert client.get("/health").status_code == 200
    replay_stream.renderer.fails = True
    page.ask(do="turn", yaw=1, pitch=0, roll=0)
    assert page.text("state", problem="RuntimeError: the model broke")
    assert client.get("/source.jpg").status_code == 503
    reply = client.get("/health")
    assert (reply.status_code, reply.json()["alive"]) == (503, False)


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    index = client.get("/")
    assert "default-src 'none'" in index.headers["content-security-policy"]
    served = {f"/{path.name}": path for path in PAGE.iterdir() if path.suffix in (".html", ".js", ".css")}
    served |= {f"/common/{path.name}": path for path in COMMON.iterdir()}
    assert "/common/live.js" in served
    for address, path in served.items():
        assert not re.search(r"https?://|style=|onclick=\"", path.read_text()), path
        assert client.get(address).status_code == 200
    for name in re.findall(r'(?:src|href)="([^"]+)"', index.text):
        assert client.get(f"/{name}").status_code == 200, name


def test_every_control_of_the_page_has_a_label() -> None:
    text = (PAGE / "index.html").read_text()
    script = (PAGE / "main.js").read_text()
    labelled = set(re.findall(r'<label for="([^"]+)"', text))
    wrapped = " ".join(re.findall(r"<label.*?</label>", text, re.S))
    controls = re.findall(r'<(?:input|select)[^>]*id="([^"]+)"([^>]*)', text)
    assert len(controls) >= 7
    for name, rest in controls:
        assert name in labelled or "aria-label=" in rest or f'id="{name}"' in wrapped, name
    for name in re.findall(r'\$\("([^"]+)"\)', script):
        assert f'id="{name}"' in text, name


def test_a_port_in_use_is_named() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use") as refused:
            listen("127.0.0.1", port)
        assert refused.value.filename == f"127.0.0.1:{port}"
        assert taken.family == socket.AF_INET


def test_a_picture_says_that_it_is_the_cameras_and_keeps_its_shape(client: TestClient, replay_stream: Any) -> None:
    replay_stream.camera_frames = range(20, 40)
    with client.websocket_connect(LIVE) as session:
        page = Page(session)
        page.ask(do="pause")
        for number, shape in ((25, (18, 32, 3)), (45, (32, 32, 3)), (20, (18, 32, 3)), (19, (32, 32, 3))):
            page.ask(do="seek", time_us=number * 40_000)
            data = None
            while data is None or FRAME_HEADER.unpack_from(data)[0] != number + 1:
                _, data = page.message()
            assert FRAME_HEADER.unpack_from(data)[4] == (number in replay_stream.camera_frames)
            picture = cv2.imdecode(np.frombuffer(data[FRAME_HEADER.size :], np.uint8), cv2.IMREAD_COLOR)
            assert picture is not None
            assert picture.shape == shape
