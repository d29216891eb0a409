"""Two whole nodes over a real connection: a further picture of a speaker arrives, is shown and is recorded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from kilocall.api import StreamPlayer
from kilocall.call import node as node_module
from kilocall.call.node import CallNode
from kilocall.call.recording import Recording
from kilocall.call.settings import settings_from
from kilocall.control import references
from kilocall.model.family import Family, Picture
from kilocall.model.reference_pictures import Distance, base_reference
from kilocall.proto.control import ReferencePiece, SourcePicture, parse_control
from kilocall.proto.stream_file import ReferencePicture, TimedPacket
from kilocall.runtime.peer import Peer
from kilocall.runtime.pictures import decode_picture, encode_picture
from links import run
from meeting import SECRET, Server

FPS = 6.0
BYTES = 1500


async def until(true: Callable[[], bool], within_s: float = 60.0) -> None:
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110  # of many things on several threads
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(server: Server, clip: Path, folder: Path, room: str) -> AsyncIterator[CallNode]:
    """A party that sends no further pictures of its own accord."""
    settings = settings_from(
        room=room,
        server=server.url,
        camera=str(clip),
        headless=True,
        fps=FPS,
        gallery=0,
        cache=folder,
        recordings=folder,
        keep_pictures=folder / "kept",
    )
    node = CallNode(settings)
    task = asyncio.create_task(node.run())
    try:
        yield node
    finally:
        node.stop()
        await task


def on(node: CallNode) -> list[int]:
    """Frames of the other side's that were shown on each of its pictures."""
    return list(node.receiving.speaker.shown_on)


def packed(picture: Picture) -> SourcePicture:
    return SourcePicture(*encode_picture(picture, BYTES))


def opened(jpeg: bytes) -> Picture:
    """A crop that was coded, as it is kept for measuring."""
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    return np.asarray(bgr[..., ::-1], np.uint8)


def furthest(family: Family, base: SourcePicture, crops: list[bytes]) -> SourcePicture:
    """The crop whose face lies furthest from the source picture's: there that crop is the nearer picture."""
    source = family.source(decode_picture(base.data))
    seen = [opened(crop) for crop in crops]
    points = np.stack([family.keypoints(source, family.motion(family.track(crop), source)) for crop in seen])
    apart = Distance(family, source).between(base_reference(family, source).keypoints, points)
    return packed(seen[int(apart.argmax())])


@pytest.fixture
def losing(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Hashes of pictures whose pieces are lost on their way, and where each lost one began."""
    losing: dict[str, list[int]] = {}
    send = Peer.send_control

    def send_control(peer: Peer, data: bytes) -> bool:
        message = parse_control(data)
        if isinstance(message, ReferencePiece) and message.picture_hash in losing:
            losing[message.picture_hash].append(message.offset)
            return True
        return send(peer, data)

    monkeypatch.setattr(Peer, "send_control", send_control)
    return losing


def test_a_further_picture_is_shown_and_recorded_and_a_lost_one_never(
    family: Family,
    astronaut_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    losing: dict[str, list[int]],
) -> None:
    monkeypatch.setattr(references, "PIECE_EVERY_US", 0)
    monkeypatch.setattr(node_module, "TICK_S", 0.25)
    for name in "ab":
        (tmp_path / name).mkdir()

    async def call() -> Recording:
        async with (
            Server() as server,
            running(server, astronaut_clip, tmp_path / "a", f"tea#{SECRET.text}") as speaker,
            running(server, astronaut_clip, tmp_path / "b", f"tea#{SECRET.text}") as viewer,
        ):
            await until(lambda: bool(on(viewer)) and sum(on(viewer)) > 3)
            await viewer.controls.record(on=True)
            a, b = speaker.session, viewer.session
            base = speaker.sending.pictures.source
            assert base is not None
            await until(lambda: len(speaker.sending.kept) >= 3 * FPS)
            crops = list(speaker.sending.kept.values())
            good = await asyncio.to_thread(furthest, family, base.packed, crops)
            a.own_reference(base.packed.picture_hash, good)
            assert set(a.references.confirmed) == set(b.references.held) == set()
            await until(lambda: good.picture_hash in a.references.confirmed)
            assert b.references.held == {good.picture_hash: good}
            # The clip begins again and again, and the furthest crop may be the first.
            others = (packed(opened(crop)) for crop in crops)
            bad = next(picture for picture in others if picture.picture_hash != good.picture_hash)
            lost = losing[bad.picture_hash] = []
            a.own_reference(base.packed.picture_hash, bad)
            await until(lambda: sum(lost) > 0 and len(on(viewer)) == 2 and on(viewer)[1] > 0)
            made = await viewer.controls.record(on=False)
            assert made is not None
            assert len(on(viewer)) == 2
            assert b.references.held == {good.picture_hash: good}
            assert a.references.confirmed == {good.picture_hash}
            return made

    made: list[Recording] = []

    async def kept() -> None:
        made.append(await call())

    run(kept(), within_s=180)
    player = StreamPlayer(made[0].stream, family=family)
    assert (player.renderer.pictures, player.unused_pictures) == (2, 0)
    records = list(player.reader.records())
    at = next(number for number, record in enumerate(records) if isinstance(record, ReferencePicture))
    before, after = ([r for r in some if isinstance(r, TimedPacket)] for some in (records[:at], records[at:]))
    assert before  # it stands where it came
    assert after
    timed = next(player.motions())
    assert player.renderer.render(timed.motion).shape == (family.size, family.size, 3)
    assert sum(r.packet.frame_count for r in [*before, *after]) == made[0].frames
