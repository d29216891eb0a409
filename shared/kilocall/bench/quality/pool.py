"""Runs the jobs: in this process, in a pool of processes, or on the machines of a Ray cluster. Same numbers."""

from __future__ import annotations

import dataclasses
import importlib.util
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from kilocall.bench.quality.jobs import Job, Outcome, measure
from kilocall.proto.errors import BadInput

__all__ = ["run_jobs"]


def run_jobs(jobs: Sequence[Job], *, workers: int = 1, ray_address: str | None = None) -> Iterator[Outcome]:
    """Outcomes as they come. `ray_address` is a cluster's, or `local`; BadInput when Ray is not installed or not
    there, or a worker dies."""
    if workers < 1:
        raise BadInput(f"workers is {workers}, at least 1")
    if ray_address is not None:
        yield from _on_ray(jobs, ray_address)
    elif workers == 1 or len(jobs) < 2:
        yield from map(measure, jobs)
    else:
        yield from _in_processes(jobs, workers)


def _in_processes(jobs: Sequence[Job], workers: int) -> Iterator[Outcome]:
    # Spawned, not forked: engines and OpenCV hold threads that a fork would lose.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        waiting = [pool.submit(measure, job) for job in jobs]
        for done in as_completed(waiting):
            yield done.result()
    except BrokenProcessPool as error:
        raise BadInput("a worker process ended by itself, probably for want of memory: try fewer workers") from error
    finally:
        # After Ctrl-C nothing new begins; what has been measured is in the cache already.
        pool.shutdown(wait=True, cancel_futures=True)


def _on_ray(jobs: Sequence[Job], address: str) -> Iterator[Outcome]:
    if importlib.util.find_spec("ray") is None:
        raise BadInput(f"--ray {address} needs Ray, which is not installed: pip install ray")
    ray: Any = importlib.import_module("ray")
    try:
        ray.init(address=None if address == "local" else address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadInput(f"--ray {address}: {error}") from error
    try:
        # The clips travel to the other machines, once each.
        held = {path: ray.put(path.read_bytes()) for path in {job.clip for job in jobs}}
        remote = ray.remote(num_cpus=1)(_measure_sent)
        waiting = [remote.remote(job, held[job.clip]) for job in jobs]
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1)
            yield ray.get(done[0])
    finally:
        ray.shutdown()


def _measure_sent(job: Job, data: bytes) -> Outcome:
    """On another machine: the clip as a file of its own, kept until the process ends."""
    folder = Path(tempfile.gettempdir(), f"kilocall-bench-{job.clip_digest[:24]}")
    clip = folder / job.clip.name
    if not clip.is_file() or clip.stat().st_size != len(data):
        from kilocall.runtime.files import write_whole

        folder.mkdir(parents=True, exist_ok=True)
        write_whole(clip, data)
    return dataclasses.replace(measure(dataclasses.replace(job, clip=clip)), job=job)
