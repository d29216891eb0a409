from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from kilocall.codec.codebook import CONTEXTS, Codebook, level_of_quality, rescale, usual_quality
from kilocall.proto.errors import BadInput
from kilocall.proto.limits import LEVELS

VECTORS = Path(__file__).parents[1] / "vectors"


def test_golden_file_gives_the_same_codebook(codebook: Codebook) -> None:
    golden = VECTORS / "codebook.safetensors"
    assert Codebook.load(golden) == codebook
    assert codebook.to_bytes() == golden.read_bytes()
    assert codebook.hash == "17bf5a81858a2206ea2005e94d0c9b656dadf232e1aebca89ff405da001f459c"


def test_saved_codebook_comes_back(codebook: Codebook, tmp_path: Path) -> None:
    path = tmp_path / "book.safetensors"
    codebook.save(path)
    loaded = Codebook.load(path)
    assert loaded == codebook
    assert loaded.cumulative == codebook.cumulative
    assert [entry.name for entry in tmp_path.iterdir()] == ["book.safetensors"]


def test_arrays_cannot_be_written_to(codebook: Codebook) -> None:
    with pytest.raises(ValueError, match="read-only"):
        codebook.mean[0] = 1


def test_hash_changes_with_every_array(codebook: Codebook) -> None:
    frequencies = codebook.frequencies.copy()
    frequencies[0, 15] -= 1
    frequencies[0, 14] += 1
    table_of = codebook.table_of.copy()
    table_of[7, 1] ^= 1
    changed: list[dict[str, Any]] = [
        {"base_steps": codebook.base_steps * 2},
        {"mean": codebook.mean + 1},
        {"frequencies": frequencies},
        {"shifts": codebook.shifts + 1},
        {"table_of": table_of},
    ]
    hashes = {with_change(codebook, change).hash for change in changed}
    assert len(hashes | {codebook.hash}) == 6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"base_steps": np.zeros(4, np.float32)}, "base_steps holds"),
        ({"base_steps": np.array([1, np.nan, 1, 1], np.float32)}, "base_steps holds"),
        ({"base_steps": np.ones((4, 1), np.float32)}, "base_steps has shape"),
        ({"base_steps": np.ones(0, np.float32)}, "base_steps has shape"),
        ({"base_steps": np.ones(4)}, "type float64"),
        ({"mean": np.zeros(3, np.int32)}, "mean has shape"),
        ({"mean": np.full(4, 40000, np.int32)}, "mean holds"),
        ({"frequencies": np.full((6, 32), 2048, np.int32) + np.eye(6, 32, dtype=np.int32)}, "sum other than"),
        ({"frequencies": np.zeros((6, 32), np.int32)}, "row with a zero"),
        ({"frequencies": np.zeros((0, 32), np.int32)}, "0 tables"),
        ({"frequencies": np.full((6, 31), 2048, np.int32)}, "frequencies has shape"),
        ({"shifts": np.full(6, 13, np.int32)}, "shifts holds"),
        ({"table_of": np.full((CONTEXTS, 4), 6, np.uint8)}, "names table 6 of 6"),
        ({"table_of": np.zeros((CONTEXTS - 1, 4), np.uint8)}, "table_of has shape"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(codebook: Codebook, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        with_change(codebook, change)


def test_every_prefix_of_a_file_is_refused(codebook: Codebook) -> None:
    data = codebook.to_bytes()
    for length in [*range(0, 700, 7), *range(700, len(data), 97)]:
        with pytest.raises(BadInput):
            Codebook.from_bytes(data[:length])


def test_other_format_version_is_refused_by_number(codebook: Codebook) -> None:
    arrays = load_tensors(codebook.to_bytes())
    with pytest.raises(BadInput, match="version 2, this program reads 1"):
        Codebook.from_bytes(save_tensors({**arrays, "format_version": np.array([2], np.int32)}))


def test_missing_and_foreign_arrays_are_named(codebook: Codebook) -> None:
    arrays = load_tensors(codebook.to_bytes())
    with pytest.raises(BadInput, match="surplus"):
        Codebook.from_bytes(save_tensors({**arrays, "surplus": np.zeros(1, np.int32)}))
    del arrays["format_version"]
    with pytest.raises(BadInput, match="no format_version"):
        Codebook.from_bytes(save_tensors(arrays))


def test_load_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "other.bin"
    path.write_bytes(b"something else")
    with pytest.raises(BadInput, match=r"other\.bin"):
        Codebook.load(path)


def test_quality_maps_to_levels_and_50_is_the_base_step(codebook: Codebook) -> None:
    assert [level_of_quality(quality) for quality in (0, 6, 7, 50, 93, 94, 100)] == [0, 0, 1, 4, 7, 8, 8]
    assert (codebook.steps(4) == codebook.base_steps).all()
    assert (codebook.steps(0) == codebook.base_steps * 4).all()
    assert (codebook.steps(8) == codebook.base_steps / 4).all()
    np.testing.assert_allclose(codebook.steps(3), codebook.base_steps * 2**0.5, rtol=1e-7)
    np.testing.assert_allclose(codebook.steps(5), codebook.base_steps / 2**0.5, rtol=1e-7)


def test_usual_quality_is_finer_from_3_kbit_s_of_a_layer_on() -> None:
    assert [usual_quality(kbps) for kbps in (0, 1.5, 2.9, 3, 24)] == [50, 50, 50, 75, 75]


@pytest.mark.parametrize("quality", [-1, 101, float("nan")])
def test_quality_outside_0_to_100_is_refused(quality: float) -> None:
    with pytest.raises(BadInput, match="quality is"):
        level_of_quality(quality)


def test_rescale_keeps_the_value_to_half_a_step() -> None:
    for source in range(LEVELS):
        for target in range(LEVELS):
            for value in (-1000, -3, 0, 1, 777):
                # 0.02: the powers of the square root of two are rounded to 16 bits.
                assert abs(rescale(value, source, target) - value * 2 ** ((target - source) / 2)) <= 0.52


def with_change(codebook: Codebook, change: dict[str, Any]) -> Codebook:
    fields = {field.name: getattr(codebook, field.name) for field in dataclasses.fields(codebook) if field.init}
    return Codebook(**{**fields, **change})
