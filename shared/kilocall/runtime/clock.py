"""The clock that intervals are measured with."""

from __future__ import annotations

import time

__all__ = ["now_us"]


def now_us() -> int:
    """Microseconds of the monotonic clock, which nobody sets."""
    return time.monotonic_ns() // 1000
