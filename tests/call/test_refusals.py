"""What a node and its verb say when something cannot be."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kilocall.call.link import RoomAddress, find_room
from kilocall.call.running import call, serve
from kilocall.call.settings import settings_from
from kilocall.call.signalling import Signalling
from kilocall.proto.errors import BadInput
from kilocall.runtime.tasks import Tasks
from kilocall.runtime.web import listen
from kilocall.sender.camera import open_camera
from links import run
from meeting import OTHER_SECRET, SECRET, Server


@pytest.mark.parametrize(
    ("room", "found"),
    [
        (f"tea#{SECRET.text}", RoomAddress("http://here:1", "tea", SECRET)),
        (f"https://there/tea#{SECRET.text}", RoomAddress("https://there", "tea", SECRET)),
    ],
)
def test_room_is_a_name_or_a_link(room: str, found: RoomAddress) -> None:
    assert find_room(room, "http://here:1") == found
    assert find_room(found.link, "http://elsewhere") == found


def test_a_room_without_a_secret_gets_one_that_is_made_here() -> None:
    first, second = (find_room("tea", "http://here:1") for _ in range(2))
    assert (first.server, first.room) == ("http://here:1", "tea")
    assert first.secret != second.secret
    assert find_room(first.link, "http://elsewhere") == first


def test_a_secret_that_is_too_short_is_refused_without_being_shown() -> None:
    with pytest.raises(BadInput, match="the link's secret has 72 bits; allowed are 16 to 48 random bytes") as refusal:
        find_room("http://here:1/tea#0123456789ab", "http://here:1")
    assert "0123456789ab" not in str(refusal.value)


@pytest.mark.parametrize("room", ["", "a b", "ftp://x/room", "http:///room", "x" * 65, "http://host/a/b"])
def test_room_that_is_none_is_refused(room: str) -> None:
    with pytest.raises(BadInput, match="room is"):
        find_room(room, "http://here:1")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fps": 0}, "fps is '0'"),
        ({"seconds": -1}, "seconds is '-1'"),
        ({"source": Path("no-such.jpg")}, "source no-such.jpg: no such file"),
        ({"microphone": Path("no-such.wav")}, "microphone no-such.wav: no such file"),
        ({"headless": True, "camera": "browser"}, "a call without a page has none"),
        ({"report": Path("/no-such-folder/r.json")}, "does not exist"),
        ({"server": "ftp://meeting"}, "server is 'ftp://meeting', allowed is http"),
        ({"ice_servers": ["http://x"]}, "ICE server 'http://x'.*allowed are stun:HOST"),
        ({"ice_servers": ["turns:host?transport=udp,me,word"]}, r"no such transport here; allowed are stun:HOST"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_setting_out_of_range_is_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        settings_from(room="tea", **options)


def test_camera_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match=r"camera is 'no-such\.mp4'; allowed"):
        open_camera("no-such.mp4", 25)


def test_camera_that_cannot_be_opened_is_told_before_any_page() -> None:
    pages: list[str] = []

    async def check() -> None:
        async with Server() as server:
            settings = settings_from(room=f"tea#{SECRET.text}", server=server.url, camera="97", port=0)
            with pytest.raises(BadInput, match="camera 97 could not be opened"):
                await call(settings, on_page=pages.append)

    run(check())
    assert pages == []


def test_third_party_and_wrong_secret_are_refused_with_the_reason() -> None:
    async def main() -> None:
        listening = listen("127.0.0.1", 0)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = asyncio.create_task(serve(listening))
        async with Signalling(address, "tea", SECRET) as one, Signalling(address, "tea", SECRET) as two:
            await asyncio.gather(one.next(), two.next())
            async with Signalling(address, "tea", SECRET) as third:
                with pytest.raises(BadInput, match="two parties already"):
                    await asyncio.wait_for(third.next(), 5)
            async with Signalling(address, "tea", OTHER_SECRET) as stranger:
                with pytest.raises(BadInput, match="another secret"):
                    await asyncio.wait_for(stranger.next(), 5)
        server.cancel()
        await asyncio.wait([server])

    asyncio.run(main())


def test_tasks_log_what_fails_and_end_together(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise ValueError("broken")

    async def waits() -> None:
        await asyncio.sleep(100)

    async def main() -> None:
        tasks = Tasks()
        waiting = tasks.own(waits(), "waiting")
        tasks.own(fails(), "failing")
        await asyncio.sleep(0.01)
        await tasks.close()
        assert waiting.cancelled()

    asyncio.run(main())
    assert "task failing failed" in caplog.text
