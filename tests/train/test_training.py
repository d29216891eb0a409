"""Both trainings learn, and a stopped one goes on as if it had not been."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from kilocall.model.compact.extractor import Extractor
from kilocall.model.compact.renderer import Light
from kilocall.model.shape import fit_shape_model
from kilocall.proto.errors import BadInput
from kilocall.train.adversary import Adversary
from kilocall.train.blocks import BlockTask
from kilocall.train.dataset import Dataset
from kilocall.train.extractor import ExtractorTask
from kilocall.train.loop import Schedule, Task, Trainer
from kilocall.train.perceptual import LandmarkPerception
from kilocall.train.renderer import RendererTask
from kilocall.train.run import make_task
from train.faces import moved_portraits, write_clip
from train.random_weights import random_renderer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return moved_portraits(8)


def make(kind: str, data: Dataset) -> Task:
    torch.manual_seed(0)
    if kind == "extractor":
        return ExtractorTask(data, data, batch=4, device=CPU)
    if kind == "light extractor":
        return ExtractorTask(data, data, batch=4, device=CPU, teacher=Extractor())
    points = data.points
    model, _ = fit_shape_model([points[data.clip(c).start : data.clip(c).stop] for c in range(2)], 4)
    if kind == "blocks":
        return BlockTask(random_renderer(), data, data, model, sources=1, device=CPU)
    if kind == "renderer":
        return RendererTask(data, data, model, sources=1, device=CPU)
    perception = LandmarkPerception(Extractor())
    return RendererTask(data, data, model, sources=1, device=CPU, perception=perception, adversary=Adversary(CPU))


def trainer(kind: str, data: Dataset, folder: Path) -> Trainer:
    schedule = Schedule(24, 1e-3, warm_up=2)
    return Trainer(make(kind, data), folder, schedule, console=Console(quiet=True), show_every=1000)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["extractor", "light extractor", "renderer", "blocks"])
def test_twenty_steps_lower_the_loss(kind: str, data: Dataset, tmp_path: Path) -> None:
    run = trainer(kind, data, tmp_path)
    losses = [float(run.one_step()["loss"]) for _ in range(20)]
    assert np.mean(losses[-5:]) < 0.95 * np.mean(losses[:5])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["extractor", "light extractor", "renderer", "renderer with discriminators", "blocks"])
def test_resumed_training_is_bit_exact(kind: str, data: Dataset, tmp_path: Path) -> None:
    straight = trainer(kind, data, tmp_path / "straight")
    straight.run(until=4)
    trainer(kind, data, tmp_path / "stopped").run(until=2)
    resumed = trainer(kind, data, tmp_path / "stopped")
    assert resumed.step == 2
    resumed.run(until=4)
    for a, b in zip(
        straight.task.network.state_dict().values(), resumed.task.network.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)


def block_task(data: Dataset, teacher: Light) -> BlockTask:
    model, _ = fit_shape_model([data.points[data.clip(c).start : data.clip(c).stop] for c in range(2)], 4)
    return BlockTask(random_renderer(teacher), data, data, model, sources=1, device=CPU)


def test_only_blocks_that_become_light_learn_from_a_teacher(data: Dataset) -> None:
    task = block_task(data, Light(coarse=True))
    learning = {name for name, value in task.network.named_parameters() if value.requires_grad}
    parts = {".".join(name.split(".")[:2]) for name in learning}
    assert parts == {"generator.join_128", "generator.drawn", "generator.paint"}


def test_a_teacher_that_is_as_light_has_nothing_to_teach(data: Dataset) -> None:
    with pytest.raises(BadInput, match="as light as"):
        block_task(data, Light(field=True, coarse=True, fine=True))


def test_discriminators_learn_to_tell_pictures_apart() -> None:
    torch.manual_seed(0)
    adversary = Adversary(CPU)
    truth = torch.rand(4, 3, 64, 64)
    made = torch.nn.functional.avg_pool2d(truth, 5, 1, 2).requires_grad_()
    losses = [adversary.loss({"patch": (made, truth), "mouth": (made, truth)}) for _ in range(30)]
    assert losses[-1].item() > losses[0].item() + 0.5
    losses[-1].backward()  # type: ignore[no-untyped-call]
    assert made.grad is not None
    assert float(made.grad.abs().sum()) > 0


def test_discriminators_need_landmark_networks(data: Dataset) -> None:
    model, _ = fit_shape_model([data.points[data.clip(c).start : data.clip(c).stop] for c in range(2)], 4)
    with pytest.raises(BadInput, match="need the landmark networks"):
        RendererTask(data, data, model, sources=1, device=CPU, adversary=Adversary(CPU))
    with pytest.raises(BadInput, match="needs --extractor"):
        make_task("renderer", data, data, batch=1, device=CPU, discriminator=True)


def test_schedule_warms_up_and_comes_down() -> None:
    schedule = Schedule(100, 1.0, warm_up=10)
    rates = [schedule.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.01, abs=0.01)


def test_dataset_reads_clips_and_keeps_its_labels(data: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for clip in range(2):
        write_clip(folder, data, f"c{clip}", clip)
    opened = Dataset.open(folder, tmp_path / "cache")
    assert opened.names == ("c0", "c1")
    assert opened.pictures.shape == data.pictures.shape
    assert np.abs(opened.points - data.points).max() < 2e-3  # half precision on disk
    assert np.abs(opened.pictures.astype(int) - data.pictures).mean() < 4  # H.264
    again = Dataset.open(folder, tmp_path / "cache")
    assert (again.clip_start == opened.clip_start).all()


def test_empty_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no labelled clip"):
        Dataset.open(tmp_path, tmp_path / "cache")
    with pytest.raises(BadInput, match="is not a folder"):
        Dataset.open(tmp_path / "missing", tmp_path / "cache")
