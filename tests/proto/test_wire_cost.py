from __future__ import annotations

from itertools import pairwise

import pytest

from kilocall.proto.errors import BadInput
from kilocall.proto.wire_cost import message_bytes, wire_cost


def test_message_is_padded_to_four_and_carries_85_bytes_of_headers() -> None:
    assert [message_bytes(size) for size in (0, 1, 4, 20, 21)] == [85, 89, 89, 105, 109]
    assert message_bytes(20, ipv6=True) == 125


def test_cost_is_what_was_measured_of_20_bytes_at_30_per_second() -> None:
    """Seen on the wire: 25.2 kbit/s out, 20.4 kbit/s of SACKs back."""
    cost = wire_cost(bits_per_frame=8 * (20 - 10 - 1.5), fps=30, frames_per_packet=1)
    assert cost.forward_bps == pytest.approx(25_200)
    assert cost.sack_bps == pytest.approx(20_400)
    assert cost.delayed_sack_bps == pytest.approx(2.5 * 85 * 8)


def test_more_frames_per_packet_cost_less() -> None:
    costs = [wire_cost(36, 25, frames) for frames in (1, 2, 3, 8)]
    assert [cost.payload_bps for cost in costs] == [900] * 4
    for fewer, more in pairwise(costs):
        assert more.forward_bps < fewer.forward_bps
        assert more.sack_bps < fewer.sack_bps
    assert all(cost.delayed_sack_bps <= cost.sack_bps for cost in costs)


@pytest.mark.parametrize(("bits", "fps", "frames"), [(-1, 25, 1), (36, 0, 1), (36, 25, 0), (36, 25, 9), (36, 999, 1)])
def test_numbers_out_of_range_are_refused(bits: float, fps: float, frames: int) -> None:
    with pytest.raises(BadInput, match="allowed are"):
        wire_cost(bits, fps, frames)
