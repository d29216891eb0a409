from __future__ import annotations

import locale
import subprocess
import sys
import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest

from kilocall.model.engine_choice import choose_engine
from kilocall.model.family_loader import load_family
from kilocall.runtime.worker import Milliseconds, Worker


class Counting(Worker):
    def __init__(self, broken: bool = False) -> None:
        super().__init__("counting")
        self.broken = broken
        self.steps = 0
        self.was_closed = threading.Event()

    def opened(self) -> None:
        if self.broken:
            raise ValueError("no model")

    def step(self) -> float:
        self.steps += 1
        return 0.001

    def closed(self) -> None:
        self.was_closed.set()


def test_questions_are_answered_on_the_thread_between_steps() -> None:
    worker = Counting()
    worker.start()
    worker.ready.result(5)
    assert worker.ask(lambda: threading.current_thread().name).result(5) == "counting"
    with pytest.raises(ZeroDivisionError):
        worker.ask(lambda: 1 // 0).result(5)
    while worker.ask(lambda: worker.steps).result(5) < 3:
        pass  # asking does not keep it from its steps
    worker.close()
    assert worker.was_closed.is_set()
    with pytest.raises(CancelledError):
        worker.ask(lambda: 1).result(5)


def test_whoever_waits_for_a_thread_that_cannot_start_learns_why() -> None:
    worker = Counting(broken=True)
    worker.start()
    with pytest.raises(ValueError, match="no model"):
        worker.ready.result(5)
    assert worker.was_closed.wait(5)


def test_a_process_ends_after_the_network_that_a_thread_is_inside() -> None:
    program = """
import threading, time
from kilocall.runtime.worker import Worker
inside = threading.Event()
class Slow(Worker):
    def step(self):
        inside.set()
        time.sleep(3)  # the interpreter's lock is free, as inside a network
        return 0.0
    def closed(self):
        print("closed", flush=True)
worker = Slow("slow")
worker.start()
inside.wait()
worker.close()
print("main ends", flush=True)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout.split("\n")[:2]) == (0, ["main ends", "closed"])


def test_percentile_is_the_value_that_so_many_do_not_exceed() -> None:
    durations = Milliseconds()
    assert durations.percentile(0.5) is None
    for value in range(1, 101):
        durations.add(value / 1000)
    assert durations.percentile(0.5) == pytest.approx(51)
    assert durations.percentile(0.95) == pytest.approx(96)


def test_loading_on_several_threads_leaves_the_locale_alone() -> None:
    before = locale.getencoding()

    def load() -> None:
        load_family(engine=choose_engine("auto", 1)).track(np.zeros((256, 256, 3), np.uint8))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert locale.getencoding() == before
