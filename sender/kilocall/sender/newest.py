"""The slot between a camera's thread and whoever looks at its pictures: room for the newest alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Newest"]

T = TypeVar("T")


class Newest(Generic[T]):
    """Filled on one thread, emptied on another."""

    def __init__(self) -> None:
        self.dropped = 0
        """What nobody took in time."""
        self._value: T | None = None
        self._changed = threading.Condition()

    def put(self, value: T) -> None:
        with self._changed:
            self.dropped += self._value is not None
            self._value = value
            self._changed.notify_all()

    def take(self, timeout_s: float, given_up: Callable[[], bool]) -> T | None:
        """What was not taken yet; waits for it, and is None after `timeout_s` or once it is `given_up`."""
        with self._changed:
            self._changed.wait_for(lambda: self._value is not None or given_up(), timeout_s)
            value, self._value = self._value, None
            return value

    def wake(self) -> None:
        """Whoever waits looks again whether it is given up."""
        with self._changed:
            self._changed.notify_all()
