"""The other side's picture as a camera for other programs, through pyvirtualcam where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from typing import Any, Final

import numpy as np

from kilocall.model.family import Picture
from kilocall.proto.errors import BadInput
from kilocall.runtime.pictures import with_bars

__all__ = ["VirtualCamera", "why_unavailable"]

logger = logging.getLogger(__name__)

SIDE: Final = 512
HOW: Final = (
    "Linux: load v4l2loopback (sudo modprobe v4l2loopback); macOS and Windows: install OBS and start its virtual "
    "camera once"
)


def why_unavailable() -> str | None:
    """None when there may be a virtual camera; otherwise what is missing."""
    if importlib.util.find_spec("pyvirtualcam") is None:
        return "virtual camera: pyvirtualcam is not installed: pip install 'kilocall[virtual-camera]'"
    return None


class VirtualCamera:
    """An open virtual camera. Raises BadInput that says what is missing."""

    def __init__(self, fps: float) -> None:
        missing = why_unavailable()
        if missing is not None:
            raise BadInput(missing)
        module: Any = importlib.import_module("pyvirtualcam")
        try:
            self._camera: Any = module.Camera(width=SIDE, height=SIDE, fps=fps)
        except Exception as error:  # each system's backend raises its own
            raise BadInput(f"virtual camera: there is no loopback device ({error}). {HOW}") from error
        self.device = str(self._camera.device)
        self._failed = False

    def send(self, rgb: Picture) -> None:
        """A picture uint8 [H, W, 3]; on the model thread."""
        if self._failed:
            return
        try:
            self._camera.send(np.ascontiguousarray(with_bars(rgb, SIDE, SIDE)))
        except Exception as error:  # the device may go away; the call must not
            self._failed = True
            logger.error("virtual camera %s ends: %s", self.device, error)

    def close(self) -> None:
        self._camera.close()
