from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Runs apart, so that what fails here harms no other test.
SCRIPT = """
import os, threading
import numpy as np
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # whatever this was started from
from kilocall.sender.layer_encoder import LADDER, LayerEncoder
encoder = LayerEncoder(LADDER[1])
for number in range(4):
    encoder.push(np.full((256, 256, 3), 50 * number, np.uint8), 160_000 * number)
print(len(os.listdir("/proc/self/task")), {os.sched_getscheduler(int(one)) for one in os.listdir("/proc/self/task")})
"""


@pytest.mark.skipif(sys.platform != "linux", reason="real-time classes of threads are Linux's")
def test_an_encoder_of_the_layer_takes_no_thread_into_a_real_time_class() -> None:
    roots = os.pathsep.join(str(ROOT / root) for root in ("sender", "receiver", "shared", "proto"))
    made = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": roots},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    threads, classes = made.stdout.split(maxsplit=1)
    assert int(threads) > 3
    assert classes.strip() == f"{{{os.SCHED_OTHER}}}"
    assert made.stderr == ""
