"""Who is let in: the key by which a page and its user's programs ask, and nobody else on the same computer."""

from __future__ import annotations

import os
import stat
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from fastapi import FastAPI, Response, WebSocket
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from kilocall.runtime.browser import open_in_browser
from kilocall.runtime.web import LOOPBACK, PageKey, guard, guard_page, listen, mount_page, shown_address

ADDRESS = "http://127.0.0.1:8710"
OTHER_ADDRESS = "http://127.0.0.1:8765"
ATTACKER = "http://127.0.0.1:9999"


def page_app(folder: Path, key: PageKey) -> FastAPI:
    """A page with something to read, something to press and a socket."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    guard_page(app, LOOPBACK, folder, key, bearers=["the program's token"])

    @app.get("/health")
    async def health() -> str:
        return "well"

    @app.get("/api/state")
    async def state() -> str:
        return "secret"

    @app.get("/metrics")
    async def metrics() -> str:
        return "secret"

    @app.post("/api/press")
    async def press() -> str:
        return "pressed"

    @app.websocket("/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("secret")

    mount_page(app, folder)
    return app


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text("<!doctype html>")
    return tmp_path / "page"


@pytest.fixture
def key() -> PageKey:
    return PageKey()


@pytest.fixture
def client(folder: Path, key: PageKey) -> Iterator[TestClient]:
    with TestClient(page_app(folder, key), base_url=ADDRESS) as client:
        yield client


def heard(client: TestClient, path: str = "/live", headers: dict[str, str] | None = None) -> str:
    # starlette's client would ask another host for a path alone.
    with client.websocket_connect(f"ws://{client.base_url.netloc.decode()}{path}", headers=headers or {}) as socket:
        return socket.receive_text()


def enter(client: TestClient, key: PageKey) -> None:
    assert client.post("/api/enter", content=key.text).text == key.place


def test_without_the_key_there_are_the_files_and_health_alone(client: TestClient) -> None:
    for path in ("/", "/index.html", "/common/enter.js", "/health"):
        assert client.get(path).status_code == 200, path
    for path in ("/api/state", "/metrics", "/api/entered", "//api/state", "/common/../api/state", "/none"):
        answer = client.get(path)
        assert (answer.status_code, "secret" in answer.text) == (401, False), path
    assert "the address that kilocall printed" in client.get("/api/state").json()["error"]
    assert client.post("/api/press").status_code == 401
    with pytest.raises(WebSocketDisconnect):
        heard(client)


@pytest.mark.parametrize("wrong", ["", "guessed", "é", "x" * 10_000])
def test_a_wrong_key_opens_nothing(client: TestClient, key: PageKey, wrong: str) -> None:
    for content in (wrong, f"{wrong}{key.text}x"):
        answer = client.post("/api/enter", content=content.encode())
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
    bearer, cookie = f"Bearer {wrong}".encode(), f"kilocall={wrong}".encode()
    assert client.get("/api/state", headers={b"Authorization": bearer}).status_code == 401
    assert client.get(f"{key.place}/api/state", headers={b"Cookie": cookie}).status_code == 401


def test_the_page_is_let_in_by_cookie(client: TestClient, key: PageKey) -> None:
    answer = client.post("/api/enter", content=key.text, headers={"Origin": ADDRESS})
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", f"Path={key.place}"} <= set(cookie.split("; "))
    assert client.get(f"{answer.text}/api/entered").status_code == 204
    assert client.get(f"{answer.text}/api/state").json() == "secret"
    assert client.post(f"{answer.text}/api/press", headers={"Origin": ADDRESS}).json() == "pressed"
    # httpx sends no cookies with the opening of a socket.
    assert heard(client, f"{answer.text}/live", {"Cookie": cookie.partition(";")[0]}) == "secret"


def test_a_program_is_let_in_by_what_it_sends_itself(client: TestClient, key: PageKey) -> None:
    for bearer in (key.text, "the program's token"):
        headers = {"Authorization": f"Bearer {bearer}"}
        assert client.get("/api/state", headers=headers).json() == "secret"
        assert client.post("/api/press", headers=headers).json() == "pressed"
        assert heard(client, headers=headers) == "secret"


def test_the_cookie_is_worth_nothing_but_for_the_pages_own_path(client: TestClient, key: PageKey) -> None:
    enter(client, key)
    # To an address that is no secret the browser does not send it, and it would not be taken there.
    assert client.get("/api/state").status_code == 401
    assert client.get("/api/state", headers={"Cookie": f"kilocall={key.text}"}).status_code == 401
    # The path alone is none either.
    client.cookies.clear()
    assert client.get(f"{key.place}/api/state").status_code == 401
    assert client.post(f"{key.place}/api/press").status_code == 401
    with pytest.raises(WebSocketDisconnect):
        heard(client, f"{key.place}/live")


def test_a_server_of_somebody_else_on_this_computer_is_sent_no_cookie(client: TestClient, key: PageKey) -> None:
    enter(client, key)
    # Cookies know no ports: one for all paths would go to whatever listens where an earlier page has been.
    for path in ("/", "/live", "/at/another/live", "/api/state"):
        assert "cookie" not in client.build_request("GET", ATTACKER + path).headers, path
    assert "cookie" in client.build_request("GET", f"{ADDRESS}{key.place}/live").headers


def test_a_cookie_that_another_server_added_shuts_nobody_out(client: TestClient, key: PageKey) -> None:
    both = {"Cookie": f"kilocall={key.text}; kilocall=another"}
    assert client.get(f"{key.place}/api/state", headers=both).json() == "secret"


def test_two_pages_on_one_computer_do_not_take_each_others_cookie(folder: Path, client: TestClient) -> None:
    first, second = PageKey(), PageKey()
    one = TestClient(page_app(folder, first), base_url=ADDRESS, cookies=client.cookies)
    two = TestClient(page_app(folder, second), base_url=OTHER_ADDRESS)
    enter(one, first)
    two.cookies = one.cookies  # one browser
    enter(two, second)
    one.cookies = two.cookies
    assert one.get(f"{first.place}/api/state").json() == two.get(f"{second.place}/api/state").json() == "secret"
    assert one.get(f"{second.place}/api/state").status_code == 401


@pytest.mark.parametrize("origin", ["https://example.org", "http://127.0.0.1:9999", "http://localhost:8710", "null"])
def test_the_page_of_another_site_presses_nothing_even_with_the_cookie(
    client: TestClient, key: PageKey, origin: str
) -> None:
    enter(client, key)
    foreign = {"Origin": origin, "Cookie": f"kilocall={key.text}", "Authorization": f"Bearer {key.text}"}
    assert client.post(f"{key.place}/api/press", headers=foreign).status_code == 403
    assert client.post("/api/enter", content=key.text, headers=foreign).status_code == 403
    with pytest.raises(WebSocketDisconnect):
        heard(client, f"{key.place}/live", foreign)


def test_another_name_is_refused_whoever_asks(client: TestClient, key: PageKey) -> None:
    headers = {"Host": "example.org", "Authorization": f"Bearer {key.text}"}
    assert client.get("/api/state", headers=headers).status_code == 400
    assert client.get("/", headers=headers).status_code == 400


def test_every_answer_has_the_security_headers(client: TestClient, key: PageKey) -> None:
    for answer in (client.get("/"), client.get("/api/state"), client.post("/api/enter", content=key.text)):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_a_service_without_a_page_takes_no_cookie() -> None:
    app = FastAPI()
    guard(app, ("*",), ["token"], ("/open",))

    @app.get("/state")
    async def state() -> Response:
        return Response("secret")

    @app.post("/open")
    async def opened() -> Response:
        return Response("open")

    client = TestClient(app, base_url="http://sender:8720")
    assert client.get("/state").status_code == client.get("/", headers={"Cookie": "kilocall=token"}).status_code == 401
    assert client.get("/state", headers={"Authorization": "Bearer token"}).text == "secret"
    assert client.post("/open").text == "open"
    assert client.post("/open", headers={"Origin": "https://example.org"}).status_code == 403


def test_keys_are_of_one_process_and_not_shown_by_accident() -> None:
    first, second = PageKey(), PageKey()
    assert len({first.text, second.text, first.place, second.place}) == 4
    assert first.text not in repr(first)
    assert first.place not in repr(first)
    assert urlsplit(first.opens(ADDRESS)).fragment == first.text


def test_the_address_shown_is_one_to_open() -> None:
    with listen("0.0.0.0", 0) as listening:
        port = listening.getsockname()[1]
        assert shown_address("0.0.0.0", listening) == f"http://127.0.0.1:{port}"
        assert shown_address("::1", listening) == f"http://[::1]:{port}"


def test_no_key_is_among_what_the_browser_is_started_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setenv("HOME", str(tmp_path))
    key = PageKey()
    open_in_browser(key.opens(ADDRESS))
    assert key.text not in opened[0]
    file = Path(unquote(urlsplit(opened[0]).path))
    assert f"url={key.opens(ADDRESS)}" in file.read_text()
    if os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_where_no_file_can_be_written_nothing_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda _: pytest.fail("opened"))
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    open_in_browser(PageKey().opens(ADDRESS))
