"""Motion coding of families that bring no codebook, and fits to streams."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kilocall.cli import run
from kilocall.codec.motion_codec import MotionDecoder, MotionEncoder
from kilocall.model.coding import MotionCoding, universal
from kilocall.model.fit import KEYPOINTS, default_coding, fit_coding
from kilocall.model.motion import POSE_NUMBERS
from kilocall.proto.errors import BadInput, WrongFamily
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.stream_file import StreamHeader, StreamWriter
from kilocall.sample import sample_stream

FPS = 25


def speech(numbers: int, frames: int, seed: int = 0) -> NDArray[np.float32]:
    """Motion vectors [frames, 6 + numbers] of a head that nods while three expressions come and go."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames)[:, None] / FPS
    pose = 0.1 * np.sin(t * np.array([1.0, 2.3, 0.7, 1.1, 0.6, 0.4]) + rng.uniform(0, 6, 6))
    faces = np.linalg.qr(np.random.default_rng(9).standard_normal((numbers, 3)))[0].T
    strength = 0.15 * np.sin(t * np.array([7.0, 11.0, 17.0]) + rng.uniform(0, 6, 3))
    return np.concatenate((pose, strength @ faces), 1).astype(np.float32)


def write_stream(path: Path, coding: MotionCoding, vectors: NDArray[np.float32]) -> Path:
    header = StreamHeader(
        family=coding.family,
        weights_hash="0f" * 32,
        codebook_hash=coding.codebook.hash,
        fps=Fraction(FPS),
        picture_size=256,
        frame_width=256,
        frame_height=256,
        quality=100,
        tool="test",
        frame_count=len(vectors),
    )
    with StreamWriter(path, header) as writer:
        encoder = MotionEncoder(coding.codebook, 100, key_interval=50)
        for first, coded in zip(range(0, len(vectors), 3), encoder.encode_clip(vectors, 3), strict=True):
            when = first * 1_000_000 // FPS
            writer.add_packet(when, MotionPacket.carry(coded, when, 1_000_000 // FPS))
    return path


@pytest.mark.parametrize("family", ["facevid2vid", "liveportrait"])
def test_the_default_codes_any_keypoints_within_half_a_step_or_so(family: str) -> None:
    coding = default_coding(family)
    numbers = 3 * KEYPOINTS[family] + 1
    assert coding.codebook.coefficients == POSE_NUMBERS + numbers
    vectors = speech(numbers, 60)
    encoder, decoder = MotionEncoder(coding.codebook, key_interval=50), MotionDecoder(coding.codebook)
    packets = list(encoder.encode_clip(vectors, 3))
    made = np.concatenate([decoder.decode(packet) for packet in packets])
    # A saved bit may cost an error above half a step, see RD_LAMBDA; never a whole step and more.
    assert (np.abs(made - vectors) <= 1.5 * coding.codebook.base_steps).all()
    assert sum(8 * len(packet.payload) for packet in packets) / 60 < 16 * numbers / 4


def test_the_default_is_the_same_for_every_keypoint() -> None:
    codebook = universal("liveportrait", 64).codebook
    assert (codebook.table_of[:, POSE_NUMBERS:] == codebook.table_of[:, POSE_NUMBERS, None]).all()
    assert universal("liveportrait", 64).codebook.hash == codebook.hash
    assert universal("facevid2vid", 46).codebook.hash != codebook.hash


def test_a_fit_finds_the_expressions_and_needs_fewer_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    default = default_coding("facevid2vid")
    streams = [write_stream(tmp_path / f"{n}.kcs", default, speech(46, 75, n)) for n in range(2)]
    out = tmp_path / "speaker.safetensors"
    assert run(["fit", *map(str, streams), "-o", str(out)]) == 0
    assert "facevid2vid" in capsys.readouterr().out
    fitted = MotionCoding.load(out, "facevid2vid", 46)
    assert fitted.basis is not None
    # Three expressions were in it; coding adds some noise in other directions.
    assert 3 <= len(fitted.basis) <= 10
    np.testing.assert_allclose(fitted.basis @ fitted.basis.T, np.eye(len(fitted.basis)), atol=1e-5)
    fresh = speech(46, 60, seed=5)
    coefficients = np.concatenate((fresh[:, :6], fitted.coefficients(fresh[:, 6:])), 1)
    bits = [
        sum(8 * len(c.payload) for c in MotionEncoder(coding.codebook, key_interval=50).encode_clip(motion, 3)) / 60
        for coding, motion in ((default, fresh), (fitted, coefficients))
    ]
    assert bits[1] < 0.7 * bits[0]
    back = fitted.expression(coefficients[:, 6:])
    assert np.abs(back - fresh[:, 6:]).max() < 2 * default.codebook.base_steps[6]


def test_a_fit_says_what_it_lacks(tmp_path: Path) -> None:
    default = default_coding("liveportrait")
    short = write_stream(tmp_path / "short.kcs", default, speech(64, 30))
    with pytest.raises(BadInput, match="hold 30 frames, at least 100"):
        fit_coding([short])
    with pytest.raises(WrongFamily, match="is of family compact-256, the streams before it of liveportrait"):
        fit_coding([short, sample_stream("astronaut")])
    other = MotionCoding("liveportrait", universal("liveportrait", 60).codebook)
    foreign = write_stream(tmp_path / "foreign.kcs", other, speech(60, 30))
    with pytest.raises(WrongFamily, match="name the right one with --codebook"):
        fit_coding([foreign])


def test_the_compact_family_keeps_its_numbers(tmp_path: Path) -> None:
    found = fit_coding([sample_stream("astronaut")])
    assert found.coding.basis is None
    assert found.numbers_after == found.numbers_before
    assert found.bits_after < found.bits_before  # measured on what it was fitted to
    found.coding.save(tmp_path / "astronaut.safetensors")
    numbers = found.numbers_after - POSE_NUMBERS
    loaded = MotionCoding.load(tmp_path / "astronaut.safetensors", "compact-256", numbers)
    assert loaded.codebook.hash == found.coding.codebook.hash


def test_files_that_are_no_coding(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        MotionCoding.load(tmp_path / "none.safetensors", "facevid2vid", 46)
    coding = universal("facevid2vid", 46)
    coding.save(tmp_path / "good.safetensors")
    data = (tmp_path / "good.safetensors").read_bytes()
    for kept in (0, 4, 20, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.safetensors").write_bytes(data[:kept])
        with pytest.raises(BadInput, match=r"cut\.safetensors"):
            MotionCoding.load(tmp_path / "cut.safetensors", "facevid2vid", 46)
    with pytest.raises(WrongFamily, match="fitted for family facevid2vid, this is liveportrait"):
        MotionCoding.load(tmp_path / "good.safetensors", "liveportrait", 64)
    with pytest.raises(WrongFamily, match="for 46 expression numbers, facevid2vid has 40"):
        MotionCoding.load(tmp_path / "good.safetensors", "facevid2vid", 40)
