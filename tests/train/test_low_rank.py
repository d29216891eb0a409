from __future__ import annotations

import torch
from torch import nn

from kilocall.train.low_rank import learn_low_rank, plain_state


def test_a_change_starts_at_nothing_stays_of_low_rank_and_is_stored_under_the_old_names() -> None:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 4, 1))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.requires_grad_(False)
    learning = learn_low_rank(network[0], "weight", 2, generator)
    started = plain_state(network)
    assert started.keys() == before.keys()
    assert all(torch.equal(started[name], value) for name, value in before.items())

    optimizer = torch.optim.SGD(learning, lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.randn(2, 8, 6, 6, generator=generator)).square().mean().backward()
        optimizer.step()
    learnt = plain_state(network)
    assert [name for name in before if not torch.equal(learnt[name], before[name])] == ["0.weight"]
    assert torch.linalg.matrix_rank((learnt["0.weight"] - before["0.weight"]).flatten(1), atol=1e-6) == 2
    picture = torch.randn(1, 8, 6, 6, generator=generator)
    plain = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 4, 1))
    plain.load_state_dict(learnt)
    torch.testing.assert_close(plain(picture), network(picture))
