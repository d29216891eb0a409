"""One training loop for every network: steps, checkpoints that resume exactly, averaged weights, progress, pictures."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from kilocall.train.checkpoint import CHECKPOINT

Net = TypeVar("Net", bound=nn.Module)


def on_device(network: Net, device: torch.device) -> Net:
    """Moves a network; channels last is what convolutions like on CPUs and on tensor cores."""
    network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def take_over(student: nn.Module, teacher: nn.Module) -> None:
    """Gives a student the numbers of its teacher that have the same name in both.

    Where a convolution is pointwise in the student alone it gets the sums of the teacher's taps.
    """
    own, given = student.state_dict(), teacher.state_dict()
    for name in own.keys() & given.keys():
        value, size = given[name], own[name].shape
        if value.ndim == 4 and size[2:] == (1, 1):
            value = value.sum((2, 3), keepdim=True)
        if value.shape == size:
            own[name] = value
    student.load_state_dict(own)


def precision(device: torch.device) -> torch.autocast:
    """bfloat16 where the device computes in it; on a CPU that does not it takes three times as long as float32."""
    # torch has no public question for it; the private one is stable since 2.1.
    fast = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a cosine from `rate` to a hundredth of it at `steps`."""

    steps: int
    rate: float
    warm_up: int = 200

    def rate_at(self, step: int) -> float:
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        done = min(1.0, (step - self.warm_up) / max(1, self.steps - self.warm_up))
        return self.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


class Task(Protocol):
    """What is trained: the network, one loss for a step, and a picture that shows how it goes."""

    network: nn.Module

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Scalar loss and the figures worth showing. All randomness comes from the step number."""

    def extra_state(self) -> dict[str, Any]:
        """What else a resumed training needs, tensors and numbers only."""

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Takes back what `extra_state` gave; an empty dict is a run that had none."""

    def sheet(self, network: nn.Module) -> NDArray[np.uint8] | None:
        """A picture for people, or None."""

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Figures on data that is not trained on."""


class Trainer:
    """Runs a task. The same command goes on where the last one stopped; a checkpoint is written whole or not at all."""

    def __init__(
        self,
        task: Task,
        folder: Path,
        schedule: Schedule,
        *,
        console: Console,
        average: float = 0.999,
        save_every: int = 500,
        show_every: int = 1000,
        weight_decay: float = 0.01,
    ) -> None:
        self.task, self.folder, self.schedule, self.console = task, folder, schedule, console
        self.average, self.save_every, self.show_every = average, save_every, show_every
        self.step = 0
        self.averaged = copy.deepcopy(task.network).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            task.network.parameters(), lr=schedule.rate, betas=(0.9, 0.99), weight_decay=weight_decay
        )
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = folder / CHECKPOINT
        if self.checkpoint.exists():
            self._resume()

    def _resume(self) -> None:
        state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
        self.task.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.task.load_extra_state(state.get("extra", {}))
        self.step = int(state["step"])
        self.console.print(f"resumed {self.checkpoint} at step {self.step}")

    def save(self) -> None:
        partial = self.checkpoint.with_suffix(".part")
        torch.save(
            {
                "network": self.task.network.state_dict(),
                "averaged": self.averaged.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "extra": self.task.extra_state(),
                "step": self.step,
            },
            partial,
        )
        os.replace(partial, self.checkpoint)

    def run(self, until: int | None = None, should_stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """Trains to step `until` (default: the schedule's end) and returns the last figures shown."""
        end = min(until or self.schedule.steps, self.schedule.steps)
        shown: dict[str, float] = {}
        started, since = time.monotonic(), self.step
        with Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        ) as progress:
            bar = progress.add_task(self.folder.name, total=end, completed=self.step, figures="")
            while self.step < end and not should_stop():
                figures = self.one_step()
                for name, value in figures.items():
                    shown[name] = value if name not in shown else 0.98 * shown[name] + 0.02 * value
                rate = (self.step - since) / max(1e-9, time.monotonic() - started)
                text = " ".join(f"{name} {value:.4f}" for name, value in shown.items()) + f" {rate:.2f} steps/s"
                progress.update(bar, completed=self.step, figures=text)
                if self.step % 100 == 0 and not self.console.is_terminal:
                    self.console.print(f"{self.folder.name} {self.step}/{end} {text}", soft_wrap=True)
                if self.step % self.save_every == 0:
                    self.save()
                if self.step % self.show_every == 0:
                    self._show()
        self.save()
        self._show()
        return shown

    def one_step(self) -> dict[str, float]:
        """The task's figures of this step's batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate_at(self.step)
        self.task.network.train()
        loss, figures = self.task.loss(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.task.network.parameters(), 5.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        keep = min(self.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            target, value = (list(net.state_dict().values()) for net in (self.averaged, self.task.network))
            smooth = [i for i, tensor in enumerate(value) if tensor.is_floating_point()]
            torch._foreach_lerp_([target[i] for i in smooth], [value[i] for i in smooth], 1 - keep)
            for i in set(range(len(value))) - set(smooth):
                target[i].copy_(value[i])
        return figures

    def _show(self) -> None:
        figures = self.task.evaluate(self.averaged)
        if figures:
            self.console.print(
                f"{self.folder.name} {self.step} held out: "
                + " ".join(f"{name} {value:.4f}" for name, value in figures.items()),
                soft_wrap=True,
            )
        picture = self.task.sheet(self.averaged)
        if picture is not None:
            import cv2

            cv2.imwrite(str(self.folder / f"sheet-{self.step:06d}.png"), picture[..., ::-1])
