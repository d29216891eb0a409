"""Packed weights: small, exact when packed again, and near what was trained."""

import pytest
import torch

from kilocall.model.compact.int8_checkpoint import pack, unpack


def trained() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "conv.weight": torch.randn(64, 32, 3, 3) * torch.logspace(-3, 0, 64)[:, None, None, None],
        "norm.weight": torch.rand(64),
        "norm.num_batches_tracked": torch.tensor(7),
    }


def test_convolutions_lose_less_than_half_a_step_of_their_channel() -> None:
    state = trained()
    weight = unpack(pack(state))["conv.weight"]
    step = state["conv.weight"].flatten(1).abs().amax(1) / 127
    error = (weight - state["conv.weight"]).flatten(1).abs().amax(1)
    assert (error < 0.6 * step).all()  # half a step, and the scale is a half-precision number


def test_packing_again_changes_nothing() -> None:
    once = unpack(pack(trained()))
    twice = unpack(pack(once))
    assert once.keys() == twice.keys() == {"conv.weight", "norm.weight"}
    assert torch.allclose(once["conv.weight"], twice["conv.weight"], atol=1e-6)


def test_stored_size_is_a_byte_a_weight() -> None:
    stored = pack(trained())
    bytes_ = sum(t.numel() * t.element_size() for t in stored.values())
    assert bytes_ == 64 * 32 * 9 + 64 * 2 + 64 * 2


def test_integers_without_a_scale_are_refused() -> None:
    with pytest.raises(KeyError):
        unpack({"conv.weight": torch.zeros(4, 4, dtype=torch.int8)})
