from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kilocall.codec.codebook import Codebook
from kilocall.codec.fit import fit_codebook
from kilocall.codec.motion_codec import MotionDecoder, MotionEncoder
from kilocall.proto.errors import BadInput

STEPS = np.array([0.01, 0.02, 0.1], np.float32)


def walks(seed: int, clips: int, frames: int = 60) -> list[NDArray[np.float32]]:
    """Motion that rests and moves in turns, one coefficient livelier than the next."""
    rng = np.random.default_rng(seed)
    moving = np.repeat(rng.random((clips, frames // 10, 1)) < 0.5, 10, axis=1)
    paths = np.cumsum(moving * rng.laplace(0, 1, (clips, frames, 3)) * [0.05, 0.03, 0.05], axis=1)
    return [path.astype(np.float32) for path in paths]


@pytest.fixture(scope="module")
def fitted() -> Codebook:
    return fit_codebook(walks(1, 12), STEPS, tables=24, rounds=2, levels=[2, 4])


def bits_per_frame(codebook: Codebook, clips: list[NDArray[np.float32]]) -> float:
    encoder, total = MotionEncoder(codebook, key_interval=50), 0
    for clip in clips:
        encoder.reset()
        total += sum(8 * len(packet.payload) for packet in encoder.encode_clip(clip, 3))
    return total / sum(map(len, clips))


def test_fitting_twice_gives_the_same_codebook() -> None:
    first, second = (fit_codebook(walks(2, 3), STEPS, tables=16, rounds=1, levels=[4]) for _ in range(2))
    assert first.hash == second.hash


def test_codebook_fitted_to_such_motion_needs_fewer_bits_than_one_fitted_to_other_motion(
    fitted: Codebook,
) -> None:
    other = fit_codebook([clip * 12 for clip in walks(1, 12)], STEPS, tables=24, rounds=2, levels=[4])
    unseen = walks(7, 4)
    # Measured: 6.8 against 9.6 bits; a tenth is far more than chance.
    assert bits_per_frame(fitted, unseen) < bits_per_frame(other, unseen) * 0.9


def test_what_the_streams_never_showed_can_still_be_coded(fitted: Codebook) -> None:
    wild = np.array([[300, -600, 3000], [-300, 600, -3000], [0, 0, 0]], np.float32)
    packet = MotionEncoder(fitted, rd_lambda=0, dead_zone=0.5).encode(wild)
    error = np.abs(MotionDecoder(fitted).decode(packet) - wild)
    assert (error <= STEPS * 0.51).all()
    assert len(packet.payload) < 80


def test_no_symbol_costs_more_than_15_bits(fitted: Codebook) -> None:
    assert fitted.frequencies.min() >= 2


@pytest.mark.parametrize(
    ("streams", "steps", "reason"),
    [
        ([], STEPS, "none"),
        ([np.zeros((5, 2), np.float32)], STEPS, r"\[5, 2\]"),
        ([np.full((5, 3), np.inf, np.float32)], STEPS, "not finite"),
        ([np.zeros((5, 3), np.float32)], STEPS * 0, "base_steps"),
    ],
)
def test_unusable_streams_are_refused(
    streams: list[NDArray[np.float32]], steps: NDArray[np.float32], reason: str
) -> None:
    with pytest.raises(BadInput, match=reason):
        fit_codebook(streams, steps, rounds=1, levels=[4])


def test_number_of_tables_is_bounded() -> None:
    with pytest.raises(BadInput, match="tables is 3"):
        fit_codebook(walks(1, 1), STEPS, tables=3)
