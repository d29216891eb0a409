"""The compression study: each method does what it says, and the whole runs small."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kilocall.bench.compress.prune import convolutions, prune_channels, prune_weights, zero_share
from kilocall.bench.compress.qat import EightBitConv, distil, with_eight_bits, without_eight_bits
from kilocall.bench.compress.results import Study
from kilocall.bench.compress.study import QUICK
from kilocall.bench.compress.timing import time_side_by_side
from kilocall.cli import run
from kilocall.model.compact.blocks import Residual, conv
from kilocall.model.facevid2vid.networks import Bottleneck
from kilocall.runtime.engine import CheckedNetwork, Port


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small convolutions gain nothing from a second thread, and lose much where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_network() -> nn.Sequential:
    """Two blocks whose residual branches do something."""
    torch.manual_seed(0)
    network = nn.Sequential(conv(3, 16), Residual(16), conv(16, 8), Residual(8))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return network.eval().requires_grad_(False)


def some_input() -> Tensor:
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_the_smallest_weights_of_each_convolution_become_zero() -> None:
    network = small_network()
    pruned = prune_weights(network, 0.4)
    assert zero_share(network) == 0
    assert zero_share(pruned) == pytest.approx(0.4, abs=0.01)
    for before, after in zip(convolutions(network), convolutions(pruned), strict=True):
        gone = before.weight[after.weight == 0].abs()
        kept = after.weight[after.weight != 0].abs()
        assert gone.max() <= kept.min()


@pytest.mark.parametrize("block", [Residual(16), Bottleneck(32)])
def test_channels_that_do_nothing_can_be_taken_out_unnoticed(block: Any) -> None:
    """Filters and norms of half the inner channels are zeroed first; taking them out then changes no output."""
    torch.manual_seed(2)
    block.eval().requires_grad_(False)
    inner: list[tuple[Any, Any]] = [(block.first[0], block.first[1])] if isinstance(block, Residual) else [
        (block.conv1, block.norm1), (block.conv2, block.norm2)
    ]  # fmt: skip
    for convolution, norm in inner:
        convolution.weight[::2] = 0
        norm.bias[::2] = 0
        if convolution.bias is not None:
            convolution.bias[::2] = 0
    if isinstance(block, Residual):
        nn.init.ones_(block.norm.weight)
    x = torch.rand(1, 32 if isinstance(block, Bottleneck) else 16, 8, 8)
    smaller = prune_channels(block, 0.5)
    assert sum(p.numel() for p in smaller.parameters()) < 0.62 * sum(p.numel() for p in block.parameters())
    assert torch.allclose(smaller(x), block(x), atol=1e-5)


def test_rounding_convolutions_err_by_a_step_and_come_off_again() -> None:
    network, x = small_network(), some_input()
    rounding = with_eight_bits(network)
    assert sum(isinstance(m, EightBitConv) for m in rounding.modules()) == len(list(convolutions(network)))
    apart = (rounding(x) - network(x)).abs().max()
    assert 0 < apart < 0.1 * network(x).abs().max()
    assert torch.equal(without_eight_bits(rounding)(x), network(x))
    named = with_eight_bits(network, ("1.second",))
    assert sum(isinstance(m, EightBitConv) for m in named.modules()) == len(list(convolutions(network))) - 1


def test_training_after_pruning_comes_nearer_and_keeps_the_zeros() -> None:
    network, x = small_network(), some_input()
    pruned = prune_weights(network, 0.5)
    before = (pruned(x) - network(x)).square().mean()

    def forward(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        made: Tensor = module(inputs["x"])
        return made

    trained = distil(pruned, network, [{"x": x}], forward, steps=20)
    assert (trained(x) - network(x)).square().mean() < 0.8 * before
    assert zero_share(trained) == pytest.approx(0.5, abs=0.01)


class _Counting(CheckedNetwork):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__("counting", (Port("x", (1,), np.dtype(np.float32)),))
        self.calls = 0

    def _bind(self, name: str, value: np.ndarray) -> None:
        pass

    def _run(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls += 1
        return given


def test_networks_are_timed_in_turn_and_compared_with_the_first() -> None:
    networks = {"a": _Counting(), "b": _Counting()}
    timed = time_side_by_side(networks, [{"x": np.zeros(1, np.float32)}], 5)
    assert [n.calls for n in networks.values()] == [7, 7]
    assert timed["a"].ratio == 1
    assert timed["b"].fastest_ms <= timed["b"].median_ms


def test_the_quick_study_sizes_times_and_compares_every_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compress-study", "--quick", "-o", str(tmp_path / "study"), "--steps", "1"]) == 0
    assert "int8 static" in capsys.readouterr().out
    study = Study.model_validate_json((tmp_path / "study" / "study.json").read_text())
    rows = {row.method: row for row in study.rows}
    assert set(rows) == {
        *("fp32", "fp16", "bf16", "int8 dynamic", "int8 static", "int8 static, kept", "int8 aware"),
        *("pruned 50%", "channels 25%", "shipped"),
    }
    assert rows["fp32"].from_fp32 == 0
    assert rows["fp16"].times_smaller == pytest.approx(2, abs=0.05)
    assert rows["int8 static"].times_smaller > 2.2
    # Light landmark networks have no channels inside their blocks that could be taken out.
    assert rows["channels 25%"].weight_bytes == rows["fp32"].weight_bytes
    assert rows["pruned 50%"].zeros == pytest.approx(0.5, abs=0.01)
    # Where half of the weights are missing and nothing was learnt since, points are further off than with 8 bits.
    off = {name: row.from_fp32 for name, row in rows.items()}
    assert off["fp16"] is not None
    assert off["int8 static, kept"] is not None
    assert off["pruned 50%"] is not None
    assert off["fp16"] < off["int8 static, kept"] + 0.1 < off["pruned 50%"] + 0.1
    for row in study.rows:
        assert [s.engine for s in row.speeds] == list(QUICK.engines)
        assert all((s.ratio is None) == (s.refused is not None) for s in row.speeds)
    page = (tmp_path / "study" / "index.html").read_text()
    assert "3.91 times smaller" in page
    assert "<script" not in page
    assert page.count("<tr") == len(study.rows) + len(study.titles)
    assert (tmp_path / "study" / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "| shipped |" in (tmp_path / "study" / "table.md").read_text()
    assert json.loads((tmp_path / "study" / "study.json").read_text())["threads"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--network", "decoder"], "allowed are generator, extractor, pose"),
        (["--quick", "--data", "nowhere"], "nowhere"),
        (["--quick", "--weights", "nowhere"], "nowhere"),
        (["--quick", "--network", "pose", "--pose-weights", "nowhere.pth"], "nowhere.pth"),
    ],
)
def test_what_cannot_be_studied_is_refused_and_leaves_nothing(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    assert run(["compress-study", "-o", str(out), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()
