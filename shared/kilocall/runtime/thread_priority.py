"""Keeps a library from taking the processor away from everything else."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["priorities_kept"]

_THREADS = Path("/proc/self/task")


@contextmanager
def priorities_kept() -> Iterator[None]:
    """What is done inside changes the scheduling of no thread, and threads that it starts have the caller's.

    SVT-AV1 puts the thread that opens an encoder, and its own, into the first real-time class where it may (as root,
    in a container too): then no other thread of the machine runs while it does. Linux alone has such threads.
    """
    if not hasattr(os, "sched_setscheduler") or not _THREADS.is_dir():
        yield
        return
    own = threading.get_native_id()
    before = {thread: _scheduling(thread) for thread in _threads()}
    try:
        yield
    finally:
        for thread in _threads():
            wanted = before.get(thread) or before[own]
            if wanted is not None and _scheduling(thread) != wanted:
                with suppress(OSError):  # it has ended
                    os.sched_setscheduler(thread, wanted[0], os.sched_param(wanted[1]))


def _threads() -> list[int]:
    return [int(path.name) for path in _THREADS.iterdir()]


def _scheduling(thread: int) -> tuple[int, int] | None:
    """Class and priority; None for a thread that has ended."""
    with suppress(OSError):
        return os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority
    return None
