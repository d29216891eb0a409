"""Another camera in the middle of a call."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from call.test_further_pictures import running, until
from kilocall.call import controls
from kilocall.model.family import Picture
from kilocall.proto.errors import BadInput
from kilocall.sender.camera import ClipCamera
from kilocall.sender.capture import CameraCapture, open_clip
from links import run
from meeting import SECRET, Server


class Plugged:
    """A device as OpenCV has it: number 3 gives pictures until it is pulled out, no other number is there."""

    pulled = False

    def __init__(self, device: int | str, pictures: list[Picture]) -> None:
        self.there = device == 3 and not Plugged.pulled
        self._pictures, self._count = pictures, 0

    def isOpened(self) -> bool:  # noqa: N802  # OpenCV's name
        return self.there

    def read(self) -> tuple[bool, Picture | None]:
        time.sleep(0.04)
        if Plugged.pulled:
            return False, None
        self._count += 1
        return True, np.ascontiguousarray(self._pictures[self._count % len(self._pictures)][..., ::-1])

    def set(self, name: int, value: float) -> bool:
        return True

    def release(self) -> None: ...


def test_another_camera_is_chosen_in_the_call_and_its_loss_is_told(
    astronaut_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [np.ascontiguousarray(frame.rgb) for frame, _ in zip(open_clip(astronaut_clip), range(20), strict=False)]

    class OurCapture(CameraCapture):
        def __init__(self, device: int | str, *, fps: float) -> None:
            super().__init__(device, fps=fps, again_s=0.1, open_device=lambda name: Plugged(name, pictures))

    monkeypatch.setattr(controls, "CameraCapture", OurCapture)
    monkeypatch.setattr(Plugged, "pulled", False)

    async def check() -> None:
        async with Server() as server, running(server, astronaut_clip, tmp_path / "a", f"tea#{SECRET.text}") as node:
            sending, seen = node.sending, node.controls.state
            await until(lambda: sending.face.seen)
            before = sending.camera
            assert isinstance(before, ClipCamera)
            assert seen()["camera"] == {"number": None, "problem": ""}
            with pytest.raises(BadInput, match="camera 2 could not be opened"):
                await node.controls.choose_camera(2)
            assert sending.camera is before
            assert not before.ended
            await node.controls.choose_camera(3)
            assert seen()["camera"] == {"number": 3, "problem": ""}
            assert before.ended
            frames = sending.frames
            await until(lambda: sending.frames > frames + 3 and sending.face.seen)
            Plugged.pulled = True
            await until(lambda: "camera 3" in seen()["camera"]["problem"] and not sending.face.seen)
            Plugged.pulled = False
            await until(lambda: not seen()["camera"]["problem"] and sending.face.seen)

    (tmp_path / "a").mkdir()
    run(check(), within_s=120)
