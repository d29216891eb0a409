"""Messages that have arrived and wait to be read, never more than fit."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

__all__ = ["Inbox", "Message"]


@dataclass(frozen=True)
class Message:
    """What one message held, and the monotonic time at which it came."""

    data: bytes
    arrived_us: int


class Inbox:
    """Received messages, at most so many messages and bytes; the oldest are dropped and counted."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._messages: deque[Message] = deque()
        self._bytes = 0
        self._closed = False
        self._arrived = asyncio.Event()
        self.received = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Message) -> None:
        self.received += 1
        self._messages.append(message)
        self._bytes += len(message.data)
        while len(self._messages) > self._most or self._bytes > self._most_bytes:
            self._bytes -= len(self._messages.popleft().data)
            self.dropped += 1
        self._arrived.set()

    def close(self) -> None:
        self._closed = True
        self._arrived.set()

    async def get(self) -> Message | None:
        """The next message; None once the connection is closed and everything has been read."""
        while not self._messages:
            if self._closed:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        message = self._messages.popleft()
        self._bytes -= len(message.data)
        return message
