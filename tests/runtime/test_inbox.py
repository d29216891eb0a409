from __future__ import annotations

from kilocall.runtime.inbox import Inbox, Message
from links import run


def test_inbox_keeps_the_newest_within_its_bounds() -> None:
    async def check() -> None:
        inbox = Inbox(3, 100)
        for number in range(5):
            inbox.put(Message(bytes([number]) * 10, number))
        kept = [await inbox.get() for _ in range(3)]
        assert [message.data[0] for message in kept if message is not None] == [2, 3, 4]
        for number in range(3):
            inbox.put(Message(bytes([number]) * 60, number))
        assert (len(inbox), inbox.received, inbox.dropped) == (1, 8, 4)
        inbox.close()
        last = await inbox.get()
        assert last is not None
        assert last.data[0] == 2
        assert await inbox.get() is None

    run(check())
