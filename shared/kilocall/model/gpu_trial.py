"""Whether a laptop's GPU is faster than its CPU at what a call does: tried once, in a process of its own, and kept.

A process of its own, because a driver may crash or never answer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kilocall.model.engine_factory import make_engine
from kilocall.model.family import weights_folder
from kilocall.proto.errors import BadInput
from kilocall.runtime.children import module_command, same_modules
from kilocall.runtime.engine import EngineName, installed_engines
from kilocall.runtime.files import keep_newest, user_cache_folder
from kilocall.runtime.machine import cpu_model, graphics

__all__ = ["Choice", "Outcome", "choice_of", "faster_gpu", "kept_outcome", "outcome_file", "outcome_key", "try_engines"]

#: All runs of an engine's networks together.
BUDGET_S: Final = 0.4
#: A trial with imports and compiling; a GPU that is not ready by then is no gain at the start of a call.
LIMIT_S: Final = 5.0
#: A GPU must take less than this part of the CPU's time: a trial of half a second is not exact.
PART: Final = 0.9
KEPT_OUTCOMES: Final = 4

_logger = logging.getLogger(__name__)
_Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Outcome(BaseModel):
    """What a trial found. `key` tells the machine, drivers, libraries and weights that it holds for."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    key: str
    cpu: EngineName
    cpu_ms: _Milliseconds
    gpu_ms: dict[EngineName, _Milliseconds]  # a frame's networks, of engines that ran
    failed: dict[EngineName, str]  # why the others did not


@dataclass(frozen=True)
class Choice:
    """The engine that was found faster, None where the CPU is, and why."""

    engine: EngineName | None
    reason: str


_TRYING = threading.Lock()
_in_this_process: dict[str, Outcome] = {}


def faster_gpu(
    cpu: EngineName,
    candidates: Sequence[EngineName],
    threads: int,
    weights: Path | None = None,
    cache: Path | None = None,
) -> Choice:
    """The candidate that does a frame's networks in the least time, if that is less than the CPU engine's.

    `weights` replaces the packaged ones, `cache` the user's folder where outcomes are kept. The first time this takes
    some seconds, at most LIMIT_S a candidate and as much for the CPU.
    """
    folder, kept = weights or weights_folder(), cache or user_cache_folder() / "engines"
    key = outcome_key(cpu, candidates, threads, folder)
    with _TRYING:
        outcome = _in_this_process.get(key) or kept_outcome(kept, key)
        if outcome is None:
            _logger.info("trying %s, once on this machine", ", ".join(candidates))
            outcome = try_engines(key, cpu, candidates, threads, folder)
            _keep(kept, outcome)
        _in_this_process[key] = outcome
    return choice_of(outcome)


def try_engines(
    key: str, cpu: EngineName, candidates: Sequence[EngineName], threads: int, folder: Path, limit_s: float = LIMIT_S
) -> Outcome:
    """Times the networks of `folder` on the CPU engine and on every candidate, one after the other.

    Where the CPU engine itself fails it counts as infinitely fast, so that no GPU is chosen.
    """
    on_cpu = _timed_apart(cpu, threads, folder, limit_s)
    ran: dict[EngineName, float] = {}
    failed: dict[EngineName, str] = {}
    if isinstance(on_cpu, str):
        return Outcome(key=key, cpu=cpu, cpu_ms=0, gpu_ms={}, failed={cpu: on_cpu})
    for name in candidates:
        found = _timed_apart(name, threads, folder, limit_s)
        if isinstance(found, str):
            failed[name] = found
        else:
            ran[name] = found
    return Outcome(key=key, cpu=cpu, cpu_ms=on_cpu, gpu_ms=ran, failed=failed)


def _timed_apart(name: EngineName, threads: int, folder: Path, limit_s: float) -> float | str:
    """Milliseconds of a frame's networks, measured by another process, or why there are none."""
    try:
        done = subprocess.run(
            module_command("kilocall.model.gpu_trial", name, str(threads), str(folder)),
            env=same_modules(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not ready within {limit_s:g} s"
    except OSError as error:
        return str(error)
    try:
        answer = json.loads(done.stdout.decode().strip().splitlines()[-1])
        return float(answer["ms"]) if "ms" in answer else str(answer["failed"])
    except (ValueError, LookupError, TypeError):
        return f"its process ended with {done.returncode}"


def choice_of(outcome: Outcome) -> Choice:
    best = min(outcome.gpu_ms, key=outcome.gpu_ms.__getitem__, default=None)
    if best is not None and outcome.gpu_ms[best] < PART * outcome.cpu_ms:
        return Choice(
            best, f"a frame's networks take {outcome.gpu_ms[best]:.1f} ms, {outcome.cpu} {outcome.cpu_ms:.1f} ms"
        )
    slower = [f"{name} takes {ms:.1f} ms, {outcome.cpu} {outcome.cpu_ms:.1f} ms" for name, ms in outcome.gpu_ms.items()]
    return Choice(None, "; ".join((*slower, *(f"{name}: {why}" for name, why in outcome.failed.items()))))


def outcome_key(cpu: EngineName, candidates: Sequence[EngineName], threads: int, folder: Path) -> str:
    """SHA-256 of all that an outcome depends on."""
    try:
        weights = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    except OSError as error:
        raise BadInput(f"weights in {folder}: manifest.json cannot be read ({error})") from error
    facts = [cpu_model(), graphics(), installed_engines(), weights, cpu, list(candidates), threads, sys.version]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def kept_outcome(cache: Path, key: str) -> Outcome | None:
    """None for what is missing, damaged, of other facts, or not this project's."""
    try:
        outcome = Outcome.model_validate_json((cache / outcome_file(key)).read_bytes())
    except (OSError, ValidationError):
        return None
    return outcome if outcome.key == key else None


def _keep(cache: Path, outcome: Outcome) -> None:
    try:
        keep_newest(cache, outcome_file(outcome.key), outcome.model_dump_json().encode(), KEPT_OUTCOMES)
    except OSError as error:
        _logger.info("the outcome cannot be kept: %s", error)


def outcome_file(key: str) -> str:
    return f"{key[:32]}.json"


def _main(name: str, threads: int, folder: Path) -> None:
    """What the other process does: one line of JSON."""
    from kilocall.runtime.timing import frame_ms, network_files, time_networks

    try:
        engine = make_engine(cast(EngineName, name), threads, "trial")
        answer: dict[str, object] = {"ms": frame_ms(time_networks(engine, network_files(folder), BUDGET_S))}
    except Exception as error:  # a driver may raise anything
        answer = {"failed": str(error) or type(error).__name__}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
