"""A few thousand of the inputs of `make fuzz`, and that it would find something."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from fuzz.run import MOST_FINDINGS, fuzz, made
from fuzz.targets import TARGETS, Streams, Target
from kilocall.proto.stream_file import StreamReader


@pytest.mark.parametrize("make", TARGETS, ids=lambda make: make.name)
def test_changed_bytes_are_refused_or_read(make: Callable[[], Target]) -> None:
    target = make()
    findings = fuzz([target], max(100, round(6000 * target.share)), seed=7)
    assert [(finding.number, finding.what) for finding in findings] == []


@pytest.mark.parametrize("make", TARGETS, ids=lambda make: make.name)
def test_an_input_comes_again_from_its_number(make: Callable[[], Target]) -> None:
    first, second = make(), make()
    inputs = [made(first, 3, number) for number in range(40)]
    assert inputs == [made(second, 3, number) for number in range(40)]
    assert len(set(inputs)) > 20


class Fragile(Target):
    name, share = "fragile", 1.0

    def made(self, rng: random.Random) -> bytes:
        return rng.randbytes(1)

    def feed(self, data: bytes | str) -> None:
        if data == b"\x07":
            raise ZeroDivisionError


def test_a_reader_that_breaks_is_found_with_its_input() -> None:
    findings = fuzz([Fragile()], 5000, seed=1)
    assert 1 <= len(findings) <= MOST_FINDINGS
    assert {finding.data for finding in findings} == {b"\x07"}
    assert "ZeroDivisionError" in findings[0].what
    assert made(Fragile(), 1, findings[0].number) == b"\x07"


def test_half_of_the_streams_have_checksums_that_fit() -> None:
    target = Streams()
    whole = 0
    for number in range(200):
        data = made(target, 5, number)
        assert isinstance(data, bytes)
        try:
            damage = StreamReader(data).damage
        except ValueError:
            continue
        whole += damage is None or "checksum" not in damage
    assert whole > 60
