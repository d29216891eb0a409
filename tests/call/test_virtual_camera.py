"""Pictures given to a virtual camera: by a stand-in, and by pyvirtualcam's own classes where it is installed."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kilocall.call.virtual_camera import HOW, SIDE, VirtualCamera, why_unavailable
from kilocall.proto.errors import BadInput

#: What VirtualCamera uses of pyvirtualcam, which hands a picture on as one row of bytes.
STAND_IN = """
BACKENDS = {}

class Camera:
    def __init__(self, width, height, fps):
        self.inner = BACKENDS["kept"](width=width, height=height, fps=fps, fourcc=None, device=None)
        self.device = self.inner.device()
        self.shape = (height, width, 3)

    def send(self, frame):
        if frame.shape != self.shape:
            raise ValueError(f"unexpected frame shape: {frame.shape} != {self.shape}")
        self.inner.send(frame.reshape(-1))

    def close(self):
        self.inner.close()
"""


class Device:
    """A loopback device that keeps what it is given."""

    broken = False
    made: Device

    def __init__(self, *, width: int, height: int, fps: float, fourcc: Any, device: str | None) -> None:
        self.shape, self.fps = (height, width, 3), fps
        self.pictures: list[NDArray[np.uint8]] = []
        self.tries = 0
        self.closed = 0
        Device.made = self

    def device(self) -> str:
        return "/dev/video9"

    def native_fourcc(self) -> None: ...

    def send(self, frame: NDArray[np.uint8]) -> None:
        self.tries += 1
        if self.broken:
            raise OSError("No such device")
        assert frame.dtype == np.uint8
        assert frame.flags.c_contiguous
        self.pictures.append(frame.reshape(self.shape).copy())

    def close(self) -> None:
        self.closed += 1


class NoDevice(Device):
    def __init__(self, **wanted: Any) -> None:
        raise RuntimeError("No v4l2 loopback device found")


@pytest.fixture(params=["stand-in", "pyvirtualcam"])
def backends(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """Kinds of device by name, of which there is one."""
    known: dict[str, Any]
    if request.param == "stand-in":
        (tmp_path / "pyvirtualcam.py").write_text(STAND_IN)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "pyvirtualcam", raising=False)
        known = importlib.import_module("pyvirtualcam").BACKENDS
    else:
        real = pytest.importorskip(
            "pyvirtualcam.camera", reason="pyvirtualcam is not installed: pip install 'kilocall[virtual-camera]'"
        )
        known = real.BACKENDS
    usual = dict(known)
    known.clear()
    known["kept"] = Device
    yield known
    known.clear()
    known.update(usual)
    if request.param == "stand-in":
        del sys.modules["pyvirtualcam"]


@pytest.mark.usefixtures("backends")
@pytest.mark.parametrize("side", [256, 512])
def test_pictures_of_any_size_come_to_the_device_in_its_own_and_in_rgb(side: int) -> None:
    assert why_unavailable() is None
    camera = VirtualCamera(fps=25.0)
    assert camera.device == "/dev/video9"
    picture = np.zeros((side, side, 3), np.uint8)
    picture[:, side // 2 :] = (200, 60, 20)
    camera.send(picture[:, ::-1])  # a view whose bytes do not lie in order
    (came,) = Device.made.pictures
    assert came.shape == (SIDE, SIDE, 3)
    # Away from the edge between them, where enlarging mixes.
    assert (came[:, : SIDE // 2 - 4] == (200, 60, 20)).all()
    assert not came[:, SIDE // 2 + 4 :].any()
    assert Device.made.fps == 25.0
    camera.close()
    assert Device.made.closed == 1


@pytest.mark.usefixtures("backends")
def test_a_device_that_goes_away_is_told_once_and_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    camera = VirtualCamera(fps=25.0)
    picture = np.zeros((256, 256, 3), np.uint8)
    camera.send(picture)
    monkeypatch.setattr(Device, "broken", True)
    with caplog.at_level(logging.ERROR, "kilocall.call.virtual_camera"):
        for _ in range(3):
            camera.send(picture)
    assert caplog.messages == ["virtual camera /dev/video9 ends: No such device"]
    assert Device.made.tries == 2
    camera.close()
    assert Device.made.closed == 1


def test_no_device_is_told_with_what_to_do(backends: dict[str, Any]) -> None:
    backends["kept"] = NoDevice
    with pytest.raises(BadInput) as caught:
        VirtualCamera(fps=25.0)
    said = str(caught.value)
    assert said.startswith("virtual camera: there is no loopback device (")
    assert "No v4l2 loopback device found" in said
    assert said.endswith(HOW)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="v4l2loopback is Linux's")
def test_linux_without_v4l2loopback_is_told_to_load_it() -> None:
    pytest.importorskip("pyvirtualcam", reason="pyvirtualcam is not installed: pip install 'kilocall[virtual-camera]'")
    if list(Path("/sys/devices/virtual/video4linux").glob("video*")):
        pytest.skip("there is a loopback device here: sudo modprobe -r v4l2loopback")
    with pytest.raises(BadInput, match="sudo modprobe v4l2loopback"):
        VirtualCamera(fps=25.0)


def test_a_missing_pyvirtualcam_is_told_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pyvirtualcam", raising=False)
    monkeypatch.setattr(sys, "path", [])  # as if nothing were installed
    wanted = "virtual camera: pyvirtualcam is not installed: pip install 'kilocall[virtual-camera]'"
    assert why_unavailable() == wanted
    with pytest.raises(BadInput, match="pip install"):
        VirtualCamera(fps=25.0)
