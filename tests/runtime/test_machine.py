"""What a process gives back of the memory that it has freed."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

#: Blocks below the size that glibc asks the system for one by one, so that they come from its arenas.
PROGRAM = """
import gc, threading
from kilocall.runtime.machine import resident_bytes, return_freed_memory, share_freed_memory

if {shared}:
    share_freed_memory()
kept = []
turns = [threading.Event() for _ in range(5)]

def work(number):
    turns[number].wait()
    blocks = [bytearray(60_000) for _ in range(500)]
    kept.append(bytearray(60_000))  # above the others: the arena cannot shrink by itself
    del blocks
    gc.collect()
    turns[number + 1].set()
    turns[-1].wait()  # alive, with an arena of its own, while the others take their turns

threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
before = resident_bytes()
turns[0].set()
for thread in threads:
    thread.join()
held = resident_bytes()
return_freed_memory()
print(held - before, resident_bytes() - before)
"""


def grown(*, shared: bool) -> tuple[int, int]:
    """Bytes that a program has grown by after threads have freed what they used, and after all was given back."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(shared=shared)], capture_output=True, text=True, check=True
    )
    held, left = map(int, done.stdout.split())
    return held, left


def test_what_is_freed_goes_back_to_the_system() -> None:
    held, left = grown(shared=False)
    assert held > 80e6
    assert left < 20e6


def test_threads_use_what_others_have_freed() -> None:
    alone, _ = grown(shared=False)
    together, _ = grown(shared=True)
    assert together < 0.5 * alone
