"""replay: an opened stream on a page or in a window."""

from __future__ import annotations

import io
import os
import socket
import sys
import webbrowser
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from kilocall.api import StreamPlayer, face_of_picture
from kilocall.cli.options import Models
from kilocall.cli.screen import console, warn
from kilocall.cli.streams import find_stream
from kilocall.model.family import Picture
from kilocall.proto.errors import BadInput
from kilocall.receiver.display import DisplayServer, create_app, listen
from kilocall.receiver.render import View
from kilocall.receiver.window import WINDOW_KEYS, show_in_window
from kilocall.runtime.web import LOOPBACK

__all__ = ["read_upload", "replay_stream"]

DEFAULT_PORT: Final = 8765
#: A photograph of 24 megapixels; decoded it takes 72 MB.
MAX_PIXELS: Final = 25_000_000
#: The face fills 256 pixels at the end; more than this only costs time.
LARGEST_SIDE: Final = 1024
ANY: Final = ("0.0.0.0", "::")


def replay_stream(
    stream: Path,
    models: Models,
    *,
    source: Path | None,
    view: tuple[float, float, float],
    loop: bool,
    host: str,
    port: int | None,
    open_page: bool,
    window: bool,
) -> None:
    """Returns when the window is closed or the server is told to end."""
    stream = find_stream(stream)
    film = StreamPlayer(stream, source=source, family=models.open(stream))
    film.renderer.view = View(*view)
    if film.reader.damage:
        warn(f"{stream} breaks off: {film.reader.damage}; what came before is played")
    if window:
        console().print(WINDOW_KEYS)
        show_in_window(film, name=f"kilocall: {stream.name}", loop=loop)
        return
    app = create_app(
        film,
        name=stream.name,
        source_name=source.name if source else None,
        read_face=lambda data: face_of_picture(read_upload(data), film.family),
        hosts=LOOPBACK if host in ANY else (*LOOPBACK, host),
        loop=loop,
    )
    listening = _listen(host, port)
    address = f"http://{_shown_host(host)}:{listening.getsockname()[1]}/"

    def ready() -> None:
        # One plain line: whoever started this as a program reads the address from it.
        print(f"playing {stream.name} at {address} (Ctrl-C ends it)", flush=True)
        if open_page and _has_desktop():
            webbrowser.open(address)

    with listening:
        DisplayServer(app, on_ready=ready).run(sockets=[listening])


def read_upload(data: bytes) -> Picture:
    """A picture file from the page as uint8 RGB [H, W, 3], upright, reduced to LARGEST_SIDE. Raises BadInput."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP", "AVIF")) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise BadInput(f"the picture is {width}x{height}, most are {MAX_PIXELS // 1_000_000} megapixels")
            picture.draft("RGB", (LARGEST_SIDE, LARGEST_SIDE))
            upright = ImageOps.exif_transpose(picture).convert("RGB")
            upright.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
            return np.array(upright, np.uint8)
    except BadInput:
        raise
    # The decoders raise OSError, SyntaxError, ValueError, EOFError, struct.error, DecompressionBombError ...
    except Exception as error:
        raise BadInput("the file is no JPEG, PNG, WebP or AVIF picture that can be read") from error


def _listen(host: str, port: int | None) -> socket.socket:
    if port is not None:
        return listen(host, port)
    try:
        return listen(host, DEFAULT_PORT)
    except OSError:
        return listen(host, 0)


def _shown_host(host: str) -> str:
    if host in ANY:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _has_desktop() -> bool:
    """Without one, `webbrowser` may start a text browser inside this terminal."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
