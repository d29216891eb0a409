"""The sound of a clip as speech of a few kilobits a second."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from numpy.typing import NDArray

from kilocall.proto.errors import BadInput
from kilocall.proto.sound import DEFAULT_KBPS, LEAST_KBPS, MOST_KBPS, SAMPLE_RATE, SoundPackets
from kilocall.runtime.sound import mono_frame
from kilocall.sender.capture import open_container

__all__ = ["coded_sound"]

#: Of one packet of Opus: the longest that is one frame of it, because nobody waits for a file.
PACKET_MS: Final = 60
PACKET: Final = SAMPLE_RATE * PACKET_MS // 1000
PACKETS_A_RECORD: Final = 16
#: Silence for a hole in the sound is made up to here; a forged time must not make hours of it.
LONGEST_HOLE: Final = 60 * SAMPLE_RATE
#: Times that differ by less are rounding, samples.
JITTER: Final = SAMPLE_RATE // 50

Samples = NDArray[np.int16]


def coded_sound(path: Path, start_us: int, kbps: float = DEFAULT_KBPS) -> Iterator[SoundPackets]:
    """The first sound of a file, from `start_us` of the file's own time on, which becomes the stream's start;
    nothing where there is none.

    Raises BadInput at once for a rate out of range, and in the midst where sound cannot be decoded.
    """
    if not LEAST_KBPS <= kbps <= MOST_KBPS:
        raise BadInput(f"audio-kbps is {kbps:g}, allowed are {LEAST_KBPS:g} to {MOST_KBPS:g}")
    return _coded(_encoder(kbps), _decoded(path, start_us))


def _coded(encoder: AudioCodecContext, parts: Iterator[Samples]) -> Iterator[SoundPackets]:
    gathered: list[tuple[int, bytes]] = []
    for block, samples in enumerate(_blocks(parts)):
        packets = encoder.encode(mono_frame(samples, block * PACKET))
        gathered += [(packet.pts or 0, bytes(packet)) for packet in packets]
        if len(gathered) >= PACKETS_A_RECORD:
            yield _record(gathered)
            gathered = []
    gathered += [(packet.pts or 0, bytes(packet)) for packet in encoder.encode(None)]
    if gathered:
        yield _record(gathered)


def _encoder(kbps: float) -> AudioCodecContext:
    encoder = av.CodecContext.create("libopus", "w")
    assert isinstance(encoder, AudioCodecContext)
    encoder.sample_rate, encoder.layout, encoder.format = SAMPLE_RATE, "mono", "s16"
    encoder.bit_rate = round(1000 * kbps)
    encoder.time_base = Fraction(1, SAMPLE_RATE)
    encoder.options = {"application": "voip", "frame_duration": str(PACKET_MS), "vbr": "on"}
    encoder.open()
    return encoder


def _record(packets: list[tuple[int, bytes]]) -> SoundPackets:
    """Packets with the numbers of their first samples; the very first ones come before the sound's beginning."""
    first = packets[0][0]
    time_us = round(max(0, first) * 1_000_000 / SAMPLE_RATE)
    return SoundPackets(time_us, max(0, -first), tuple(data for _, data in packets))


def _blocks(parts: Iterator[Samples]) -> Iterator[Samples]:
    """The same samples, PACKET at a time; the last block is filled up with silence."""
    held = np.zeros(0, np.int16)
    for part in parts:
        held = np.concatenate((held, part))
        whole = len(held) // PACKET * PACKET
        for start in range(0, whole, PACKET):
            yield held[start : start + PACKET]
        held = held[whole:]
    if len(held):
        yield np.concatenate((held, np.zeros(PACKET - len(held), np.int16)))


def _decoded(path: Path, start_us: int) -> Iterator[Samples]:
    """Mono samples at SAMPLE_RATE from `start_us` on; holes are silent."""
    position = 0  # samples since the start
    try:
        with open_container(path) as container:
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            if not container.streams.audio:
                return
            for frame in container.decode(container.streams.audio[0]):
                due = position
                if frame.pts is not None and frame.time_base is not None:
                    due = round((frame.pts * frame.time_base - Fraction(start_us, 1_000_000)) * SAMPLE_RATE)
                if due - position > LONGEST_HOLE:
                    raise BadInput(f"{path}: sound jumps by {(due - position) / SAMPLE_RATE:.0f} s, allowed are 60")
                if due - position > JITTER:
                    yield np.zeros(due - position, np.int16)
                    position = due
                known = position - due if position - due > JITTER else 0
                for part in resampler.resample(frame):
                    samples = np.array(part.to_ndarray()[0, known:], np.int16)
                    known = max(0, known - part.samples)
                    position += len(samples)
                    yield samples
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path}: its sound cannot be decoded ({error})") from error
