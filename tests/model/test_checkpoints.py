"""Weights files that fit, and every kind that does not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from kilocall.cli import run
from kilocall.model.checkpoints import FACEVID2VID, LIVEPORTRAIT, LIVEPORTRAIT_MODULES, read_checkpoint
from kilocall.proto.errors import BadInput, WrongFamily
from model.recipe_weights import shapes


def hollow(family: str, module: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A state dict with the right names and shapes in a few kilobytes: every tensor is one zero, repeated."""
    return {
        name: torch.zeros((), dtype=torch.int64 if name.endswith("num_batches_tracked") else dtype).expand(shape)
        for name, shape in shapes(family)[module].items()
    }


def checkpoint(generator: str = "spade", dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    return {
        "generator": hollow(FACEVID2VID, f"generator_{generator}", dtype),
        "kp_detector": hollow(FACEVID2VID, "kp_detector", dtype),
        "he_estimator": hollow(FACEVID2VID, "he_estimator", dtype),
    }


@pytest.fixture(scope="module")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("portrait")
    for module in LIVEPORTRAIT_MODULES:
        torch.save(hollow(LIVEPORTRAIT, module), folder / f"{module}.pth")
    return folder


class Code:
    """What a pickle can run when it is opened without care."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch proof_that_code_ran",)


@pytest.mark.parametrize(
    ("generator", "beta", "version"),
    [
        ("spade", False, "Vox-256 new, SPADE generator"),
        ("original", False, "Vox-256 new, original generator"),
        ("original", True, "Vox-256 beta, original generator"),
    ],
)
def test_what_only_training_needs_is_ignored_by_name(tmp_path: Path, generator: str, beta: bool, version: str) -> None:
    content = {**checkpoint(generator), "discriminator": {"x": torch.zeros(2)}, "optimizer_generator": {}, "epoch": 3}
    if beta:
        del content["kp_detector"]["down.weight"]
    torch.save(content, tmp_path / "vox.pth.tar")
    found = read_checkpoint(tmp_path / "vox.pth.tar", FACEVID2VID)
    assert found.version == version
    assert found.ignored == ("discriminator", "epoch", "optimizer_generator")
    assert "non" in found.licence.lower() or "not for commercial" in found.licence


def test_names_of_a_training_on_several_gpus_are_understood(tmp_path: Path) -> None:
    content = {name: {f"module.{k}": v for k, v in module.items()} for name, module in checkpoint().items()}
    torch.save(content, tmp_path / "vox.pth")
    assert read_checkpoint(tmp_path / "vox.pth").family == FACEVID2VID


def test_a_folder_is_found_where_the_public_archive_puts_it(portrait: Path, tmp_path: Path) -> None:
    shutil.copytree(portrait, tmp_path / "weights" / "liveportrait" / "base_models")
    found = read_checkpoint(tmp_path / "weights", LIVEPORTRAIT)
    assert (found.family, found.licence) == (LIVEPORTRAIT, "MIT")
    assert found.hash == read_checkpoint(portrait).hash


def refused(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which `weights check` refuses."""
    assert run(["weights", "check", str(path)]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("kilocall:")]
    assert len(lines) == 1
    return lines[0]


def test_code_in_a_pickle_is_never_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**checkpoint(), "epoch": Code()}, tmp_path / "vox.pth")
    assert "code" in refused(tmp_path / "vox.pth", capsys)
    assert not (tmp_path / "proof_that_code_ran").exists()


@pytest.mark.parametrize("kept", [0, 3, 60, 5000, -40])
def test_a_file_that_is_cut_off(kept: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(checkpoint(), tmp_path / "vox.pth")
    data = (tmp_path / "vox.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[:kept])
    assert any(word in refused(tmp_path / "cut.pth", capsys) for word in ("cut off", "neither"))


def test_a_safetensors_file_that_is_cut_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"generator.x": torch.zeros(1000)}, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-100])
    assert "cut off" in refused(tmp_path / "cut.safetensors", capsys)


def test_files_that_are_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "picture.pth").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    assert "neither a torch file nor safetensors" in refused(tmp_path / "picture.pth", capsys)
    torch.save({"state_dict": {"x": torch.zeros(1)}}, tmp_path / "other.pth")
    assert "known to no family" in refused(tmp_path / "other.pth", capsys)
    torch.save([1, 2], tmp_path / "list.pth")
    assert "list" in refused(tmp_path / "list.pth", capsys)
    torch.save({"generator": checkpoint()["generator"]}, tmp_path / "half.pth")
    assert "kp_detector, he_estimator is missing" in refused(tmp_path / "half.pth", capsys)
    assert "no such file" in refused(tmp_path / "nothing.pth", capsys)


