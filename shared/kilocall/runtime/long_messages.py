"""Control messages longer than one part: sent slowly, in parts, so that motion gets through in between."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from kilocall.proto.control import MAX_MESSAGE_BYTES, Part, parse_control
from kilocall.proto.errors import BadPacket

__all__ = ["BURST_BYTES", "Assembly", "PartsQueue", "is_part"]

BURST_BYTES = 8192
#: Until the next look at whether a part may go.
LOOK_S = 0.01


def is_part(data: bytes) -> bool:
    """Whether a control message is one part of a longer one."""
    return data[:2] == b"\x93\x09"  # an array that begins with Part.TYPE


class PartsQueue:
    """Parts that wait to be sent, at most two of the longest messages."""

    def __init__(self, bulk_bps: int) -> None:
        self._bulk_bps = bulk_bps
        self._parts: deque[bytes] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()

    def add(self, message: bytes) -> bool:
        """Takes all parts of a message, or, when it does not fit, none."""
        if len(message) > MAX_MESSAGE_BYTES or self._bytes + len(message) > 2 * MAX_MESSAGE_BYTES:
            return False
        for part in Part.split(message):
            self._parts.append(bytes(part))
            self._bytes += len(self._parts[-1])
        self._arrived.set()
        return True

    def clear(self) -> None:
        """Forgets them all, and wakes who waits for them."""
        self._parts.clear()
        self._bytes = 0
        self._arrived.set()

    async def pump(
        self, send: Callable[[bytes], object], *, may_send: Callable[[], bool], is_open: Callable[[], bool]
    ) -> None:
        """Hands on one part after the other, each when `may_send`, at the rate allowed, until no longer `is_open`."""
        tokens, then = float(BURST_BYTES), time.monotonic()
        while is_open():
            if not self._parts:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            now = time.monotonic()
            tokens = min(BURST_BYTES, tokens + (now - then) * self._bulk_bps / 8)
            then = now
            size = len(self._parts[0])
            if tokens < size or not may_send():
                await asyncio.sleep(LOOK_S)
                continue
            tokens -= size
            self._bytes -= size
            send(self._parts.popleft())
            await asyncio.sleep(0)


class Assembly:
    """Puts the parts of one message at a time together again."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._left = 0

    def add(self, data: bytes) -> bytes | None:
        """The whole message with its last part, otherwise None.

        BadPacket for what is no part, or none of the message that was begun: that message is then given up.
        """
        try:
            part = parse_control(data)
            assert isinstance(part, Part)
            size = len(part.data) + part.left
            if size != self._left and (self._data or size > MAX_MESSAGE_BYTES):
                raise BadPacket(f"part leaves {size} bytes, not {self._left}")
        except BadPacket:
            self._data.clear()
            self._left = 0
            raise
        self._data += part.data
        self._left = part.left
        if part.left:
            return None
        message = bytes(self._data)
        self._data.clear()
        return message
