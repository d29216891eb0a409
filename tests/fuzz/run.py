"""Feeds every target with changed bytes, bounded and repeatable: the seed and a number give an input again."""

from __future__ import annotations

import hashlib
import logging
import random
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from fuzz.targets import FRESH_EVERY, Target

__all__ = ["Finding", "fuzz", "made"]

#: Processor time of one input: a reader that takes longer could be kept busy by its peer.
MOST_S: Final = 2.0
MOST_FINDINGS: Final = 20


@dataclass(frozen=True)
class Finding:
    """An input that a reader does not bear."""

    target: str
    number: int
    data: bytes
    what: str

    @property
    def file_name(self) -> str:
        return f"{self.target.replace(' ', '-')}-{hashlib.sha256(self.data).hexdigest()[:12]}.bin"


def made(target: Target, seed: int, number: int) -> bytes | str:
    """Input `number` of a target."""
    return target.made(random.Random(f"{seed} {target.name} {number}"))


def fuzz(
    targets: Sequence[Target],
    inputs: int,
    seed: int,
    progress: Callable[[str, int, int], None] = lambda name, done, of: None,
    found: Callable[[Finding], None] = lambda finding: None,
) -> list[Finding]:
    """Feeds `inputs` in all, split by the targets' shares; at most MOST_FINDINGS findings, each told once, at once."""
    findings: list[Finding] = []
    whole = sum(target.share for target in targets)
    logging.disable(logging.CRITICAL)  # what is dropped is logged, here a million times
    try:
        for target in targets:
            count = max(1, round(inputs * target.share / whole))
            for number in range(count):
                if number % FRESH_EVERY == 0:
                    target.fresh()
                    progress(target.name, number, count)
                data = made(target, seed, number)
                what = _fed(target, data)
                if what is not None and what not in (finding.what for finding in findings):
                    as_bytes = data.encode() if isinstance(data, str) else data
                    findings.append(Finding(target.name, number, as_bytes, what))
                    found(findings[-1])
                if len(findings) >= MOST_FINDINGS:
                    return findings
            progress(target.name, count, count)
    finally:
        logging.disable(logging.NOTSET)
    return findings


def _fed(target: Target, data: bytes | str) -> str | None:
    began = time.process_time()
    try:
        target.feed(data)
    # Whatever it is, finding it is what this is for.
    except Exception:
        return traceback.format_exc(limit=-4)
    took = time.process_time() - began
    return f"took {took:.1f} s" if took > MOST_S else None
