"""Speech between the page and the other side: the page's own loopback connection, the microphone, the loudspeaker.

    page's microphone --loopback WebRTC--> Speech --Peer's track--> other side
    other side --Peer's track--> Loudspeaker (held until the picture is due) --loopback WebRTC--> page

Without a page a sound file is the microphone, and the loudspeaker only measures.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from numpy.typing import NDArray

from kilocall.proto.errors import BadInput
from kilocall.proto.sound import SAMPLE_RATE
from kilocall.runtime import aiortc_fixes
from kilocall.runtime.clock import now_us
from kilocall.runtime.sound import mono_frame
from kilocall.sender.camera import PageCamera

__all__ = ["AvSync", "Loudspeaker", "PageMedia", "Speech", "hear", "pace", "play_file", "read_sound"]

logger = logging.getLogger(__name__)

BLOCK: Final = 960  # 20 ms
BLOCK_S: Final = 0.02
MAX_SDP: Final = 64 << 10
MOST_FILE_S: Final = 120
SPEECH_PACKET_MS: Final = 60
#: How much longer than a picture a sound needs in a page, until that page has measured it.
PAGE_BEHIND_MS: Final = 60.0
MOST_HOLD_US: Final = 300_000
MOST_PICTURE_HOLD_US: Final = 150_000
HOLD_STEP_US: Final = 4000
#: More waiting speech than this above the hold is dropped: a stall must not become delay.
SLACK_US: Final = 200_000
ONSET_DB: Final = -40.0
QUIET_DB: Final = -50.0

Own = Callable[[Coroutine[Any, Any, None], str], object]
"""Runs a coroutine as a task that is logged when it ends with an error, and cancelled with its owner."""


class AvSync:
    """How long speech and pictures wait here so that lips and sound meet.

    A picture is ready `playout_us` after the fastest packet's arrival plus what rendering takes. Speech arrives a
    packet's length after it was spoken, and where there is a page, a sound needs `behind_ms` more than a picture from
    here to the person. What would come first waits.
    """

    def __init__(self) -> None:
        self.sound_us = 0
        self.picture_us = 0

    def follow(self, playout_us: int, made_ms: float, *, packet_ms: float, behind_ms: float) -> None:
        """Once a picture."""
        if 1000 * made_ms > MOST_HOLD_US:
            made_ms = 0.0  # so rare and so late that no lips are to be met: speech need not wait for them
        early_us = playout_us + 1000 * (made_ms - packet_ms - behind_ms)
        self.sound_us = int(min(max(0.0, early_us), MOST_HOLD_US))
        # No lateness is let pass here: in browsers sound still came 20 to 50 ms later than this reckons, measured.
        wanted_us = min(max(0.0, -early_us), MOST_PICTURE_HOLD_US)
        # By so little at a time that no picture overtakes the one before.
        self.picture_us += int(min(max(-HOLD_STEP_US, wanted_us - self.picture_us), HOLD_STEP_US))


class Speech:
    """The microphone: blocks of mono sound in, a track for each connection out. Nothing comes out while muted."""

    def __init__(self) -> None:
        self.muted = False
        self.blocks = 0
        self._newest: _SpeechTrack | None = None

    def put(self, samples: NDArray[np.int16]) -> None:
        """Samples [n] at 48 kHz, spoken just now."""
        self.blocks += 1
        if self._newest is not None and not self.muted:
            self._newest.put(samples)

    def track(self) -> MediaStreamTrack:
        """A track for a new connection; the one before gets nothing more."""
        self._newest = _SpeechTrack()
        return self._newest


class _SpeechTrack(MediaStreamTrack):
    kind = "audio"
    MOST = 25

    def __init__(self) -> None:
        super().__init__()
        self._blocks: asyncio.Queue[NDArray[np.int16]] = asyncio.Queue(self.MOST)
        self._pts = 0

    def put(self, samples: NDArray[np.int16]) -> None:
        while self._blocks.full():
            self._blocks.get_nowait()
        self._blocks.put_nowait(samples)

    async def recv(self) -> av.AudioFrame:
        samples = await self._blocks.get()
        frame = mono_frame(samples, self._pts)
        self._pts += len(samples)
        return frame


class Loudspeaker:
    """What is heard: received speech, held back by `hold_us`, in blocks of 20 ms with silence in between.

    Also measures: packets, level, and when sound begins after silence.
    """

    def __init__(self, clock_us: Callable[[], int] = now_us) -> None:
        self.hold_us = 0
        self.packet_ms: float = SPEECH_PACKET_MS
        """Length of a received packet."""
        self.received_samples = 0
        self.heard_samples = 0
        """Received ones that are louder than silence."""
        self.dropped_samples = 0
        self.energy = 0.0
        self.onsets_us: deque[int] = deque(maxlen=50)
        """When a sound after silence is played, on this side's clock."""
        self.on_samples: Callable[[NDArray[np.int16], int], None] | None = None
        """For a recorder: samples, and when they are played."""
        self._clock_us = clock_us
        self._waiting: deque[NDArray[np.int16]] = deque()
        self._samples = 0
        self._silent = True

    @property
    def level_db(self) -> float | None:
        """Mean level of what was louder than silence, dB below full scale; None before any."""
        return None if not self.heard_samples else 10 * math.log10(self.energy / self.heard_samples + 1e-12)

    def push(self, samples: NDArray[np.int16]) -> None:
        """A packet of speech that has just arrived: mono, 48 kHz."""
        self.packet_ms = 1000 * len(samples) / SAMPLE_RATE
        if self._silent or not self._samples:
            self._align()
        play_us = self._clock_us() + self._samples * 1_000_000 // SAMPLE_RATE
        self._measure(samples, play_us)
        self._add(samples)
        most = (self.hold_us + SLACK_US) * SAMPLE_RATE // 1_000_000
        while self._samples > most and len(self._waiting) > 1:
            dropped = self._waiting.popleft()
            self._samples -= len(dropped)
            self.dropped_samples += len(dropped)

    def pull(self, count: int = BLOCK) -> NDArray[np.int16]:
        """The next `count` samples; silence where there are none."""
        block = np.zeros(count, np.int16)
        filled = 0
        while filled < count and self._waiting:
            head = self._waiting.popleft()
            take = min(count - filled, len(head))
            block[filled : filled + take] = head[:take]
            filled += take
            if take < len(head):
                self._waiting.appendleft(head[take:])
        self._samples -= filled
        return block

    def _align(self) -> None:
        """In a pause, where nobody hears it: what comes next is to be played after the hold."""
        wanted = self.hold_us * SAMPLE_RATE // 1_000_000
        while self._samples > wanted + BLOCK:
            self._samples -= len(self._waiting.popleft())
        self._add(np.zeros(max(0, wanted - self._samples), np.int16))

    def _add(self, samples: NDArray[np.int16]) -> None:
        if len(samples):
            self._waiting.append(samples)
            self._samples += len(samples)

    def _measure(self, samples: NDArray[np.int16], play_us: int) -> None:
        self.received_samples += len(samples)
        for start in range(0, len(samples), BLOCK // 2):
            part = samples[start : start + BLOCK // 2].astype(np.float64) / 32768
            energy = float((part * part).sum())
            level = 10 * math.log10(energy / max(1, len(part)) + 1e-12)
            if level > QUIET_DB:
                self.heard_samples += len(part)
                self.energy += energy
            if self._silent and level > ONSET_DB:
                self._silent = False
                self.onsets_us.append(play_us + start * 1_000_000 // SAMPLE_RATE)
            elif level < QUIET_DB:
                self._silent = True
        if self.on_samples is not None:
            self.on_samples(samples, play_us)


async def hear(track: MediaStreamTrack, loudspeaker: Loudspeaker) -> None:
    """Brings the other side's speech to the loudspeaker until the track ends."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    try:
        while True:
            frame = await track.recv()
            assert isinstance(frame, av.AudioFrame)
            for part in resampler.resample(frame):
                loudspeaker.push(np.ascontiguousarray(part.to_ndarray()[0], np.int16))
    except MediaStreamError:
        return


async def pace(loudspeaker: Loudspeaker, out: Callable[[NDArray[np.int16]], None]) -> None:
    """Takes 20 ms of sound every 20 ms, for as long as it runs."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        out(loudspeaker.pull())
        due = max(due + BLOCK_S, loop.time() - 5 * BLOCK_S)
        await asyncio.sleep(max(0.0, due - loop.time()))


def read_sound(path: Path) -> NDArray[np.int16]:
    """Up to two minutes of a sound file, mono at 48 kHz. BadInput when there is none in it."""
    parts: list[NDArray[np.int16]] = []
    samples = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise BadInput(f"microphone {path}: has no sound")
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            for frame in container.decode(container.streams.audio[0]):
                for part in resampler.resample(frame):
                    parts.append(np.array(part.to_ndarray()[0], np.int16))
                    samples += len(parts[-1])
                if samples > MOST_FILE_S * SAMPLE_RATE:
                    break
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"microphone {path}: not a readable sound file ({error})") from error
    if samples < BLOCK:
        raise BadInput(f"microphone {path}: holds {samples} samples, at least {BLOCK} are needed")
    return np.concatenate(parts)


async def play_file(samples: NDArray[np.int16], speech: Speech, started: Callable[[int], None]) -> None:
    """Speaks the samples in a loop, in real time. `started` learns the monotonic microseconds of each beginning."""
    loop = asyncio.get_running_loop()
    whole = len(samples) // BLOCK * BLOCK
    due = loop.time()
    while True:
        started(now_us())
        for start in range(0, whole, BLOCK):
            due += BLOCK_S
            await asyncio.sleep(max(0.0, due - loop.time()))  # a block is there once it has been spoken
            speech.put(samples[start : start + BLOCK])


class PageMedia:
    """The page's loopback connection. A new offer replaces the one before."""

    def __init__(self, speech: Speech, camera: PageCamera | None, own: Own) -> None:
        self._speech, self._camera, self._own = speech, camera, own
        self._connection: RTCPeerConnection | None = None
        self._out: _SpeechTrack | None = None
        self._behind_ms = PAGE_BEHIND_MS
        self._answering = asyncio.Lock()

    @property
    def behind_ms(self) -> float:
        """How much longer than a picture a sound needs from here to the person; 0 without a page that plays it."""
        return 0.0 if self._out is None else self._behind_ms

    @behind_ms.setter
    def behind_ms(self, measured: float) -> None:
        self._behind_ms = measured

    async def answer(self, offer: str) -> str:
        """This side's SDP for the page's. Raises BadInput for one that cannot be used."""
        async with self._answering:  # a page that is reloaded asks again while the first answer is being made
            return await self._answer(offer)

    async def _answer(self, offer: str) -> str:
        await self.close()
        if len(offer) > MAX_SDP:
            raise BadInput(f"offer is {len(offer)} characters, most is {MAX_SDP}")
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._connection = connection
        connection.on("track", self._track)
        try:
            await connection.setRemoteDescription(RTCSessionDescription(sdp=_without_names(offer), type="offer"))
        # aiortc's parser meets bad SDP with almost any exception.
        except Exception as error:
            await self.close()
            logger.info("the page's offer cannot be used", exc_info=True)
            raise BadInput(f"offer cannot be used: {type(error).__name__} {error}"[:200]) from None
        if not connection.getTransceivers():
            await self.close()
            raise BadInput("offer cannot be used: it has neither sound nor picture")
        self._out = _SpeechTrack()
        for transceiver in connection.getTransceivers():
            if transceiver.kind == "audio":
                aiortc_fixes.set_speech_decoder(transceiver.receiver)
                transceiver.sender.replaceTrack(self._out)
                transceiver.direction = "sendrecv"
            else:
                aiortc_fixes.set_prompt_video(transceiver.receiver)
        _offer_loopback(connection)
        try:
            await connection.setLocalDescription(await connection.createAnswer())
        except Exception as error:
            await self.close()
            logger.info("the page's offer cannot be answered", exc_info=True)
            raise BadInput(f"offer cannot be answered: {type(error).__name__} {error}"[:200]) from None
        return str(connection.localDescription.sdp)

    def play(self, samples: NDArray[np.int16]) -> None:
        """A block for the page's loudspeaker."""
        if self._out is not None:
            self._out.put(samples)

    async def close(self) -> None:
        connection, self._connection, self._out = self._connection, None, None
        if connection is not None:
            await connection.close()

    def _track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self._own(self._listen(track), "page's microphone")
        elif self._camera is not None:
            self._own(self._watch(track, self._camera), "page's camera")

    async def _listen(self, track: MediaStreamTrack) -> None:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE, frame_size=BLOCK)
        try:
            while True:
                frame = await track.recv()
                assert isinstance(frame, av.AudioFrame)
                for part in resampler.resample(frame):
                    self._speech.put(np.ascontiguousarray(part.to_ndarray()[0], np.int16))
        except MediaStreamError:
            return

    async def _watch(self, track: MediaStreamTrack, camera: PageCamera) -> None:
        try:
            while True:
                frame = await track.recv()
                assert isinstance(frame, av.VideoFrame)
                camera.put(frame)
        except MediaStreamError:
            return


def _without_names(offer: str) -> str:
    """The offer without addresses that are random names under .local, which browsers give as long as no camera or
    microphone may be used, and Firefox 153 with its fake ones too.

    aioice 0.13 takes a second over a name that it cannot resolve, and when it has been told that no more candidates
    follow and none is left, it gathers none of its own: the answer was empty, and the page stayed silent. The browser
    is on this machine, and its checks reach the answer's addresses and say where they come from.
    """
    lines = offer.splitlines()
    named = [line for line in lines if line.startswith("a=candidate:") and ".local " in line]
    if not named:
        return offer
    return "".join(f"{line}\r\n" for line in lines if line not in named and line != "a=end-of-candidates")


def _offer_loopback(connection: RTCPeerConnection) -> None:
    """Offers 127.0.0.1 beside the machine's addresses: a machine without a network has no other."""
    # Sound and picture share one transport, which must be changed once.
    transports = {id(t.receiver.transport.transport): t.receiver.transport for t in connection.getTransceivers()}
    for transport in transports.values():
        aiortc_fixes.on_datagrams(
            transport.transport._connection,
            sent=lambda data, addr: None,
            received=lambda data, addr: None,
            addresses=lambda own: ["127.0.0.1", *own],
        )
