"""The one-way services, sender and receiver in one process, over a real connection on the loopback."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
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
from kilocall.sample import sample_clip
from kilocall.sender import service as sender_service
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


def new_receiver(token: str | None = SECRET.text) -> ReceiverService:
    return ReceiverService(ReceiverSettings(loopback="only", token=token))


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def test_one_sender_serves_two_receivers_and_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = sample_clip("drawing", tmp_path, threads=1)

    async def main() -> None:
        sender = SenderService(SenderSettings(camera=str(clip), loopback="only", token=SECRET.text))
        serve(sender, monkeypatch)
        await sender.start()
        with pytest.raises(BadInput, match="running already"):
            await sender.start()
        first, second = new_receiver(), new_receiver()
        await asyncio.gather(first.open(), second.open())
        # Somebody in between, and receivers that have not the token: nothing comes of them.
        for receiver, address, refused_by_sender in (
            (new_receiver(), "http://between", 0),
            (new_receiver(OTHER_SECRET.text), "http://sender", 1),
            (new_receiver(None), "http://sender", 2),
        ):
            receiver._hello, receiver._receiving = first._hello, first._receiving
            with pytest.raises(NotProven):
                await receiver._converse(address)
            assert sender.not_proven == refused_by_sender
            assert receiver.not_proven == (receiver._secret is not None)
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
    app = sender_service.create_app(SenderSettings(camera="missing.mp4", token=SECRET.text), start=False)
    with TestClient(app) as client:
        assert client.get("/health").json() == {"running": False, "problem": None}
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
