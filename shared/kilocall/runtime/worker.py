"""A model thread: it alone runs the networks, one step after the other, with what others ask in between."""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from kilocall.runtime.machine import return_freed_memory

__all__ = ["Deliver", "Milliseconds", "WorkClock", "Worker", "deliver_to", "work_clock"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
Deliver = Callable[[Callable[[], None]], None]
"""Runs something on the event loop; may be called on any thread."""
WorkClock = Callable[[], tuple[float, float]]
"""Seconds that have passed, and those that the calling thread has had the processor for; from whatever moment on."""
CLOSE_WITHIN_S = 1.5
#: A process whose threads are inside a network when it ends is aborted; slow networks take seconds for a picture.
EXIT_WITHIN_S = 15.0


def work_clock() -> tuple[float, float]:
    """The real WorkClock."""
    return time.perf_counter(), time.thread_time()


def deliver_to(loop: asyncio.AbstractEventLoop) -> Deliver:
    """What is delivered after the loop was closed is dropped: nobody is left to see it."""

    def deliver(call: Callable[[], None]) -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(call)

    return deliver


class Milliseconds:
    """The last durations of a stage; written on one thread, read on any."""

    def __init__(self, most: int = 250) -> None:
        self._values: deque[float] = deque(maxlen=most)

    def add(self, seconds: float) -> None:
        self._values.append(1000 * seconds)

    def percentile(self, share: float) -> float | None:
        """The value that `share` (0..1) of them do not exceed; None without any."""
        # A deque that grows while it is copied raises; the next try a moment later succeeds.
        for _ in range(5):
            with suppress(RuntimeError):
                values = sorted(self._values)
                return values[min(len(values) - 1, int(share * len(values)))] if values else None
        return None


class Worker:
    """Base of the two model threads.

    A subclass has `opened` (loads models), `step` (does what is due, returns seconds until it wants to run again)
    and `closed`. `ready` is a future that ends when the models are loaded, or carries why they are not.
    """

    def __init__(self, name: str, on_problem: Callable[[str], None] = lambda text: None) -> None:
        self.problem: str | None = None
        """Why the thread has ended by itself."""
        self.ready: Future[None] = Future()
        self._on_problem = on_problem
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._wake = threading.Condition()
        self._woken = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; waits for it, but no longer than 1.5 s."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self.interrupt()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_WITHIN_S)
            if self._thread.is_alive():
                logger.warning("thread %s is still inside a network; the process ends after it", self._thread.name)
                atexit.register(self._thread.join, EXIT_WITHIN_S)

    def ask(self, question: Callable[[], T]) -> Future[T]:
        """Runs something on the thread between two steps; cancelled when the thread ends before."""
        answer: Future[T] = Future()
        with self._wake:
            if self._closing:
                answer.cancel()
            else:
                self._jobs.append((answer, question))
                self._woken = True
                self._wake.notify()
        return answer

    def do_what_was_asked(self) -> None:
        """On the thread, before each step: answers what was asked until now, in order."""
        with self._wake:
            jobs, self._jobs = self._jobs, deque()
        for answer, question in jobs:
            _settle(answer, question)

    def wake(self) -> None:
        """Ends the wait before the next step."""
        with self._wake:
            self._woken = True
            self._wake.notify()

    def interrupt(self) -> None:
        """On the closing thread: ends what the other one would be busy with for long; an error there tells nobody."""

    def opened(self) -> None:
        """On the thread, before the first step."""

    def step(self) -> float:
        """Seconds until the next step is wanted, if nobody wakes the thread before."""
        raise NotImplementedError

    def closed(self) -> None:
        """On the thread, after the last step."""

    def _run(self) -> None:
        try:
            self.opened()
            return_freed_memory()  # loading networks takes several times what they keep
            self.ready.set_result(None)
            wait_s = 0.0
            while not self._closing:
                with self._wake:
                    if wait_s > 0 and not self._woken and not self._closing:
                        self._wake.wait(wait_s)
                    self._woken = False
                self.do_what_was_asked()
                wait_s = 0.0 if self._closing else self.step()
        # Whatever a model or a camera raises, whoever waits must learn it.
        except Exception as error:
            self.problem = f"{type(error).__name__}: {error}"
            if self.ready.done() and self._closing:
                logger.debug("thread %s was ended: %s", self._thread.name, error)
            elif self.ready.done():
                logger.exception("thread %s ends", self._thread.name)
                self._on_problem(self.problem)
            else:
                self.ready.set_exception(error)
        finally:
            with self._wake:
                self._closing = True
                jobs, self._jobs = self._jobs, deque()
            for answer, _ in jobs:
                answer.cancel()
            try:
                self.closed()
            except Exception:
                logger.exception("thread %s could not close everything", self._thread.name)


def _settle(answer: Future[T], question: Callable[[], T]) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    try:
        answer.set_result(question())
    # Whatever it was, whoever waits for the answer must learn it; the thread goes on.
    except Exception as error:
        answer.set_exception(error)
