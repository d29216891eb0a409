"""Fine-tuning on a portrait that is moved by known amounts: it gets better, or no file is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kilocall.cli import run
from kilocall.model.compact.family import CompactFamily
from kilocall.model.compact.speaker_adapter import read_speaker_adapter
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import weights_folder
from kilocall.proto.errors import BadInput, KilocallError
from kilocall.sample.perform import portrait
from kilocall.train import finetune as module
from kilocall.train.finetune import Learner, Looks, Split, finetune
from kilocall.train.footage import Footage, read_footage
from kilocall.train.low_rank import plain_state
from train.faces import moved_portraits, write_clip

SECONDS = 1.0


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "SOURCES", 3)
    monkeypatch.setattr(module, "WARM_UP", 2)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def family() -> CompactFamily:
    return CompactFamily(weights_folder(), choose_engine("auto", 1))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of the portrait in other colours than any camera's, so that there is something to learn."""
    folder = tmp_path_factory.mktemp("clip")
    data = moved_portraits(25, clips=1)
    data.pictures[..., 2] = 255 - data.pictures[..., 2] // 2
    write_clip(folder, data, "me", 0)
    return folder / "me.mp4"


def test_the_held_back_part_gets_better_and_the_file_says_by_how_much(
    clip: Path, family: CompactFamily, tmp_path: Path
) -> None:
    out, said = tmp_path / "me.safetensors", list[str]()
    report = finetune(
        [clip], out, family, held_back=0.3, steps=8, threads=1, least_seconds=SECONDS, device="cpu", say=said.append
    )
    assert report.after.psnr_db > report.before.psnr_db
    assert (report.frames_learnt, report.frames_held_back) == (16, 7)
    assert report.bytes == out.stat().st_size < 2_000_000
    adapter = read_speaker_adapter(out)
    assert adapter.hash == report.hash
    assert adapter.figures["after"]["psnr_db"] == report.after.psnr_db
    assert not any(name.startswith("implicit.") for name in adapter.names)
    assert family.adapted(adapter).adapter == adapter
    assert said[1].startswith("step 0: ")
    assert report.share in module.SHARES
    assert [line.split("%")[0] for line in said[-len(module.SHARES) :]] == ["100", "75", "50", "35"]
    with pytest.raises(BadInput, match="not from a personal file"):
        finetune([clip], out, family.adapted(adapter), least_seconds=SECONDS)


def test_without_a_gain_no_file_is_written_and_the_old_one_stays(
    clip: Path, family: CompactFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "me.safetensors"
    out.write_bytes(b"the old one")
    monkeypatch.setattr(module, "LEAST_GAIN_DB", 90.0)
    with pytest.raises(KilocallError, match="no file was written"):
        finetune([clip], out, family, held_back=0.3, steps=1, threads=1, least_seconds=SECONDS, device="cpu")
    assert out.read_bytes() == b"the old one"
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["me.safetensors"]


def looks(psnr_db: float, landmark_px: float = 1.0, eye_gain: float | None = 0.9, ssim: float = 0.9) -> Looks:
    return Looks(psnr_db=psnr_db, ssim=ssim, landmark_px=landmark_px, sharpness=0.7, mouth_gain=None, eye_gain=eye_gain)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (looks(25.0), "no better"),
        (looks(26.0, ssim=0.89), "no better"),
        (looks(26.0, landmark_px=1.1), "landmarks 1.00 to 1.10 px"),
        (looks(26.0, eye_gain=0.5), "lids 0.90 to 0.50"),
    ],
)
def test_what_gets_worse_in_anything_that_people_look_at_is_not_written(after: Looks, said: str) -> None:
    with pytest.raises(KilocallError, match=f"{said}.*no file was written"):
        module.refuse_no_gain(looks(25.0), after)


def test_better_pictures_with_faces_as_they_were_are_written() -> None:
    for after in (looks(25.2), looks(26.0, landmark_px=1.02), looks(26.0, eye_gain=1.05), looks(26.0, eye_gain=None)):
        module.refuse_no_gain(looks(25.0), after)


def test_a_share_of_the_way_is_worth_less_where_faces_get_worse_by_more_than_chance() -> None:
    before = looks(25.0)
    whole = module.worth(before, looks(26.0))
    assert 0 < whole < 1
    assert module.worth(before, looks(26.0, landmark_px=1.01, eye_gain=0.85)) == whole
    assert module.worth(before, looks(25.9)) < whole
    for worse in (looks(26.0, landmark_px=1.06), looks(26.0, eye_gain=0.5), looks(26.0, eye_gain=1.5)):
        assert module.worth(before, worse) < module.worth(before, looks(25.5))


