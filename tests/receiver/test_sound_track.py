"""The speech of a stream file comes back in its time."""

from dataclasses import replace

import numpy as np
import pytest

from kilocall.proto.sound import SAMPLE_RATE
from kilocall.receiver.sound_track import SoundTrack
from speech import tone

LENGTH_US = 2_400_000


def test_a_forged_time_makes_no_silence() -> None:
    spoken = list(SoundTrack(tone(2.4), LENGTH_US).parts())
    forged = [*tone(2.4), replace(tone(1.0)[0], time_us=12 * 24 * 3600 * 1_000_000)]
    heard = list(SoundTrack(forged, LENGTH_US).parts())
    np.testing.assert_array_equal(np.concatenate(heard), np.concatenate(spoken))
    assert sum(map(len, heard)) / SAMPLE_RATE == pytest.approx(2.4, abs=0.1)


def test_a_pause_between_records_is_silent() -> None:
    first, second, *_ = tone(2.4)
    heard = np.concatenate(list(SoundTrack([first, replace(second, time_us=1_700_000)], LENGTH_US).parts()))
    assert len(heard) / SAMPLE_RATE == pytest.approx(2.7, abs=0.02)
    assert not heard[round(1.1 * SAMPLE_RATE) : round(1.7 * SAMPLE_RATE)].any()
    assert heard[round(1.8 * SAMPLE_RATE) :].any()
