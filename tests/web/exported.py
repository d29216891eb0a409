"""The page of `export-page` in some browser: what a test does on it, and sees."""

from __future__ import annotations

import base64
import io
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["NEAR", "OTHER_NEAR", "ExportedPage", "apart"]

#: Mean difference of two pictures, grey levels: the same 8-bit networks on two engines, and two decoders of AVIF.
NEAR: Final = 1.5
OTHER_NEAR: Final = 2.5
#: What is on the canvas, which a worker draws on.
PIXELS: Final = """(async () => {
  const bitmap = await createImageBitmap(document.getElementById("picture"));
  const drawn = Object.assign(document.createElement("canvas"), { width: bitmap.width, height: bitmap.height });
  drawn.getContext("2d").drawImage(bitmap, 0, 0);
  return drawn.toDataURL("image/png");
})()"""


class ExportedPage(ABC):
    """The page, with everything that goes wrong on it."""

    within_s: ClassVar[float] = 60
    """How long anything may take."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    @abstractmethod
    def evaluate(self, expression: str) -> Any:
        """JavaScript, a promise is waited for."""

    @abstractmethod
    def pause(self, seconds: float) -> None:
        """The browser goes on meanwhile."""

    def until(self, condition: str) -> None:
        """Waits for a JavaScript condition; the page's policy forbids it to be waited for in the page itself."""
        deadline = time.monotonic() + self.within_s
        while not self.evaluate(condition):
            notice = self.evaluate("document.getElementById('notice').innerText")
            assert time.monotonic() < deadline, f"{condition}; the page says {notice!r}; {self.problems}"
            self.pause(0.02)

    def data(self, name: str) -> str:
        return str(self.evaluate(f"document.documentElement.dataset.{name}"))

    def move(self, bar: str, value: float, *events: str) -> None:
        """A slider, as somebody who drags it: `events` are what the page hears of that."""
        told = "".join(f"bar.dispatchEvent(new Event('{event}'));" for event in events)
        self.evaluate(f"(() => {{ const bar = document.getElementById('{bar}'); bar.value = {value}; {told} }})()")

    def seek(self, seconds: float, frame: int) -> None:
        self.move("seek", seconds, "input", "change")
        self.until(f"document.documentElement.dataset.frame === '{frame}'")

    def pixels(self) -> NDArray[np.uint8]:
        """What is on the canvas [H, W, 3]."""
        address = self.evaluate(PIXELS)
        with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
            return np.asarray(image.convert("RGB"), np.uint8)

    def comes_to_show(self, wanted: NDArray[np.uint8], near: float = NEAR) -> NDArray[np.uint8]:
        """The canvas when it is like `wanted`: the browser draws a while after the page has been told."""
        deadline = time.monotonic() + 10
        while True:
            found = self.pixels()
            difference = apart(found, wanted) if found.shape == wanted.shape else 255.0
            if difference < near:
                return found
            assert time.monotonic() < deadline, f"{found.shape} is {difference:.2f} grey levels from what it should be"
            self.pause(0.05)


def apart(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(int) - other).mean())