@pytest.mark.parametrize("moment", ["pictures to learn from", "step 1"])
def test_stopped_at_any_moment_the_old_file_stays(
    moment: str, clip: Path, family: CompactFamily, tmp_path: Path
) -> None:
    out = tmp_path / "me.safetensors"
    out.write_bytes(b"the old one")

    def say(line: str) -> None:
        if moment in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune([clip], out, family, steps=1, threads=1, least_seconds=SECONDS, device="cpu", say=say)
    assert out.read_bytes() == b"the old one"
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["me.safetensors"]


def test_only_the_named_parts_learn_and_the_same_seed_learns_the_same(
    clip: Path, family: CompactFamily, tmp_path: Path
) -> None:
    footage = read_footage([clip], family, tmp_path, least_seconds=SECONDS)
    split = Split.of(footage, 0.3)
    made = []
    for _ in range(2):
        learner = Learner(family, footage, split, 0, parts=["generator"], device=torch.device("cpu"), seed=4)
        learner.run(2, lambda: False, lambda line: None, lambda done, total: None)
        learner.best = plain_state(learner.averaged)
        made.append(learner.stored())
    changed = {name for name, value in made[0].items() if not np.array_equal(value, learner.base[name])}
    assert changed
    assert all(name.startswith("generator.") for name in changed)
    assert all(np.array_equal(made[0][name], made[1][name]) for name in made[0])


def test_weights_between_everybodys_and_the_learnt_ones_are_stored_in_the_same_steps(
    clip: Path, family: CompactFamily, tmp_path: Path
) -> None:
    footage = read_footage([clip], family, tmp_path, least_seconds=SECONDS)
    learner = Learner(
        family, footage, Split.of(footage, 0.3), 0, parts=["generator"], device=torch.device("cpu"), seed=4
    )
    learner.best = {
        name: value + 0.1 * value.abs().mean() if name.startswith("generator.") and value.ndim > 1 else value
        for name, value in learner.start.items()
    }
    none, half, whole = (learner.stored(share) for share in (0.0, 0.5, 1.0))
    assert all(np.array_equal(none[name], value) for name, value in learner.base.items())
    name = max((n for n in whole if n.startswith("generator.")), key=lambda n: whole[n].size)
    start, far = learner.base[name].astype(int), whole[name].astype(int)
    assert not np.array_equal(start, far)
    assert np.abs(half[name] - (start + far) / 2).max() <= 1
    assert np.array_equal(half[name + ".scale"], learner.base[name + ".scale"])


def test_parts_of_a_clip_follow_each_other_and_none_is_in_two() -> None:
    footage = Footage(np.zeros((30, 1, 1, 3), np.uint8), [None] * 30, (0, 20, 30), 1.2, ())  # type: ignore[list-item]
    split = Split.of(footage, 0.5)
    assert sorted([*split.learn, *split.stop, *split.held]) == list(range(30))
    assert list(split.held) == [*range(10, 20), *range(25, 30)]
    assert max(split.learn[split.learn < 20]) < min(split.stop)


def write_video(path: Path, pictures: list[NDArray[np.uint8]]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_clip_with_two_people_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    face = portrait()
    smaller = np.asarray(cv2.resize(face[:, ::-1], (320, 320)), np.uint8)
    both = np.full((384, 384 + 320, 3), 90, np.uint8)
    both[:, :384], both[32:352, 384:] = face, smaller
    clip = write_video(tmp_path / "two.mp4", [both] * 40)
    out = tmp_path / "me.safetensors"
    assert run(["finetune", str(clip), "-o", str(out), "--threads", "1"]) == 2
    assert "two or more people" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["CLIP"], "at least 10 s are needed"),
        (["nowhere.mp4"], "nowhere.mp4"),
        (["CLIP", "--out", "nowhere/me.safetensors"], "nowhere"),
        (["CLIP", "--out", "CLIP"], "one of the clips"),
        (["CLIP", "--part", "hair"], "hair"),
        (["CLIP", "--device", "tpu"], "tpu"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(
    arguments: list[str], said: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(clip) if argument == "CLIP" else argument for argument in arguments]
    if "--out" not in given:
        given += ["--out", str(tmp_path / "me.safetensors")]
    before = clip.read_bytes()
    assert run(["finetune", *given, "--threads", "1"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "me.safetensors").exists()
    assert clip.read_bytes() == before
