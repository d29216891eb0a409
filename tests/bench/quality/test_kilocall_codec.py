"""What kilocall sends of a clip, with a video layer and without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kilocall.bench.quality.clips import BenchClip, read_clip
from kilocall.bench.quality.kilocall_codec import FRAMES_PER_PACKET, SentMotion, code_motion, layer_mixer
from kilocall.model import metrics
from kilocall.model.family import Family
from kilocall.proto.errors import BadInput
from kilocall.proto.layer_frame import fragment_bytes

KBPS = 6.0


@pytest.fixture(scope="module")
def clip(swaying: Path, family: Family) -> BenchClip:
    return read_clip(swaying, family)


@pytest.fixture(scope="module")
def plain(clip: BenchClip, family: Family) -> SentMotion:
    return code_motion(clip, family, 50)


@pytest.fixture(scope="module")
def layered(clip: BenchClip, family: Family) -> SentMotion:
    return code_motion(clip, family, 50, KBPS)


def test_layer_changes_nothing_of_the_motion(plain: SentMotion, layered: SentMotion) -> None:
    assert layered.payloads == plain.payloads
    assert layered.source_bytes == plain.source_bytes
    assert not plain.first_layer
    assert not any(map(any, plain.layer.values()))


@pytest.mark.parametrize("count", FRAMES_PER_PACKET)
def test_messages_are_longer_by_the_layers_frames_and_their_headers(
    plain: SentMotion, layered: SentMotion, count: int
) -> None:
    more = [with_it - alone for with_it, alone in zip(layered.messages[count], plain.messages[count], strict=True)]
    heads = [extra - size for extra, size in zip(more, layered.layer[count], strict=True)]
    # 5 or 6 bytes for each piece, of which there are eight at most; the pieces of the first frame are not counted.
    assert all((head == 0) == (size == 0) for head, size in zip(heads, layered.layer[count], strict=True))
    assert all(5 <= head <= 8 * 6 for head in heads if head)


def test_first_frame_is_apart_and_the_rest_is_within_the_rate(
    clip: BenchClip, plain: SentMotion, layered: SentMotion
) -> None:
    first, rest = sum(layered.first_layer), sum(layered.layer[3])
    # What a face takes as a picture, and what it takes as the change since the last one.
    assert first > 2 * max(layered.layer[3])
    # Two seconds' worth may be saved up before the first frame.
    assert 8 * (first + rest) <= 1000 * KBPS * (clip.seconds + 2) + 8 * fragment_bytes(max(layered.layer[3]))
    assert rest > 0


def test_picture_is_nearer_to_the_original_with_it(clip: BenchClip, plain: SentMotion, layered: SentMotion) -> None:
    late = len(clip.frames) // 2
    alone, with_it = (metrics.psnr(sent.shown[late:], clip.frames[late:]) for sent in (plain, layered))
    assert with_it > alone + 1


def test_layer_is_there_once_all_its_pieces_are(clip: BenchClip, family: Family, plain: SentMotion) -> None:
    rich = code_motion(clip, family, 50, 24)
    assert len(rich.first_layer) > 1
    # Not before the first message, which has but one.
    first = FRAMES_PER_PACKET[0]
    assert np.array_equal(plain.shown[:first], rich.shown[:first])
    assert not np.array_equal(plain.shown[first:], rich.shown[first:])


def test_family_that_takes_no_layer_is_named(family: Family) -> None:
    class Motionless:
        name = "plain"

        def fusion(self) -> None:
            return None

    family_without: Family = Motionless()  # type: ignore[assignment]
    with pytest.raises(BadInput, match="layer is 3 kbit/s; family plain takes no video layer"):
        layer_mixer(family_without, 3)
    assert layer_mixer(family_without, 0) is None
