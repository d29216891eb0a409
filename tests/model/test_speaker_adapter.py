"""Speaker adapters: exact differences, networks rewritten without torch, and a reason for every refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from kilocall.cli import run
from kilocall.model.compact.family import CompactFamily
from kilocall.model.compact.onnx_constants import Graph
from kilocall.model.compact.speaker_adapter import (
    MOST_BYTES,
    NETWORKS,
    WEIGHTS,
    SpeakerAdapter,
    base_hash,
    read_speaker_adapter,
    replace_convolutions,
    unpacked,
)
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import weights_folder
from kilocall.model.motion import Motion
from kilocall.proto.errors import BadInput, WrongFamily
from kilocall.sample import sample_stream
from kilocall.sample.perform import portrait

State = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def base() -> State:
    return load_file(weights_folder() / WEIGHTS)


@pytest.fixture(scope="module")
def changed(base: State) -> State:
    """Every kind of tensor changed a little: 8-bit weights by a step or two, halves by a hundredth."""
    rng = np.random.default_rng(3)
    state = dict(base)
    for name, value in base.items():
        if not name.startswith(("appearance.", "field.up_64", "generator.")) or name.endswith(".scale"):
            continue
        if value.dtype == np.int8:
            moved = value.astype(int) + rng.integers(-2, 3, value.shape)
            state[name] = np.clip(moved, -127, 127).astype(np.int8)
        elif name.endswith("bias"):
            state[name] = (value * np.float16(1.01) + np.float16(0.005)).astype(value.dtype)
    return state


@pytest.fixture(scope="module")
def adapter(base: State, changed: State) -> SpeakerAdapter:
    files = CompactFamily(weights_folder(), choose_engine("auto", 1)).manifest["files"]
    return SpeakerAdapter.between(base, changed, family="compact-256", base=base_hash(files))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kilocall" / "personal"


def test_unchanged_weights_leave_the_shipped_networks_as_they_are(base: State) -> None:
    state = unpacked(base)
    for name in NETWORKS:
        data = (weights_folder() / name).read_bytes()
        before, after = Graph(data), Graph(data)
        replace_convolutions(after, state)
        assert len(before.constants) > 20
        for constant in before.constants:
            old, new = (g.value(constant).astype(np.float64) for g in (before, after))
            # Scales were computed in another order of rounding; what is stored in 8 bits is the same to the bit. Biases
            # are stored in 32, and some are millions of steps large.
            least = 1.0 if constant.endswith("_quantized") and old.ndim == 1 else 1e-6 * max(1.0, np.abs(old).max())
            assert (np.abs(old - new) <= np.maximum(least, 1e-5 * np.abs(old))).all(), constant
            if old.ndim == 4 and constant.endswith("_quantized"):
                assert np.array_equal(old, new)


def test_differences_come_back_exactly_and_small(adapter: SpeakerAdapter, changed: State, base: State) -> None:
    data = bytes(adapter)
    # A step or two in each of a million weights is 2.3 bits each.
    assert len(data) < 0.5 * sum(v.nbytes for v in base.values())
    found = SpeakerAdapter.parse(data)
    assert found == adapter
    state = found.changed(weights_folder())
    assert {n for n in base if not np.array_equal(base[n], state[n])} == set(adapter.names)
    for name, value in changed.items():
        assert np.array_equal(state[name], value), name


def test_every_engine_renders_with_the_changed_weights(adapter: SpeakerAdapter) -> None:
    pictures = {}
    for engine in ("openvino", "torch"):
        family = CompactFamily(weights_folder(), choose_engine(engine, 1))
        crop = np.asarray(cv2.resize(portrait(), (256, 256), interpolation=cv2.INTER_AREA), np.uint8)
        source = family.source(crop)
        pose = source.pose
        motion = Motion(
            (pose.rotation[0] + 0.2, pose.rotation[1], pose.rotation[2]), pose.translation, pose.scale, pose.expression
        )
        mine = family.adapted(adapter)
        assert mine.weights_hash == family.weights_hash  # streams fit both
        assert mine.codebook is not None
        for name, used in (("all", family), ("mine", mine)):
            pictures[engine, name] = used.renderer(source).render(motion).astype(int)
    assert np.abs(pictures["openvino", "mine"] - pictures["openvino", "all"]).mean() > 0.1
    # Eight bits against floats: as far apart as with the package's own weights.
    mine_apart, all_apart = (
        np.abs(pictures["openvino", name] - pictures["torch", name]).mean() for name in ("mine", "all")
    )
    assert mine_apart < 1.2 * all_apart + 0.05


def test_only_the_last_few_personal_networks_are_kept(adapter: SpeakerAdapter, cache: Path) -> None:
    family = CompactFamily(weights_folder(), choose_engine("auto", 1))
    hashes = []
    for number in range(6):
        other = adapter.with_figures({"number": number})
        family.adapted(other)
        hashes.append(other.hash[:16])
    kept = {p.name for p in cache.iterdir()}
    assert len(kept) == 4
    assert hashes[-1] in kept


def refused(data: bytes) -> str:
    with pytest.raises(BadInput) as caught:
        SpeakerAdapter.parse(data).changed(weights_folder())
    return str(caught.value)


def test_what_does_not_fit_is_refused_with_its_reason(adapter: SpeakerAdapter, base: State) -> None:
    fields = {"family": adapter.family, "base": adapter.base}
    other = SpeakerAdapter.between(base, base, family="facevid2vid", base=fields["base"])
    with pytest.raises(WrongFamily, match="facevid2vid"):
        other.check(weights_folder())
    other = SpeakerAdapter.between(base, base, family="compact-256", base="0" * 64)
    with pytest.raises(WrongFamily, match="000000000000"):
        other.check(weights_folder())
    assert "allowed are 2000000" in refused(b"\0" * (MOST_BYTES + 1))
    assert "not a personal file" in refused(bytes(save({"changes": np.zeros(3, np.uint8)})))
    data = bytes(adapter)
    spoilt = data[:-1] + bytes([data[-1] ^ 1])
    assert "damaged" in refused(spoilt)
    forged = SpeakerAdapter("compact-256", adapter.base, "", ("no.such",), {}, adapter.changes).with_figures({})
    assert "no.such" in refused(bytes(forged))
    short = SpeakerAdapter("compact-256", adapter.base, "", adapter.names[:-1], {}, adapter.changes).with_figures({})
    assert "the weights need" in refused(bytes(short))


def test_no_prefix_of_a_personal_file_is_taken(adapter: SpeakerAdapter) -> None:
    data = bytes(adapter)
    for length in (*range(0, 64), *range(64, len(data), len(data) // 60)):
        with pytest.raises(BadInput):
            SpeakerAdapter.parse(data[:length])


def test_changes_that_inflate_without_end_take_no_memory(adapter: SpeakerAdapter) -> None:
    import zlib

    bomb = zlib.compress(bytes(300_000_000), 9)
    small = SpeakerAdapter("compact-256", adapter.base, "", adapter.names[:1], {}, bomb).with_figures({})
    assert "the weights need" in refused(bytes(small))


def test_numbers_that_are_not_finite_are_refused(base: State) -> None:
    name = next(n for n, v in base.items() if v.dtype == np.float16 and n.endswith("bias"))
    state = {**base, name: np.full_like(base[name], np.nan)}
    files = CompactFamily(weights_folder(), choose_engine("auto", 1)).manifest["files"]
    assert "not finite" in refused(
        bytes(SpeakerAdapter.between(base, state, family="compact-256", base=base_hash(files)))
    )


def test_an_onnx_file_cut_short_is_refused() -> None:
    data = (weights_folder() / "appearance.onnx").read_bytes()
    # The graph is one field that reaches nearly to the end.
    for length in range(200, len(data) - 200, len(data) // 50):
        with pytest.raises(BadInput, match="no readable ONNX file"):
            Graph(data[:length])


def test_decode_takes_a_personal_file_and_refuses_another(
    adapter: SpeakerAdapter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, other = tmp_path / "me.safetensors", tmp_path / "other.safetensors"
    mine.write_bytes(bytes(adapter))
    other.write_bytes(b"something else")
    stream, out = str(sample_stream("astronaut")), tmp_path / "out.mp4"
    assert run(["decode", stream, "-o", str(out), "--personal", str(other), "--threads", "1"]) == 2
    assert str(other) in capsys.readouterr().err
    assert not out.exists()
    assert run(["decode", stream, "-o", str(out), "--personal", str(mine), "--threads", "1"]) == 0
    assert out.stat().st_size > 1000
    assert read_speaker_adapter(mine).hash == adapter.hash
