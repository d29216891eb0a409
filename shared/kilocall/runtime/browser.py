"""Opens a page in the user's browser without showing its key to the other users of the computer."""

from __future__ import annotations

import atexit
import contextlib
import html
import os
import tempfile
import webbrowser
from pathlib import Path

__all__ = ["open_in_browser"]


def open_in_browser(address: str) -> None:
    """Opens `address`, which is to be printed as well: where no file can be written nothing is opened.

    Everybody sees what a browser is started with, so it gets a file that only this user can read. That leads to the
    address, and is deleted when this program ends.
    """
    with contextlib.suppress(OSError, RuntimeError):  # the latter: there is no home folder
        # In the home folder: browsers that are installed as snaps read neither /tmp nor hidden folders.
        number, name = tempfile.mkstemp(prefix="kilocall-", suffix=".html", dir=Path.home())
        path = Path(name)
        atexit.register(path.unlink, missing_ok=True)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(
                '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>kilocall</title>\n'
                f'<meta http-equiv="refresh" content="0; url={html.escape(address)}">\n</html>\n'
            )
        webbrowser.open(path.as_uri())
