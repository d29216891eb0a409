"""The one-way services, sender and receiver in one process, over a real connection on the loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from kilocall.proto.errors import BadInput
from kilocall.receiver.service import ReceiverService, ReceiverSettings
from kilocall.sample import sample_clip
from kilocall.sender import service as sender_service
from kilocall.sender.service import SenderService, SenderSettings

WITHIN_S = 15.0


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not true():  # noqa: ASYNC110  (nothing tells the test)
            await asyncio.sleep(0.02)


def receiver_of(sender: SenderService, monkeypatch: pytest.MonkeyPatch) -> ReceiverService:
    """A receiver whose HTTP request is a call on the same event loop."""
    receiver = ReceiverService(ReceiverSettings(loopback="only"))
    loop = asyncio.get_running_loop()

    def ask(address: str, offer: str) -> str:
        return asyncio.run_coroutine_threadsafe(sender.answer(offer), loop).result(WITHIN_S)

    monkeypatch.setattr(receiver, "_ask", ask)
    return receiver


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def test_one_sender_serves_two_receivers_and_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = sample_clip("drawing", tmp_path, threads=1)

    async def main() -> None:
        sender = SenderService(SenderSettings(camera=str(clip), loopback="only"))
        await sender.start()
        with pytest.raises(BadInput, match="running already"):
            await sender.start()
        first, second = receiver_of(sender, monkeypatch), receiver_of(sender, monkeypatch)
        await asyncio.gather(first.open(), second.open())
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
        await until(lambda: "stopped" in (first.problem or ""))
        assert sender.state()["running"] is False
        await asyncio.gather(first.close(), second.close())

    run(main())


@pytest.mark.parametrize("address", ["", "sender:8720", "ftp://sender", "http://"])
def test_address_that_is_none_is_refused(address: str) -> None:
    async def main() -> None:
        with pytest.raises(BadInput, match="allowed: http://host:port"):
            await ReceiverService(ReceiverSettings()).start(address)

    run(main())


def test_page_camera_is_refused_by_the_sender() -> None:
    async def main() -> None:
        with pytest.raises(BadInput, match="this service has no page"):
            await SenderService(SenderSettings(camera="browser")).start()

    run(main())


def test_sender_that_is_not_running_says_so_and_asks_for_its_token() -> None:
    app = sender_service.create_app(SenderSettings(camera="missing.mp4", token="open-sesame"), start=False)
    with TestClient(app) as client:
        assert client.get("/health").json() == {"running": False, "problem": None}
        assert client.get("/state").status_code == 401
        client.headers["Authorization"] = "Bearer open-sesame"
        assert client.get("/state").json()["receivers"] == []
        answer = client.post("/receivers", json={"type": "offer", "sdp": "v=0"})
        assert (answer.status_code, answer.json()) == (422, {"error": "the sender is not running; POST /start first"})
        answer = client.post("/start", json={})
        assert answer.status_code == 422
        assert "missing.mp4" in answer.json()["error"]
        assert client.put("/source", content=b"no picture").status_code == 422
        assert b"kilocall_sender_receivers 0.0" in client.get("/metrics").content
