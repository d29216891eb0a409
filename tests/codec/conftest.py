"""A small codebook and a motion stream, both made from integers, so that every machine makes the same."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kilocall.codec.codebook import CONTEXTS, SYMBOLS, Codebook


def _table(keep: int, divisor: int) -> list[int]:
    """32 frequencies: `keep` of 65536 for zero, the rest falling off by 1/`divisor` on both sides."""
    left = (65536 - keep) // 2
    half = []
    for _ in range(15):
        share = max(2, left // divisor)
        half.append(share)
        left = max(0, left - share)
    row = [*half[::-1], keep, *half, 2]
    row[15] += 65536 - sum(row)
    return row


@pytest.fixture(scope="session")
def codebook() -> Codebook:
    keeps = [64000, 56000, 40000, 24000, 9000, 20000]
    rows = [_table(keep, 2 + number // 2) for number, keep in enumerate(keeps)]
    context, index = np.meshgrid(np.arange(CONTEXTS), np.arange(4), indexing="ij")
    table_of = np.where(context < CONTEXTS // 6, 4 + index % 2, (context // 6 + context % 6 + index) % 5)
    assert np.array(rows).shape == (6, SYMBOLS)
    return Codebook(
        base_steps=np.array([0.25, 0.5, 0.0625, 1.0], np.float32),
        mean=np.array([12, -7, 0, 300], np.int32),
        frequencies=np.array(rows, np.int32),
        shifts=np.array([0, 0, 0, 0, 1, 3], np.int32),
        table_of=table_of.astype(np.uint8),
    )


@pytest.fixture(scope="session")
def motion() -> NDArray[np.float32]:
    """[50, 4]: a rest, a slow walk, a jump far out, a rest."""
    state, frames, place = 1, [], [0, 0, 0, 0]
    for frame in range(50):
        for index in range(4):
            state = (state * 1103515245 + 12345) % (1 << 31)
            if 8 <= frame < 40:
                place[index] += (state >> 16) % 41 - 20
        if frame == 25:
            place[2] += 20000
        frames.append([value / 64 for value in place])
    return np.array(frames, np.float32)
