"""The training runs behind `kilocall train`: data, task, schedule and loop put together."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import FrameType
from typing import Final, Literal

import cv2
import numpy as np
import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kilocall.model.compact.extractor import Extractor, is_light
from kilocall.model.compact.int8_checkpoint import unpack
from kilocall.model.compact.renderer import Light, Renderer
from kilocall.model.family import Family
from kilocall.proto.errors import BadInput
from kilocall.runtime.files import write_whole
from kilocall.runtime.progress import Progress, silent
from kilocall.sender.layer_encoder import LADDER
from kilocall.train.adversary import Adversary
from kilocall.train.blocks import BlockTask
from kilocall.train.checkpoint import CHECKPOINT, read_checkpoint
from kilocall.train.dataset import Dataset
from kilocall.train.extractor import ExtractorTask, extract
from kilocall.train.fusion import FusionTask
from kilocall.train.fusion_data import SETTINGS, SentClip, send_clips
from kilocall.train.loop import Net, Schedule, Task, Trainer, on_device
from kilocall.train.perceptual import LandmarkPerception
from kilocall.train.renderer import RendererTask

__all__ = [
    "NETWORKS",
    "NetworkName",
    "choose_device",
    "make_task",
    "run_fusion",
    "run_training",
    "send_training_clips",
]

NetworkName = Literal["extractor", "renderer"]
NETWORKS: Final[tuple[NetworkName, ...]] = ("extractor", "renderer")

#: Peak learning rates; both networks trained stably at these with AdamW and the batches that the commands default to.
RATES: Final[dict[NetworkName, float]] = {"extractor": 1.5e-3, "renderer": 1e-3}
BLOCK_RATE: Final = 3e-3
#: Weight of the fine detail's energy once discriminators say which detail is right. The shipped weights had 3 to 6, and
#: 4 since copies stay sharp.
SHARPEN: Final = 4.0
AVERAGE: Final = 0.998
SAVE_EVERY: Final = 250
SHOW_EVERY: Final = 500
#: The fusion network is small and learns fast.
FUSION_RATE: Final = 2e-3
FUSION_WARM_UP: Final = 50
FUSION_AVERAGE: Final = 0.995
FUSION_DECAY: Final = 1e-4


@contextmanager
def tiny_numbers_as_zero() -> Iterator[None]:
    """Rounds denormal floats to zero, which is faster; whoever called gets them back."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@tiny_numbers_as_zero()
def run_training(
    network: NetworkName,
    data: Path,
    cache: Path,
    run: Path,
    *,
    steps: int,
    batch: int,
    threads: int = 0,
    device: str = "auto",
    extractor: Path | None = None,
    discriminator: bool = False,
    teacher: Path | None = None,
    minutes: float | None = None,
    console: Console,
) -> dict[str, float]:
    """Trains on `data`/train, measures on `data`/test, and goes on from the checkpoint in `run` if there is one.

    `extractor` is a run folder of the landmark networks, for the renderer's second stage: it then learns from the
    points that they find rather than from the labels, and what they see counts in the loss. `discriminator` is the
    third stage, on top of that one. `teacher` is a weights file
    whose networks are imitated. After `minutes` the run saves and ends, to be gone on with later.

    The decoded clips are kept in `cache`. The first Ctrl-C ends after the step at hand and saves, then raises
    KeyboardInterrupt; a second one ends at once. Returns the last figures.
    """
    chosen = choose_device(device)
    torch.set_num_threads(threads or os.cpu_count() or 1)
    # The loader's thread and torch's own share the cores; a third pool only makes them wait.
    cv2.setNumThreads(1)
    torch.backends.cudnn.benchmark = True
    train, test = (Dataset.open(_part(data, name), cache / name) for name in ("train", "test"))
    landmarks = None if extractor is None else load_extractor(extractor / CHECKPOINT)
    tracked = None if extractor is None else cache / f"tracked-{file_hash(extractor / CHECKPOINT)}.npy"
    task = make_task(
        network,
        train,
        test,
        batch=batch,
        device=chosen,
        extractor=landmarks,
        discriminator=discriminator,
        tracked_file=tracked,
        teacher=None if teacher is None or network != "renderer" else load_teacher(_renderer_like, teacher),
        extractor_teacher=(
            None if teacher is None or network != "extractor" else load_teacher(lambda state: Extractor(), teacher)
        ),
    )
    schedule = Schedule(steps, RATES[network] if network == "extractor" or teacher is None else BLOCK_RATE)
    trainer = Trainer(
        task, run, schedule, console=console, average=AVERAGE, save_every=SAVE_EVERY, show_every=SHOW_EVERY
    )
    console.print(f"{network} on {chosen}, {len(train.names)} clips, {schedule.steps} steps", soft_wrap=True)
    return _run(trainer, minutes)


