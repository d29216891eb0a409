"""Fits a codebook to motion streams: counts residuals in every context, then chooses and shapes the tables.

Fitting may use floats as it likes: what it hands out is integers, and they are never computed again.
The same streams give the same codebook on the same machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kilocall.codec.codebook import (
    ACTIVITY_CLASSES,
    BASE_LEVEL,
    CONTEXTS,
    ESCAPE,
    KINDS,
    LARGEST,
    NEIGHBOUR_CLASSES,
    SYMBOLS,
    Codebook,
)
from kilocall.codec.motion_codec import (
    ACTIVITY_CLASS,
    DEAD_ZONE,
    NEIGHBOUR_CLASS,
    RD_LAMBDA,
    FrameStart,
    MotionEncoder,
)
from kilocall.codec.range_coder import TOTAL
from kilocall.proto.errors import BadInput
from kilocall.proto.limits import LEVELS

__all__ = ["fit_codebook"]

_SPAN = 255  # residuals are counted exactly up to here, larger ones as this
_FLOOR = 2  # no symbol costs more than 15 bits: what the streams never showed must stay affordable


def fit_codebook(
    streams: Sequence[NDArray[np.float32]],
    base_steps: ArrayLike,
    *,
    tables: int = 48,
    rounds: int = 3,
    frames_per_packet: int = 3,
    key_interval: int = 50,
    levels: Sequence[int] = range(LEVELS),
    rd_lambda: float = RD_LAMBDA,
    dead_zone: float = DEAD_ZONE,
    pooled_from: int | None = None,
) -> Codebook:
    """A codebook for motion like `streams`, each [T, D].

    base_steps [D]: quantiser steps at quality 50, best chosen so that a step of any coefficient moves the
    keypoints equally far. Streams are coded at each of `levels` with one codebook after the other, `rounds`
    times; the time is about 0.15 ms per frame, level and round. Coefficients from `pooled_from` on share their tables
    and have a mean of zero, so that they may stand for any others. Raises BadInput when shapes disagree or a
    stream is not finite.
    """
    steps = np.asarray(base_steps, np.float32)
    clips = [np.asarray(stream, np.float32) for stream in streams]
    if steps.ndim != 1 or not clips or any(clip.ndim != 2 or clip.shape[1] != len(steps) for clip in clips):
        shapes = sorted({str(list(clip.shape)) for clip in clips})
        raise BadInput(f"streams have shapes {', '.join(shapes) or 'none'}; expected [frames, {len(steps)}]")
    if not all(np.isfinite(clip).all() for clip in clips):
        raise BadInput("a stream holds a value that is not finite")
    if not (np.isfinite(steps) & (steps > 0)).all():
        raise BadInput("base_steps holds a value that is not finite and above 0")
    if not 16 <= tables <= 256:
        raise BadInput(f"tables is {tables}, allowed is 16 to 256")

    finest = steps.astype(np.float64) / 2 ** ((LEVELS - 1 - BASE_LEVEL) / 2)
    mean = np.rint(np.mean([clip.mean(0, dtype=np.float64) for clip in clips], 0) / finest)
    if pooled_from is not None:
        mean[pooled_from:] = 0
    bank = _first_bank(tables)
    shapes_of = bank.frequencies
    table_of = _first_map(bank, len(steps))
    codebook = _freeze(steps, mean, bank, table_of)
    for _ in range(rounds):
        counts = _count(codebook, clips, levels, frames_per_packet, key_interval, rd_lambda, dead_zone)
        if pooled_from is not None:
            counts[:, pooled_from:] = counts[:, pooled_from:].mean(1, keepdims=True)
        for _ in range(4):
            table_of = _assign(counts, bank)
            bank = _reshape(counts, table_of, bank, shapes_of)
        codebook = _freeze(steps, mean, bank, _assign(counts, bank))
    return codebook


@dataclass(frozen=True)
class _Bank:
    frequencies: NDArray[np.float64]  # [T, 32], each row sums to TOTAL
    shifts: NDArray[np.int32]  # [T]


def _first_bank(tables: int) -> _Bank:
    """Generalised Gaussians of geometric widths, from almost always zero to thousands of steps."""
    wide = max(6, tables // 6)
    narrow = tables - wide
    widths = np.concatenate([0.06 * (16.0 / 0.06) ** (np.arange(narrow) / (narrow - 1)), np.full(wide, 6.0)])
    exponents = np.where(np.arange(tables) % 2, 1.0, 0.7)
    shifts = np.concatenate([np.zeros(narrow, np.int32), 1 + np.arange(wide, dtype=np.int32)])
    fine = (np.arange(-16 * 8, 16 * 8) + 0.5) / 8
    rows = []
    for width, exponent in zip(widths, exponents, strict=True):
        # Points within half a step of a residual belong to it.
        density = np.exp(-((np.abs(fine) / width) ** exponent))
        symbols = np.zeros(SYMBOLS)
        np.add.at(symbols, np.clip(np.floor(fine + 0.5).astype(int) + LARGEST, 0, ESCAPE - 1), density)
        symbols[ESCAPE] = density.sum() * np.exp(-((16 / width) ** exponent)) + symbols[0]
        rows.append(symbols / symbols.sum())
    return _Bank(_with_floor(np.array(rows)), np.minimum(shifts, 12).astype(np.int32))


def _first_map(bank: _Bank, coefficients: int) -> NDArray[np.uint8]:
    """Wider tables for more activity; only where the first count starts from."""
    narrow = int((bank.shifts == 0).sum())
    table_of = np.zeros((KINDS, ACTIVITY_CLASSES, NEIGHBOUR_CLASSES, coefficients), np.uint8)
    for activity in range(ACTIVITY_CLASSES):
        table_of[1:, activity] = narrow // 4 + activity * (narrow // 2) // ACTIVITY_CLASSES
    table_of[0] = narrow - 1
    return table_of.reshape(CONTEXTS, coefficients)


def _with_floor(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    floored: NDArray[np.float64] = shares / shares.sum(1, keepdims=True) * (TOTAL - _FLOOR * SYMBOLS) + _FLOOR
    return floored


def _freeze(
    steps: NDArray[np.float32], mean: NDArray[np.float64], bank: _Bank, table_of: NDArray[np.uint8]
) -> Codebook:
    frequencies = np.floor(bank.frequencies).astype(np.int32)
    # What rounding left over goes to the likeliest symbol.
    frequencies[np.arange(len(frequencies)), frequencies.argmax(1)] += TOTAL - frequencies.sum(1)
    limited = np.clip(mean, -32767, 32767).astype(np.int32)
    return Codebook(steps, limited, frequencies, bank.shifts.astype(np.int32), table_of)


class _WatchingEncoder(MotionEncoder):
    """Notes where each frame was predicted from and what it became."""

    def watch(self) -> None:
        self.kinds: list[int] = []
        self.before: list[list[int]] = []
        self.after: list[list[int]] = []
        self.activity: list[list[int]] = []

    def _encode_frame(self, frame: list[float], start: FrameStart, intervals: list[tuple[int, int]]) -> None:
        self.kinds.append(start.kind)
        self.before.append(start.values.copy())
        self.activity.append(start.activity.copy())
        super()._encode_frame(frame, start, intervals)
        self.after.append(start.values.copy())


def _count(
    codebook: Codebook,
    clips: Sequence[NDArray[np.float32]],
    levels: Sequence[int],
    frames_per_packet: int,
    key_interval: int,
    rd_lambda: float,
    dead_zone: float,
) -> NDArray[np.float64]:
    """How often each residual occurs: [CONTEXTS, D, 2 * _SPAN + 1]."""
    size = codebook.coefficients
    counts = np.zeros(CONTEXTS * size * (2 * _SPAN + 1), np.int64)
    for level in levels:
        quality = 100 * level / (LEVELS - 1)
        file = _WatchingEncoder(codebook, quality, key_interval=key_interval, rd_lambda=rd_lambda, dead_zone=dead_zone)
        live = _WatchingEncoder(
            codebook,
            quality,
            key_interval=key_interval,
            reference="acknowledged",
            rd_lambda=rd_lambda,
            dead_zone=dead_zone,
        )
        file.watch()
        live.watch()
        for number, clip in enumerate(clips):
            file.reset()
            for _ in file.encode_clip(clip, frames_per_packet):
                pass
            # The live side knows its receiver's state some packets late; every distance must be seen.
            live.reset()
            lag = 1 + number % 5
            for packet in live.encode_clip(clip, 1 + number % 3):
                live.acknowledge(packet.sequence - lag + 1)
        kinds = np.array(file.kinds + live.kinds)
        residuals = np.array(file.after + live.after) - np.array(file.before + live.before)
        activity = np.array(ACTIVITY_CLASS)[np.array(file.activity + live.activity)]
        neighbours = np.zeros(len(kinds), np.int64)
        for index in range(size):
            context = (kinds * ACTIVITY_CLASSES + activity[:, index]) * NEIGHBOUR_CLASSES
            context += np.array(NEIGHBOUR_CLASS)[neighbours]
            cell = (context * size + index) * (2 * _SPAN + 1) + np.clip(residuals[:, index], -_SPAN, _SPAN) + _SPAN
            np.add.at(counts, cell, 1)
            neighbours = (3 * neighbours >> 2) + 4 * np.minimum(np.abs(residuals[:, index]), LARGEST)
    return counts.reshape(CONTEXTS, size, 2 * _SPAN + 1).astype(np.float64)


def _symbols(shift: int) -> NDArray[np.int64]:
    """The symbol of each residual -_SPAN.._SPAN in a table with `shift` raw bits."""
    high = (np.arange(-_SPAN, _SPAN + 1) + (1 << shift >> 1)) >> shift
    return np.where(np.abs(high) <= LARGEST, high + LARGEST, ESCAPE)


def _assign(counts: NDArray[np.float64], bank: _Bank) -> NDArray[np.uint8]:
    """The cheapest table for each context and coefficient."""
    bits = np.empty((len(bank.shifts), 2 * _SPAN + 1))
    for table, shift in enumerate(bank.shifts.tolist()):
        high = np.abs(np.arange(-_SPAN, _SPAN + 1)) >> shift
        escape = 5 + np.floor(np.log2(np.maximum(high - LARGEST, 1)))
        symbols = _symbols(shift)
        bits[table] = shift - np.log2(bank.frequencies[table] / TOTAL)[symbols] + escape * (symbols == ESCAPE)
    # A context seldom seen borrows from the same coefficient with other neighbours, then from all.
    shaped = counts.reshape(KINDS * ACTIVITY_CLASSES, NEIGHBOUR_CLASSES, *counts.shape[1:])
    by_coefficient = _shares(shaped.sum(1, keepdims=True)) @ bits.T
    by_context = _shares(counts.sum(1, keepdims=True)) @ bits.T
    by_kind = _shares(counts.reshape(KINDS, -1, counts.shape[2]).sum(1)) @ bits.T
    price = (shaped @ bits.T + 4 * by_coefficient).reshape(CONTEXTS, counts.shape[1], -1)
    price += 2 * by_context + 0.1 * by_kind.repeat(CONTEXTS // KINDS, 0)[:, None]
    cheapest: NDArray[np.uint8] = price.argmin(2).astype(np.uint8)
    return cheapest


def _shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
    return shares


def _reshape(
    counts: NDArray[np.float64], table_of: NDArray[np.uint8], bank: _Bank, shapes_of: NDArray[np.float64]
) -> _Bank:
    """Each table takes the shape of what it was chosen for, symmetric; its first shape is a weak prior."""
    rows = np.empty_like(bank.frequencies)
    for table, shift in enumerate(bank.shifts.tolist()):
        seen = counts[table_of == table].sum(0)
        symbols = np.bincount(_symbols(shift), seen, SYMBOLS)
        residuals = symbols[:ESCAPE]
        symbols[:ESCAPE] = (residuals + residuals[::-1]) / 2
        rows[table] = symbols + 100 * shapes_of[table] / TOTAL
    return _Bank(_with_floor(rows), bank.shifts)
