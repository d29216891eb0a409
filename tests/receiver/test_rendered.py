from __future__ import annotations

from kilocall.receiver.rendered import KeptPictures, Rendered


def test_the_last_pictures_are_kept_and_when_each_was_made() -> None:
    kept = KeptPictures()
    for number in range(1600):
        kept.add(Rendered(b"%d" % number, 40_000 * number, 40_000 * number + 90_000, 60_000))
    assert len(kept.pictures) == 1500
    assert kept.pictures[-1].jpeg == b"1599"
    assert len(kept.times_us) == 1600
    assert kept.times_us[0] == (0, 90_000)
