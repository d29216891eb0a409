"""Python still gives what the page's modules are tested against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kilocall.api import StreamPlayer
from kilocall.model.family import Picture, Source
from kilocall.receiver.layer_decoder import LayerDecoder
from web import vectors as wv


def stored(name: str) -> Any:
    return json.loads((wv.VECTORS / f"web_{name}.json").read_text())


def picture(path: Path) -> Picture:
    return np.asarray(Image.open(path), np.uint8)


@pytest.fixture(scope="module")
def source() -> Source:
    return wv.source_of(stored("faces"), picture(wv.VECTORS / "web_source.png"))


def test_what_is_read_of_cut_and_changed_bytes_is_what_was_stored() -> None:
    # As JSON: tuples are lists there.
    assert json.loads(json.dumps(wv.what_is_read())) == stored("read")


def test_what_is_encoded_is_what_was_stored() -> None:
    assert wv.what_is_encoded() == stored("encoded")


def test_what_becomes_of_fragments() -> None:
    assert json.loads(json.dumps(wv.what_becomes_of_fragments())) == stored("fragments")


def test_layer_frames_are_decoded_but_for_one_that_is_too_large() -> None:
    decoder, units = LayerDecoder(), {name: bytes.fromhex(unit) for name, unit in stored("units").items()}
    for name in ("key", "next"):
        decoded = decoder.push(units[name], key=name == "key")
        assert decoded is not None
        assert decoded.shape == (64, 64, 3)
    assert decoder.push(units["larger"], key=True) is None
    assert wv.units().keys() == units.keys()


def test_what_a_layer_changes(player: StreamPlayer, source: Source) -> None:
    made = picture(wv.VECTORS / "web_rendered.png")
    found, before = wv.what_the_layer_changes(player, source, made), stored("layer")
    assert found["speaking"] == pytest.approx(before["speaking"], abs=1e-6)
    for one, other in zip(found["compared"], before["compared"], strict=True):
        for name, within in (("changes", 16), ("moved", 16), ("shown", 1)):
            assert np.abs(np.subtract(one[name], other[name])).mean() < within, name


def test_what_is_played_of_packets_that_come_late_or_not_at_all() -> None:
    assert json.loads(json.dumps(wv.what_is_played())) == stored("played")


def test_the_pace_that_is_held() -> None:
    assert json.loads(json.dumps(wv.what_pace_holds())) == stored("pace")


def test_packets_that_plans_and_acknowledgements_make(player: StreamPlayer) -> None:
    found, before = json.loads(json.dumps(wv.what_is_packed(player))), stored("packed")
    assert found["times"] == before["times"]
    assert found["packets"] == before["packets"]


def test_where_the_crop_goes() -> None:
    assert np.array(wv.what_is_reframed()) == pytest.approx(np.array(stored("reframed")), abs=1e-6)


def test_what_is_extracted_of_tracked_faces(player: StreamPlayer, source: Source) -> None:
    found, before = wv.what_is_extracted(player, source), stored("extracted")
    assert found["best"] == before["best"]
    assert found["sharpness"] == pytest.approx(before["sharpness"], rel=1e-6)
    for one, other in zip(found["seen"], before["seen"], strict=True):
        # 8-bit networks differ a little from processor to processor.
        assert one["points"] == pytest.approx(other["points"], abs=0.02)
        for name in ("fitted", "aligned", "filtered"):
            assert one[name][:6] == pytest.approx(other[name][:6], abs=0.03), name
            assert one[name] == pytest.approx(other[name], abs=0.6), name


def test_the_face_is_found_where_it_was(player: StreamPlayer) -> None:
    found, before = wv.faces(player)["pictures"][0], stored("faces")["pictures"][0]
    assert list(found) == list(before)
    # 0.02: a pixel and a half of the crop; 8-bit networks differ a little from processor to processor.
    assert found["shape"] == pytest.approx(before["shape"], abs=0.05)
    assert found["implicit"] == pytest.approx(before["implicit"], abs=0.02)
    assert found["pose"]["pose"] == pytest.approx(before["pose"]["pose"], abs=0.02)


def test_motion_goes_where_it_went(player: StreamPlayer, source: Source) -> None:
    found, before = wv.motion(player, source), stored("motion")
    for name in ("times", "vectors_sha256"):
        assert found[name] == before[name]
    for one, other in zip(found["driving"], before["driving"], strict=True):
        for name in ("view", "pose", "x_d", "jacobian", "interior"):
            assert one[name] == pytest.approx(other[name], abs=2e-6), name
    assert found["references"]["choices"] == before["references"]["choices"]
    assert found["references"]["cuts"] == before["references"]["cuts"]


def test_faces_of_other_pictures_are_where_they_were(player: StreamPlayer, source: Source) -> None:
    found, before = wv.tracked(player, source.picture), stored("tracked")
    assert found["tilted"] == before["tilted"]
    for one, other in zip(found["pictures"], before["pictures"], strict=True):
        # As above: 8-bit networks differ a little from processor to processor.
        for name, within in (("points", 0.02), ("depth", 0.02), ("implicit", 0.02), ("pose", 0.02), ("shape", 0.05)):
            assert one[name] == pytest.approx(other[name], abs=within), name
        assert one["certainty"] > 0.99
    assert found["retargeted"]["x_d"] == pytest.approx(before["retargeted"]["x_d"], abs=0.02)
    for place, earlier in zip(found["pasted"], before["pasted"], strict=True):
        assert place == pytest.approx(earlier, abs=0.02 * earlier[-1])


def test_the_pictures_are_what_they_were(player: StreamPlayer, source: Source) -> None:
    decoded = player.stream_source.picture.astype(int)
    assert np.abs(decoded - source.picture).mean() < 0.1
    rendered = wv.rendered(player, source).astype(int)
    # Half a grey level: 8-bit networks differ a little from processor to processor.
    assert np.abs(rendered - picture(wv.VECTORS / "web_rendered.png")).mean() < 0.5
    assert np.abs(rendered - source.picture).mean() > 3
    assert np.abs(wv.held(player, source).astype(int) - picture(wv.VECTORS / "web_held.png")).mean() < 0.5


def test_the_same_frames_are_moved_on_from_others(player: StreamPlayer, source: Source) -> None:
    first, last = wv.HELD
    assert wv.what_is_held(player, source) == stored("held")
    assert stored("held")[first : last + 1] == [False, *[True] * (last - first)]
