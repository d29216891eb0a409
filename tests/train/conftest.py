"""Training leaves this process as it found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def numbers_near_zero() -> Iterator[None]:
    """Training rounds them to zero; property tests that come later in the same process want them back."""
    yield
    torch.set_flush_denormal(False)
