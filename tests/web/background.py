"""An event loop beside the browser."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from typing import Any, Final

__all__ = ["WITHIN_S", "Background"]

WITHIN_S: Final = 20.0


class Background:
    """An event loop on a thread of its own: the browser is driven on this one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Awaitable[Any]) -> Any:
        async def waited() -> Any:
            return await coroutine

        return asyncio.run_coroutine_threadsafe(waited(), self.loop).result(WITHIN_S)

    def close(self) -> None:
        self.run(self._cancel())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    async def _cancel(self) -> None:
        """What a test that failed has left."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
