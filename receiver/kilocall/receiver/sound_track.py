"""The speech of a stream file as samples."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Final

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from numpy.typing import NDArray

from kilocall.proto.sound import SAMPLE_RATE, SoundPackets
from kilocall.runtime.sound import mono_frame

__all__ = ["SoundTrack", "as_ogg"]

#: Records whose times differ from where the samples are by less follow each other without a gap.
JITTER: Final = SAMPLE_RATE // 100
#: Twice as much as the stream's speech mostly has: what is coded again is heard to be the same.
OGG_BPS: Final = 32_000
#: Silence is made a piece at a time.
SILENCE: Final = np.zeros(SAMPLE_RATE, np.int16)

Samples = NDArray[np.int16]


class SoundTrack:
    """Decodes records in their order; the samples of all are one row that begins at the stream's start.

    What begins at `until_us` or later is left out: a forged time must not make hours of silence.
    """

    def __init__(self, records: Iterable[SoundPackets], until_us: int) -> None:
        self._records, self._until_us = records, until_us
        # One for the whole track: each packet leans on what came before.
        decoder = av.CodecContext.create("libopus", "r")
        assert isinstance(decoder, AudioCodecContext)
        decoder.sample_rate, decoder.layout = SAMPLE_RATE, "mono"
        self._decoder = decoder
        self.damaged = 0
        """Packets that could not be decoded; they are silent."""

    def parts(self) -> Iterator[Samples]:
        """Mono samples at 48 kHz, some at a time, without a gap."""
        position = 0
        for record in self._records:
            if record.time_us >= self._until_us:
                continue
            due = round(record.time_us * SAMPLE_RATE / 1_000_000)
            while due - position > JITTER:
                silence = SILENCE[: due - position]
                position += len(silence)
                yield silence
            samples = self._decoded(record)[record.skip :]
            if position - due > JITTER:
                samples = samples[position - due :]
            position += len(samples)
            if len(samples):
                yield samples

    def _decoded(self, record: SoundPackets) -> Samples:
        made: list[Samples] = []
        for data in record.packets:
            try:
                made += [_mono(frame) for frame in self._decoder.decode(av.Packet(data))]
            except (av.error.FFmpegError, ValueError):
                self.damaged += 1
                made.append(SILENCE[: SAMPLE_RATE * 60 // 1000])
        return np.concatenate(made) if made else SILENCE[:0]


def as_ogg(track: SoundTrack) -> bytes:
    """The whole track as Opus in Ogg."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=SAMPLE_RATE, layout="mono")
        stream.bit_rate = OGG_BPS
        done = 0
        for samples in track.parts():
            for packet in stream.encode(mono_frame(samples, done)):
                container.mux(packet)
            done += len(samples)
        for packet in stream.encode(None):
            container.mux(packet)
    return sink.getvalue()


def _mono(frame: av.AudioFrame) -> Samples:
    samples = frame.to_ndarray()
    if frame.format.is_planar:
        samples = samples.mean(0)
    else:
        samples = samples.reshape(-1, frame.layout.nb_channels).mean(1)
    if frame.format.name.startswith("flt"):
        samples = np.clip(samples, -1, 1) * 32767
    return np.asarray(np.rint(samples), np.int16)
