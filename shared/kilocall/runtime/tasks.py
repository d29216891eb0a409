"""Who owns what runs beside the rest on the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

__all__ = ["Tasks"]

logger = logging.getLogger(__name__)


class Tasks:
    """Tasks with an owner: each one's end is logged, and all are cancelled together."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def own(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Runs a coroutine."""
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            logger.debug("task %s was cancelled", task.get_name())
        elif task.exception() is not None:
            logger.error("task %s failed", task.get_name(), exc_info=task.exception())
        else:
            logger.debug("task %s has ended", task.get_name())

    async def close(self) -> None:
        """Cancels all but the caller's own, and waits for them."""
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
