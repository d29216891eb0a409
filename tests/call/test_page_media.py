"""The page's loopback connection, with aiortc in the page's place."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import pytest
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
    VideoStreamTrack,
)

from kilocall.call.audio_bridge import Loudspeaker, PageMedia, Speech, pace
from kilocall.proto.errors import BadInput
from kilocall.runtime.tasks import Tasks
from kilocall.sender.camera import PageCamera


class Tone(MediaStreamTrack):
    """20 ms blocks of a sine."""

    kind = "audio"
    count = 0

    async def recv(self) -> av.AudioFrame:
        await asyncio.sleep(0.02)
        times = (np.arange(960) + 960 * self.count) / 48_000
        samples = (8000 * np.sin(2 * np.pi * 300 * times)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 960 * self.count, Fraction(1, 48_000)
        self.count += 1
        return frame


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  (nothing tells the test)
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("addresses", ["plain", "named"])
def test_microphone_and_camera_come_from_the_page_and_speech_goes_back(addresses: str) -> None:
    async def main() -> None:
        tasks, speech, loudspeaker, camera = Tasks(), Speech(), Loudspeaker(), PageCamera()
        media = PageMedia(speech, camera, tasks.own)
        tasks.own(pace(loudspeaker, media.play), "loudspeaker")
        # A browser sends sound and picture over one transport.
        page = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        heard: list[int] = []

        async def listen(track: MediaStreamTrack) -> None:
            while True:
                frame = await track.recv()
                assert isinstance(frame, av.AudioFrame)
                heard.append(int(np.abs(frame.to_ndarray()).max()))

        page.on("track", lambda track: tasks.own(listen(track), "page") if track.kind == "audio" else None)
        page.addTrack(Tone())
        page.addTrack(VideoStreamTrack())
        await page.setLocalDescription(await page.createOffer())
        offer = page.localDescription.sdp
        if addresses == "named":
            # As browsers hide them: nobody here answers for the name.
            offer = re.sub(
                r"(a=candidate:\S+ \d+ udp \d+) \S+", r"\1 0b0c2f5e-0b4e-4d3c-9a58-5d8d0b6d7c11.local", offer
            )
            assert ".local" in offer
        answer = await media.answer(offer)
        assert "127.0.0.1" in answer
        await page.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await until(lambda: speech.blocks > 5)
        frame = None
        while frame is None:
            frame = await asyncio.to_thread(camera.latest, 0.2)
        assert frame.rgb.shape == (480, 640, 3)
        while max(heard, default=0) < 1000:
            loudspeaker.push((9000 * np.sin(np.arange(2880) / 20)).astype(np.int16))
            await asyncio.sleep(0.06)
        await media.close()
        await page.close()
        await tasks.close()

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize("offer", ["", "no sdp", "v=0\r\nm=audio", "x" * 70_000])
def test_offer_that_is_none_is_refused(offer: str) -> None:
    async def main() -> None:
        tasks = Tasks()
        media = PageMedia(Speech(), None, tasks.own)
        with pytest.raises(BadInput, match="offer"):
            await media.answer(offer)
        await tasks.close()

    asyncio.run(main())
