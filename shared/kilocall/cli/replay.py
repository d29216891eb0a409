"""replay: an opened stream on a page or in a window."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Final

from kilocall.api import StreamPlayer, face_of_picture
from kilocall.cli.opening import find_stream, open_models
from kilocall.cli.options import Models
from kilocall.cli.screen import console, warn
from kilocall.receiver.display import create_app, page_server
from kilocall.receiver.render import View, makes_slowly
from kilocall.receiver.window import WINDOW_KEYS, show_in_window
from kilocall.runtime.browser import open_in_browser
from kilocall.runtime.picture_decoder import UPLOAD
from kilocall.runtime.picture_process import shared_decoder
from kilocall.runtime.web import ANY, LOOPBACK, PageKey, listen, shown_address

__all__ = ["replay_stream"]

DEFAULT_PORT: Final = 8765


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
    player = StreamPlayer(stream, source=source, family=open_models(models, stream))
    player.renderer.view = View(*view)
    player.renderer.hold = float(makes_slowly(player.family, player.renderer.source))
    if player.reader.damage:
        warn(f"{stream} breaks off: {player.reader.damage}; what came before is played")
    if window:
        console().print(WINDOW_KEYS)
        show_in_window(player, name=f"kilocall: {stream.name}", loop=loop)
        return
    key = PageKey()
    app = create_app(
        player,
        name=stream.name,
        source_name=source.name if source else None,
        read_face=lambda data: face_of_picture(shared_decoder().decode(data, UPLOAD), player.family),
        key=key,
        hosts=LOOPBACK if host in ANY else (*LOOPBACK, host),
        loop=loop,
    )
    listening = _listen(host, port)
    address = key.opens(shown_address(host, listening))

    def ready() -> None:
        # One plain line: whoever started this as a program reads the address from it.
        print(f"playing {stream.name} at {address} (Ctrl-C ends it)", flush=True)
        if open_page and _has_desktop():
            open_in_browser(address)

    with listening:
        page_server(app, on_ready=ready).run(sockets=[listening])


def _listen(host: str, port: int | None) -> socket.socket:
    if port is not None:
        return listen(host, port)
    try:
        return listen(host, DEFAULT_PORT)
    except OSError:
        return listen(host, 0)


def _has_desktop() -> bool:
    """Without one, `webbrowser` may start a text browser inside this terminal."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
