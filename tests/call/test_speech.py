from __future__ import annotations

import asyncio
import wave
from pathlib import Path

import numpy as np
import pytest

from kilocall.call.audio_bridge import BLOCK, AvSync, Loudspeaker, Speech, read_sound
from kilocall.proto.errors import BadInput

RATE = 48_000


def tone(milliseconds: int) -> np.ndarray:
    times = np.arange(RATE * milliseconds // 1000) / RATE
    return (8000 * np.sin(2 * np.pi * 300 * times)).astype(np.int16)


class Clock:
    now_us = 0

    def __call__(self) -> int:
        return self.now_us


def held(playout_us: int, behind_ms: float) -> tuple[int, int]:
    """What speech in packets of 60 ms and pictures made in 20 ms wait in the end, in milliseconds."""
    sync = AvSync()
    for _ in range(100):
        sync.follow(playout_us, 20.0, packet_ms=60, behind_ms=behind_ms)
    return sync.sound_us // 1000, sync.picture_us // 1000


def test_speech_waits_for_its_picture() -> None:
    # 100 ms until the picture is shown and 20 to make it, of which speech has spent 60 in its packet.
    assert held(100_000, 0) == (60, 0)
    # The page needs 50 ms more for a sound.
    assert held(100_000, 50) == (10, 0)
    assert held(10_000_000, 0) == (300, 0)


def test_speech_does_not_wait_for_pictures_that_come_too_late_for_lips() -> None:
    sync = AvSync()
    for _ in range(100):
        sync.follow(100_000, 5000.0, packet_ms=60, behind_ms=0)
    assert (sync.sound_us, sync.picture_us) == (40_000, 0)


def test_picture_waits_for_speech_that_would_be_late() -> None:
    assert held(100_000, 60) == (0, 0)
    assert held(100_000, 160) == (0, 100)
    assert held(100_000, 2000) == (0, 150)


def test_no_held_picture_overtakes_the_one_before() -> None:
    sync, before_us = AvSync(), 0
    for number in range(60):
        sync.follow(100_000, 20.0, packet_ms=60, behind_ms=300 if number < 30 else 0)
        shown_us = number * 16_000 + sync.picture_us
        assert shown_us > before_us
        before_us = shown_us
    assert sync.picture_us < 120_000


def test_held_speech_comes_out_after_the_hold() -> None:
    loudspeaker = Loudspeaker(Clock())
    loudspeaker.hold_us = 40_000
    loudspeaker.push(tone(60))
    assert not loudspeaker.pull().any()
    assert not loudspeaker.pull().any()
    assert loudspeaker.pull().any()
    assert list(loudspeaker.onsets_us) == [40_000]


def test_each_word_waits_anew_however_pauses_came() -> None:
    clock = Clock()
    loudspeaker = Loudspeaker(clock)
    loudspeaker.hold_us = 100_000
    loudspeaker.push(np.zeros(2880, np.int16))  # a pause is sent as a block now and then
    clock.now_us = 60_000
    for _ in range(3):
        loudspeaker.pull()
    loudspeaker.push(tone(60))
    assert list(loudspeaker.onsets_us) == [160_000]


def test_silence_where_nothing_has_come() -> None:
    block = Loudspeaker(Clock()).pull()
    assert len(block) == BLOCK
    assert not block.any()


def test_stall_does_not_become_delay() -> None:
    loudspeaker = Loudspeaker(Clock())
    for _ in range(50):
        loudspeaker.push(tone(60))
    waiting = 0
    while loudspeaker.pull().any():
        waiting += BLOCK
    assert waiting <= RATE * 260 // 1000
    assert loudspeaker.dropped_samples == 50 * RATE * 60 // 1000 - waiting


def test_level_is_measured_of_what_is_heard() -> None:
    loudspeaker = Loudspeaker(Clock())
    assert loudspeaker.level_db is None
    loudspeaker.push(np.zeros(RATE, np.int16))
    loudspeaker.push(tone(200))
    # A sine of amplitude 8000: 20 log10(8000 / 32768) - 3 dB.
    assert loudspeaker.level_db == pytest.approx(-15.3, abs=0.3)
    assert loudspeaker.heard_samples == RATE // 5


def test_muted_speech_is_not_sent() -> None:
    async def main() -> None:
        speech = Speech()
        track = speech.track()
        speech.muted = True
        speech.put(tone(20))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(track.recv(), 0.02)
        speech.muted = False
        speech.put(tone(20))
        frame = await asyncio.wait_for(track.recv(), 1)
        assert frame.pts == 0
        track.stop()

    asyncio.run(main())


def test_only_the_newest_connection_gets_speech() -> None:
    async def main() -> None:
        speech = Speech()
        old, new = speech.track(), speech.track()
        speech.put(tone(20))
        await asyncio.wait_for(new.recv(), 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(old.recv(), 0.02)

    asyncio.run(main())


def test_sound_file_is_read_as_mono_at_48_khz(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(24_000)
        file.writeframes(np.repeat(tone(500)[::2], 2).tobytes())
    samples = read_sound(path)
    assert abs(len(samples) - RATE // 2) < 200
    assert abs(int(samples.max()) - 8000) < 400


def test_file_without_sound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.wav").write_bytes(b"this is no sound")
    with pytest.raises(BadInput, match=r"microphone .*no\.wav: not a readable sound file"):
        read_sound(tmp_path / "no.wav")
