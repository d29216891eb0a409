from __future__ import annotations

from kilocall.call.call_traffic import CallTraffic
from kilocall.runtime.traffic import KINDS, Count, Traffic


def traffic(**kilobits: int) -> Traffic:
    """So much of each kind on one connection."""
    counted = Traffic({kind: Count() for kind in KINDS})
    for kind, amount in kilobits.items():
        counted.kinds[kind].bytes = 125 * amount
    return counted


def test_rates_are_of_what_came_since_the_last_look() -> None:
    calls = CallTraffic(0)
    for second, (out, into) in enumerate([(10, 4), (30, 5)], 1):
        rates = calls.look(second, 1, (traffic(data=out), traffic(data=into)), packets=(second, 0), exchanged=False)
    assert (rates[0].data, rates[1].data) == (20, 1)
    assert calls.report()["out"].data == 15
    assert calls.seconds == 2


def test_steady_begins_two_seconds_after_the_pictures_and_is_never_lost() -> None:
    calls = CallTraffic(0)
    for second in range(1, 10):
        exchanged = second == 3
        calls.look(second, 1, (traffic(), traffic()), packets=(second, 0), exchanged=exchanged)
    assert calls.report()["steady_out"].seconds == 4  # the first that lies behind 5 s as a whole is the 6th


def test_speech_and_motion_of_either_side_are_no_idleness() -> None:
    calls = CallTraffic(0)
    for second in range(1, 20):
        heard = traffic(audio=min(second, 4))
        calls.look(second, 1, (traffic(), heard), packets=(0, min(second, 8)), exchanged=False)
    assert calls.report()["idle_into"].seconds == 19 - 8 - 5
