"""Which further pictures are worth their bytes, by the receiver's own model."""

from __future__ import annotations

import numpy as np
import pytest

from kilocall.api import StreamPlayer
from kilocall.model.family import Family
from kilocall.model.motion import Motion
from kilocall.proto.control import SourcePicture
from kilocall.proto.errors import BadInput
from kilocall.runtime.pictures import decode_picture
from kilocall.sender.reference_search import Probe, ReferenceSearch, bytes_each, choose_pictures


@pytest.fixture(scope="module")
def probes(family: Family, player: StreamPlayer) -> list[Probe]:
    """Frames of a speaker in a darker room than in the source picture, in front of whom a bar moves in after a while:
    no motion tells of either, only a picture can.
    """
    made = []
    for number, timed in enumerate(player.motions()):
        if number % 20:
            continue
        crop = (player.renderer.render(timed.motion) * 0.8).astype(np.uint8)
        if number > 100:
            crop[200:] = (20, 160, 20)
        made.append(Probe(crop, timed.motion, crop))
    return made


def test_a_picture_pays_off_where_the_source_does_not_show_what_is_seen(
    family: Family, player: StreamPlayer, probes: list[Probe]
) -> None:
    search = ReferenceSearch(family, player.stream_source, max_bytes=5000)
    for probe in probes:
        search.add(probe)
    before = search.shown_db
    best = search.best(8)
    assert best is not None
    assert best.gain_db > 0.5
    assert len(best.packed.data) <= 5000
    shown = decode_picture(best.packed.data)
    assert np.median(shown[:100]) < np.median(player.stream_source.picture[:100]) - 15  # the darker room
    search.add_reference(best.reference)
    assert search.shown_db >= before + best.gain_db
    assert search.pictures == 2


def test_each_further_picture_brings_something_and_the_same_are_chosen_again(
    family: Family, player: StreamPlayer, probes: list[Probe]
) -> None:
    few = probes[::3]
    first, second = (choose_pictures(family, player.stream_source, few, pictures=n, max_bytes=5000) for n in (3, 2))
    assert [one.packed for one in first[:1]] == [one.packed for one in second]
    assert 1 <= len(first) <= 2
    assert all(one.gain_db >= 0.1 for one in first)


def test_a_speaker_who_looks_like_the_source_gets_no_further_picture(family: Family, player: StreamPlayer) -> None:
    still = Motion(*_pose(player), player.stream_source.pose.expression)
    picture = player.stream_source.picture
    probes = [Probe(picture, still, picture) for _ in range(6)]
    assert choose_pictures(family, player.stream_source, probes, pictures=8, max_bytes=5000) == []


def test_probes_are_thinned_out_evenly(family: Family, player: StreamPlayer, probes: list[Probe]) -> None:
    search = ReferenceSearch(family, player.stream_source, max_bytes=5000, most_probes=4)
    for probe in probes:
        search.add(probe)
    assert 2 <= len(search.probes) <= 4
    assert list(search.probes) == probes[::4][: len(search.probes)]


def test_bytes_are_shared_and_too_few_are_refused() -> None:
    source = SourcePicture("webp", bytes(6000))
    assert bytes_each(8, 40, source, 256) == (40_000 - 6000) // 7
    assert bytes_each(2, 40, source, 256) == 6144
    with pytest.raises(BadInput, match="gallery_kb is 7: beside a source picture of 6000 bytes"):
        bytes_each(8, 7, source, 256)


def test_a_crop_without_a_face_is_passed_over(family: Family, player: StreamPlayer, probes: list[Probe]) -> None:
    blank = np.full((256, 256, 3), 90, np.uint8)
    search = ReferenceSearch(family, player.stream_source, max_bytes=5000)
    for probe in probes:
        search.add(Probe(probe.crop, probe.motion, blank))
    assert search.best(4) is None


def _pose(player: StreamPlayer) -> tuple[tuple[float, float, float], tuple[float, float], float]:
    pose = player.stream_source.pose
    return pose.rotation, pose.translation, pose.scale