def send_training_clips(
    data: Path,
    cache: Path,
    family: Family,
    *,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[tuple[SentClip, ...], tuple[SentClip, ...]]:
    """Clips of `data`/train and `data`/test as a receiver makes them, kept in `cache`: what `run_fusion` learns from.

    Minutes at first: each clip goes through encoder and decoder, and through a layer encoder at every setting.
    """
    # Both folders are looked for before the work begins; what is only measured needs no other settings.
    wanted = [
        (_part(data, name), cache / "fusion" / name, some) for name, some in (("train", SETTINGS), ("test", LADDER))
    ]
    train, test = (
        send_clips(folder, kept, family, settings=settings, progress=progress, say=say)
        for folder, kept, settings in wanted
    )
    return train, test


@tiny_numbers_as_zero()
def run_fusion(
    train: Sequence[SentClip],
    test: Sequence[SentClip],
    run: Path,
    *,
    steps: int,
    batch: int,
    threads: int = 0,
    device: str = "auto",
    minutes: float | None = None,
    console: Console,
) -> dict[str, float]:
    """Trains the fusion network on `train`, measures it on `test`; all else is as in `run_training`."""
    chosen = choose_device(device)
    torch.set_num_threads(threads or os.cpu_count() or 1)
    torch.manual_seed(0)
    trainer = Trainer(
        FusionTask(train, test, batch=batch, device=chosen),
        run,
        Schedule(steps, FUSION_RATE, FUSION_WARM_UP),
        console=console,
        average=FUSION_AVERAGE,
        save_every=SAVE_EVERY,
        show_every=SHOW_EVERY,
        weight_decay=FUSION_DECAY,
    )
    console.print(f"fusion on {chosen}, {len(train)} clips, {steps} steps", soft_wrap=True)
    return _run(trainer, minutes)


def _run(trainer: Trainer, minutes: float | None) -> dict[str, float]:
    """To the schedule's end, the end of the time, or the first Ctrl-C, which is raised once all is saved."""
    ends = time.monotonic() + 60 * (minutes or 1e9)
    with first_interrupt() as interrupted:
        figures = trainer.run(should_stop=lambda: interrupted() or time.monotonic() > ends)
    if interrupted():
        trainer.console.print(f"saved {trainer.checkpoint} at step {trainer.step}", soft_wrap=True)
        raise KeyboardInterrupt
    return figures


def make_task(
    network: NetworkName,
    train: Dataset,
    test: Dataset,
    *,
    batch: int,
    device: torch.device,
    extractor: Extractor | None = None,
    discriminator: bool = False,
    tracked_file: Path | None = None,
    teacher: Renderer | None = None,
    extractor_teacher: Extractor | None = None,
) -> Task:
    """What is trained, measured on `test`; `batch` counts faces or source pictures.

    What the extractor finds in every training picture is kept in `tracked_file`.
    """
    if network == "extractor":
        if extractor is not None:
            raise BadInput("the extractor is trained from labels; an extractor run goes with the renderer")
        return ExtractorTask(train, test, batch=batch, device=device, teacher=extractor_teacher)
    shape = train.shape_model()
    if teacher is not None:
        if discriminator:
            raise BadInput("with --teacher blocks learn from what its own give: no --discriminator")
        seen = None if extractor is None else LandmarkPerception(extractor)
        return BlockTask(teacher, train, test, shape, sources=batch, device=device, perception=seen)
    if extractor is None:
        if discriminator:
            raise BadInput("--discriminator needs --extractor: it looks at eyes and mouth where that one finds them")
        return RendererTask(train, test, shape, sources=batch, device=device)
    on_device(extractor, device)
    if tracked_file is not None and tracked_file.exists():
        tracked = np.load(tracked_file)
    else:
        tracked = extract(extractor, train.pictures, device)[1]
        if tracked_file is not None:
            with BytesIO() as sink:
                np.save(sink, tracked)
                write_whole(tracked_file, sink.getvalue())
    perception = LandmarkPerception(extractor)
    return RendererTask(
        train,
        test,
        shape,
        sources=batch,
        device=device,
        perception=perception,
        tracked=tracked,
        sharpen=SHARPEN if discriminator else 1.0,
        adversary=Adversary(device) if discriminator else None,
    )


def file_hash(path: Path) -> str:
    """Twelve hex digits of a file's SHA-256; BadInput where there is none."""
    if not path.is_file():
        raise BadInput(f"checkpoint {path} does not exist")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def load_extractor(checkpoint: Path) -> Extractor:
    """The averaged landmark networks of a training checkpoint. Raises BadInput where it is none."""
    state, _ = read_checkpoint(checkpoint)
    network = Extractor(light=is_light(state))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise BadInput(f"checkpoint {checkpoint} is not of the extractor: {str(error).splitlines()[0]}") from error
    return network.eval().requires_grad_(False)


def _renderer_like(state: Mapping[str, Tensor]) -> Renderer:
    return Renderer(Light.of(state))


def load_teacher(make: Callable[[Mapping[str, Tensor]], Net], weights: Path) -> Net:
    """A teacher with the numbers of `renderer.safetensors` or `extractor.safetensors`: the network that `make` has for
    a state dict like theirs; BadInput if they do not fit."""
    try:
        state = unpack(load_file(weights))
        network = make(state)
        missing = [n for n in network.state_dict() if n not in state and not n.endswith("num_batches_tracked")]
        if missing:
            raise BadInput(f"teacher {weights} has no {missing[0]}")
        network.load_state_dict(state, strict=False)
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise BadInput(f"teacher {weights} cannot be used: {str(error).splitlines()[0]}") from error
    return network.eval()


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises BadInput for an unknown or missing device."""
    if name not in ("auto", "cpu", "cuda"):
        raise BadInput(f"device is {name!r}, allowed are auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("device is cuda, and torch finds none here; allowed are auto, cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _part(data: Path, name: str) -> Path:
    part = data / name
    if not part.is_dir():
        raise BadInput(f"training data: {data} has no folder {name}; wanted are train and test")
    return part


@contextmanager
def first_interrupt() -> Iterator[Callable[[], bool]]:
    """Yields whether Ctrl-C was pressed; pressed again, it interrupts as usual."""
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
