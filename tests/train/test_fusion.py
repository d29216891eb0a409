"""The training of the network that takes a video layer: its sums are the receiver's, and it learns."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from kilocall.cli.models import train_fusion
from kilocall.model.compact.family import CompactFamily
from kilocall.model.compact.fusion import Fusion
from kilocall.model.compact.fusion_network import FusionNetwork
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import Family, Made, Placement, weights_folder
from kilocall.proto.errors import BadInput
from kilocall.sender.layer_encoder import LayerSetting
from kilocall.train.checkpoint import CHECKPOINT, read_checkpoint
from kilocall.train.fusion import FusionTask, moved, traced
from kilocall.train.fusion_data import Sample, SentClip, gather, send_clips
from kilocall.train.loop import Schedule, Trainer
from kilocall.train.quantise import write_float
from train.sent_clips import FEW, FRAMES, write_astronaut_clips

CPU = torch.device("cpu")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, family: Family) -> Path:
    return write_astronaut_clips(tmp_path_factory.mktemp("fusion") / "clips", family)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fusion cache")


@pytest.fixture(scope="module")
def clips(folder: Path, cache: Path, family: Family) -> tuple[SentClip, ...]:
    return send_clips(folder, cache, family, settings=FEW)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def unlike_a_new_one() -> FusionNetwork:
    """A network that says something else at every place: a new one says the same everywhere."""
    torch.manual_seed(1)
    network = FusionNetwork().eval()
    torch.nn.init.normal_(network.leave.weight, std=0.7)
    return network


def trainer(clips: tuple[SentClip, ...], folder: Path) -> Trainer:
    torch.manual_seed(0)
    task = FusionTask(clips, clips[1:], batch=2, device=CPU)
    return Trainer(task, folder, Schedule(16, 2e-3, warm_up=2), console=Console(quiet=True), show_every=1000)


def test_clips_come_out_whole_with_their_layers(clips: tuple[SentClip, ...]) -> None:
    assert [clip.name for clip in clips] == ["a", "b"]
    for clip in clips:
        assert clip.truth.shape == clip.made.shape == (FRAMES, 256, 256, 3)
        assert np.abs(clip.truth.astype(int) - clip.made).mean() < 12
        assert [len(layer.pictures[0]) for layer in clip.layers.values()] == [one.side for one in FEW]
        # What is too much for the rate is left out.
        rated, finer, any_rate = (set(layer.frames.tolist()) for layer in clip.layers.values())
        assert any_rate == {0, 4, 8}
        assert {0} < rated <= any_rate
        assert {0} < finer
        assert len(finer) <= FRAMES * FEW[1].fps / 25 + 1


def test_sent_clips_are_kept_until_the_clip_changes(
    clips: tuple[SentClip, ...], folder: Path, cache: Path, family: Family
) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in cache.iterdir()}
    assert set(before) == {"a.npz", "b.npz"}
    again = send_clips(folder, cache, family, settings=FEW)
    assert {file.name: file.stat().st_mtime_ns for file in cache.iterdir()} == before
    for a, b in zip(clips, again, strict=True):
        assert (a.made == b.made).all()
        assert (a.displacement == b.displacement).all()
        assert all((a.layers[one].pictures == b.layers[one].pictures).all() for one in FEW)
    other = folder.parent / "other"
    other.mkdir()
    shutil.copy(folder / "b.mp4", other / "a.mp4")
    shutil.copy(folder / "b.npz", other / "a.npz")
    kept = folder.parent / "kept"
    kept.mkdir()
    shutil.copy(cache / "a.npz", kept / "a.npz")
    (changed,) = send_clips(other, kept, family, settings=FEW)
    assert (changed.truth == clips[1].truth).all()


def test_a_folder_without_clips_is_refused_by_name(tmp_path: Path, family: Family) -> None:
    (tmp_path / "unlabelled.mp4").write_bytes(b"")
    with pytest.raises(BadInput, match="holds no labelled clip"):
        send_clips(tmp_path, tmp_path / "cache", family)
    with pytest.raises(BadInput, match="is not a folder"):
        send_clips(tmp_path / "missing", tmp_path / "cache", family)


@pytest.mark.parametrize("setting", FEW[:2])
def test_fusion_in_training_is_that_of_a_receiver(
    clips: tuple[SentClip, ...], tmp_path: Path, setting: LayerSetting
) -> None:
    number, now = 0, FRAMES - 1
    displacement = clips[1].displacement.copy()
    displacement[now] += 0.04  # 5 pixels, so that what has been carried counts less
    clip = replace(clips[1], displacement=displacement)
    layer = clip.layers[setting]
    then = int(layer.frames[number])
    network = unlike_a_new_one()
    write_float(network, tmp_path / "fusion.onnx")
    fusion = Fusion(choose_engine("onnxruntime", 1).load(tmp_path / "fusion.onnx"))
    made_then, made_now = made(clip, then), made(clip, now)
    wanted = fusion.correction(made_then, layer.pictures[number]).moved_to(made_now).apply(made_now.picture)
    task = FusionTask(clips, (), batch=1, device=CPU)
    with torch.no_grad():
        shown = task.fuse(network, gather([Sample(clip, setting, number, now)], CPU))
    found = 255 * shown.clamp(0, 1)[0].permute(1, 2, 0).numpy()
    assert np.abs(wanted.astype(int) - made_now.picture).mean() > 5
    assert np.abs(found - wanted).mean() < 0.35  # rounding alone is a quarter of a level
    assert np.percentile(np.abs(found - wanted), 99.9) < 3


def made(clip: SentClip, frame: int) -> Made:
    """A frame as a renderer gives it."""
    share = np.float32(1 / 255)
    placement = Placement(
        clip.displacement[frame].astype(np.float32),
        clip.painted[frame] * share,
        clip.visible[frame] * share,
        # Training has the network's sums alone, before lips and lids are left to motion.
        np.zeros((*clip.visible[frame].shape, 2), np.float32),
    )
    return Made(clip.made[frame], placement)


def test_mirrored_samples_are_mirror_images_and_move_the_other_way(clips: tuple[SentClip, ...]) -> None:
    plain, mirrored = (gather([Sample(clips[0], FEW[1], 0, FRAMES - 1, mirrored=way)], CPU) for way in (False, True))
    torch.manual_seed(0)
    values = torch.rand(1, 4, 256, 256)
    there = moved(values, traced(plain.displacement_now, plain.displacement_then))
    here = moved(values.flip(3), traced(mirrored.displacement_now, mirrored.displacement_then))
    assert (there - values).abs().mean() > 0.01
    torch.testing.assert_close(here.flip(3), there, atol=1e-3, rtol=0)
    for name in ("made_then", "layer", "painted", "visible", "made_now", "truth"):
        assert torch.equal(getattr(mirrored, name).flip(3), getattr(plain, name))


def test_steps_lower_the_loss(clips: tuple[SentClip, ...], tmp_path: Path) -> None:
    run = trainer(clips, tmp_path)
    before = [run.task.loss(step)[1]["loss"] for step in range(100, 104)]
    for _ in range(12):
        run.one_step()
    after = [run.task.loss(step)[1]["loss"] for step in range(100, 104)]
    assert np.mean(after) < 0.95 * np.mean(before)
    figures = run.task.evaluate(run.task.network)
    assert {"made_psnr", "psnr", "sharpness", "psnr_3", "psnr_12"} == figures.keys()
    sheet = run.task.sheet(run.task.network)
    assert sheet is not None
    assert sheet.shape[1] == round(4 * 256 * 0.6)


def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(clips: tuple[SentClip, ...], tmp_path: Path) -> None:
    straight = trainer(clips, tmp_path / "straight")
    straight.run(until=4)
    trainer(clips, tmp_path / "stopped").run(until=2)
    resumed = trainer(clips, tmp_path / "stopped")
    assert resumed.step == 2
    resumed.run(until=4)
    states = (one.task.network.state_dict().values() for one in (straight, resumed))
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_the_command_puts_its_network_into_a_weights_folder_and_streams_stay_the_same(
    clips: tuple[SentClip, ...], folder: Path, tmp_path: Path, one_thread: None
) -> None:
    data, weights = tmp_path / "data", tmp_path / "weights"
    for part, name in (("train", "a"), ("test", "b")):
        (data / part).mkdir(parents=True)
        for kind in ("mp4", "npz"):
            shutil.copy(folder / f"{name}.{kind}", data / part)
    shutil.copytree(weights_folder(), weights)
    before = CompactFamily(weights, choose_engine("onnxruntime", 1))
    run = tmp_path / "run"

    def train(steps: int, minutes: float | None = None) -> CompactFamily:
        train_fusion(
            data,
            tmp_path / "cache",
            run,
            steps=steps,
            batch=1,
            threads=1,
            device="cpu",
            weights=weights,
            minutes=minutes,
        )
        return CompactFamily(weights, choose_engine("onnxruntime", 1))

    assert train(100_000, minutes=1e-6).local_files == before.local_files  # it has not come to its end
    family = train(2)
    assert family.weights_hash == before.weights_hash
    assert family.local_files.keys() == {"fusion.onnx", "fusion.safetensors"}
    assert family.local_files["fusion.onnx"] != before.local_files.get("fusion.onnx")
    state, _ = read_checkpoint(run / CHECKPOINT)
    stored = load_file(weights / "fusion.safetensors")
    assert all(torch.equal(stored[name], state[name]) for name in FusionNetwork().state_dict())
    correction = family.fusion().correction(made(clips[0], 0), clips[0].layers[FEW[0]].pictures[0])
    assert np.abs(correction.changes[..., :3]).mean() > 1
