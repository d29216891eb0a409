"""What a page gets of what is shown: the newest of each kind, and nothing while nobody sees it."""

from __future__ import annotations

import asyncio

from kilocall.runtime.viewers import Hub

REMOTE, OWN = b"the other side", b"this side"


def test_a_slow_page_gets_the_newest_of_each_kind_and_no_backlog() -> None:
    async def main() -> None:
        hub = Hub(["state"], kept_picture=1)
        viewer = hub.join()
        for number in range(100):
            hub.picture(bytes([1, number]), 1)
            hub.picture(bytes([2, number]), 2)
            hub.text({"type": "numbers", "number": number})
        viewer.put_text({"type": "error", "text": "for this one"})
        texts, pictures = await viewer.take()
        assert texts == [{"type": "numbers", "number": 99}, {"type": "error", "text": "for this one"}]
        assert pictures == [bytes([1, 99]), bytes([2, 99])]
        assert hub.pictures == 100

    asyncio.run(main())


def test_a_late_page_gets_what_lasts_and_the_last_picture() -> None:
    async def main() -> None:
        hub = Hub(["hello", "state"], kept_picture=1)
        hub.text({"type": "hello", "room": "tea"})
        hub.text({"type": "state", "phase": "alone"})
        hub.text({"type": "error", "text": "is over"})
        hub.picture(REMOTE, 1)
        hub.picture(OWN, 2)
        texts, pictures = await hub.join().take()
        assert [text["type"] for text in texts] == ["hello", "state"]
        assert pictures == [REMOTE]

    asyncio.run(main())


def test_what_lasts_is_told_once_until_it_changes() -> None:
    async def main() -> None:
        hub = Hub(["state"])
        viewer = hub.join()
        hub.text({"type": "state", "phase": "open"})
        await viewer.take()
        hub.text({"type": "state", "phase": "open"})
        hub.text({"type": "news"})
        texts, _ = await viewer.take()
        assert texts == [{"type": "news"}]

    asyncio.run(main())


def test_a_hidden_page_gets_no_pictures() -> None:
    async def main() -> None:
        hub = Hub(["state"])
        viewer = hub.join()
        viewer.visible = False
        hub.picture(REMOTE)
        hub.text({"type": "state", "phase": "open"})
        texts, pictures = await viewer.take()
        assert texts
        assert not pictures

    asyncio.run(main())
