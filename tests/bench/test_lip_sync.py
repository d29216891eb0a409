from __future__ import annotations

import base64

import numpy as np
import pytest

from kilocall.bench.lip_sync import lip_sync, openings
from kilocall.proto.errors import BadInput

SIDE = 24


def frames(
    fps: float, *, seconds: float = 12.0, opens_at_s: float = 1.0, every_s: float = 2.0, seed: int = 1
) -> list[tuple[float, str]]:
    """A face that turns slowly and opens its mouth for 0.4 s, as probe.js notes it; pictures come unevenly."""
    random = np.random.default_rng(seed)
    ramp = np.arange(SIDE, dtype=np.float64)
    noted = []
    for at in np.sort(random.uniform(0, seconds, round(fps * seconds))):
        picture = 120 + 60 * np.sin((ramp[None] + np.sin(at / 1.5)) / 4) * np.cos(ramp[:, None] / 5)
        if (at - opens_at_s) % every_s < 0.4 and at >= opens_at_s:
            picture[16:19, 9:15] -= 50
        picture += random.normal(0, 1, picture.shape)
        grey = np.clip(picture, 0, 255).astype(np.uint8)
        noted.append((1000 * float(at), base64.b64encode(grey.tobytes()).decode()))
    return noted


@pytest.mark.parametrize("fps", [25, 12])
def test_openings_are_found_at_any_rate(fps: float) -> None:
    found = openings(frames(fps))
    moments = 1000 * np.arange(1, 12, 2.0)
    # The first may come before there is enough to compare it with, others fall into a pause.
    assert len(found) >= 3
    for at in found:
        late = at - moments[moments <= at].max()
        assert 0 <= late <= 250


def test_what_was_before_the_call_began_does_not_matter() -> None:
    noted = frames(12)
    random = np.random.default_rng(2)
    before = [(40.0 * number - 20_000, base64.b64encode(random.bytes(SIDE * SIDE)).decode()) for number in range(400)]
    assert openings([*before, *noted], 0.0).tolist() == openings(noted, 0.0).tolist()


def test_still_face_opens_its_mouth_never() -> None:
    assert len(openings(frames(12, opens_at_s=100.0))) == 0
    assert len(openings([])) == 0


def test_opening_that_falls_into_a_long_pause_is_left_out() -> None:
    noted = [(at, grey) for at, grey in frames(25) if not 4800 < at < 5100]
    assert not any(4800 < at < 5400 for at in openings(noted))
    assert any(6900 < at < 7300 for at in openings(noted))


def test_offset_is_how_much_later_the_sound_was() -> None:
    at = np.array([1000.0, 3000, 5000])
    sync = lip_sync(at, at + 150, at + 40, at + 230, output_latency_ms=10)
    assert sync.picture_ms.tolist() == [150] * 3
    assert sync.sound_ms.tolist() == [190] * 3
    assert sync.offset_ms.tolist() == [40] * 3


def test_opening_that_was_not_drawn_is_not_taken_for_the_next() -> None:
    at = np.array([1000.0, 3000, 5000])
    sync = lip_sync(at, np.array([1150.0, 5150]), at, at + 100, output_latency_ms=0)
    assert sync.picture_ms.tolist() == [150, 150]


def test_nothing_together_is_said() -> None:
    none = np.zeros(0)
    with pytest.raises(BadInput, match="3 openings seen and 0 drawn, 0 beeps"):
        lip_sync(np.array([1.0, 2, 3]), none, none, none, output_latency_ms=0)