def test_wrong_keys_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = checkpoint()
    detector = content["kp_detector"]
    del detector["kp.bias"]
    detector["kp.weight"] = torch.zeros(20, 32, 3, 3, 3)
    detector["extra"] = torch.zeros(1)
    torch.save(content, tmp_path / "vox.pth")
    text = refused(tmp_path / "vox.pth", capsys)
    assert "1 missing: kp.bias" in text
    assert "1 unknown: extra" in text
    assert "kp.weight [20, 32, 3, 3, 3] instead of [15, 32, 3, 3, 3]" in text


def test_a_renamed_and_a_missing_file_of_a_folder_are_named(
    portrait: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = tmp_path / "renamed"
    shutil.copytree(portrait, renamed)
    (renamed / "warping_module.pth").unlink()
    assert "warping_module.pth not found" in refused(renamed, capsys)
    shutil.copy(portrait / "spade_generator.pth", renamed / "warping_module.pth")
    assert "hold spade_generator; was the file renamed?" in refused(renamed, capsys)
    assert "name the folder" in refused(portrait / "spade_generator.pth", capsys)


def test_a_file_of_a_folder_that_is_bad_in_itself_is_named(
    portrait: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "lp"
    shutil.copytree(portrait, folder)
    warping = folder / "warping_module.pth"
    whole = warping.read_bytes()
    warping.write_bytes(whole[:-300])
    assert f"weights {warping} are cut off or damaged" in refused(folder, capsys)
    torch.save({**hollow(LIVEPORTRAIT, "warping_module"), "epoch": Code()}, warping)
    assert f"weights {warping} hold code" in refused(folder, capsys)
    assert not (tmp_path / "proof_that_code_ran").exists()
    torch.save({f"module.{k}": v for k, v in hollow(LIVEPORTRAIT, "warping_module", torch.float16).items()}, warping)
    assert read_checkpoint(folder).hash == read_checkpoint(portrait).hash


def test_half_precision_is_read_unless_it_overflowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = checkpoint(dtype=torch.float16)
    torch.save(content, tmp_path / "half.pth")
    assert read_checkpoint(tmp_path / "half.pth").precision == "float16"
    content["he_estimator"]["norm1.running_var"] = torch.full((64,), torch.inf, dtype=torch.float16)
    torch.save(content, tmp_path / "overflowed.pth")
    assert "he_estimator.norm1.running_var is not finite" in refused(tmp_path / "overflowed.pth", capsys)
    torch.save(checkpoint(dtype=torch.float64), tmp_path / "double.pth")
    assert "float64, allowed are float32" in refused(tmp_path / "double.pth", capsys)


def test_weights_of_the_other_family_are_told_apart(portrait: Path) -> None:
    with pytest.raises(WrongFamily, match="are of family liveportrait, wanted is facevid2vid"):
        read_checkpoint(portrait, FACEVID2VID)


def test_conversion_keeps_the_hash_and_halves_the_size(portrait: Path, tmp_path: Path) -> None:
    out = tmp_path / "portrait.safetensors"
    assert run(["weights", "convert", str(portrait), "-o", str(out), "--fp16"]) == 0
    made = read_checkpoint(out)
    assert made.hash == read_checkpoint(portrait).hash
    assert made.precision == "float16"
    assert out.stat().st_size == pytest.approx(2 * made.parameters, rel=0.02)


def test_conversion_refuses_bad_names_and_leaves_nothing(
    portrait: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["weights", "convert", str(portrait), "-o", str(tmp_path / "x.pth")]) == 2
    assert "allowed is .safetensors" in capsys.readouterr().err
    (tmp_path / "bad.pth").write_bytes(b"PK\x03\x04nothing")
    assert run(["weights", "convert", str(tmp_path / "bad.pth"), "-o", str(tmp_path / "x.safetensors")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]


def test_bad_input_is_a_value_error() -> None:
    with pytest.raises(BadInput, match="no such file or folder"):
        read_checkpoint(Path("nowhere.pth"))
