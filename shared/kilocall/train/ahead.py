"""Batches made ahead on threads, each from its own step's seed, so that a resumed training sees the same ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Batch = TypeVar("Batch")


class Ahead(Generic[Batch]):
    """Calls `make(step)` for the steps to come while the device works on this one."""

    def __init__(self, make: Callable[[int], Batch], device: torch.device) -> None:
        # On a CPU the network itself wants the cores; a GPU waits for as many as there are.
        self._workers = 1 if device.type == "cpu" else max(2, (os.cpu_count() or 2) - 2)
        self._make = make
        self._pool = ThreadPoolExecutor(self._workers, "ahead")
        self._waiting: dict[int, Future[Batch]] = {}

    def take(self, step: int) -> Batch:
        """The batch of a step; the next ones are begun."""
        at_hand = self._waiting.pop(step, None)
        wanted = range(step + 1, step + 1 + self._workers)
        self._waiting = {s: self._waiting.get(s) or self._pool.submit(self._make, s) for s in wanted}
        return self._make(step) if at_hand is None else at_hand.result()


class PictureStore:
    """Pictures [N, S, S, 3] uint8: all in device memory on a GPU, mapped from the disk on a CPU."""

    def __init__(self, pictures: NDArray[np.uint8], device: torch.device) -> None:
        self._pictures, self._device = pictures, device
        self._held: Tensor | None = None
        if device.type != "cpu":
            self._held = torch.empty(pictures.shape, dtype=torch.uint8, device=device)
            for start in range(0, len(pictures), 512):
                part = torch.from_numpy(pictures[start : start + 512].copy())
                self._held[start : start + len(part)] = part.to(device)

    def take(self, chosen: NDArray[np.int64]) -> Tensor:
        """Chosen pictures as float [B, 3, S, S] in 0..1 on the device."""
        if self._held is None:
            some = torch.from_numpy(self._pictures[chosen]).to(self._device)
        else:
            some = self._held[torch.from_numpy(chosen).to(self._device)]
        return some.permute(0, 3, 1, 2).float().div_(255)
