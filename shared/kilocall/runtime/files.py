"""Files that exist whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import platformdirs

from kilocall.proto.errors import BadInput


def check_output(out: Path, inputs: Iterable[Path | None] = ()) -> None:
    """BadInput where a file `out` cannot be written, or would replace one of `inputs`."""
    if not out.parent.is_dir():
        raise BadInput(f"output {out}: the folder {out.parent} does not exist")
    if out.is_dir():
        raise BadInput(f"output {out} is a folder, wanted is a file")
    for path in inputs:
        if path is not None and out.exists() and path.exists() and out.samefile(path):
            raise BadInput(f"output {out} is a file that is read; name another")


def check_output_folder(out: Path) -> None:
    """BadInput where `out` is there and no folder."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"output {out} is a file, wanted is a folder")


def user_cache_folder() -> Path:
    """Where the system wants what this user's kilocall can make again; nothing is created."""
    return platformdirs.user_cache_path("kilocall", appauthor=False)


def keep_newest(folder: Path, name: str, data: bytes, most: int) -> None:
    """Writes `name` whole into a cache folder that nobody else may read, and deletes the oldest beyond `most`.

    Names begin with a hexadecimal digit; other files in the folder are left alone. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(folder / name, data)
    files = sorted(folder.glob("[0-9a-f]*"), key=lambda file: file.stat().st_mtime)
    for old in files[:-most]:
        old.unlink(missing_ok=True)


def open_private(path: Path) -> BinaryIO:
    """A new file in the place of `path` that nobody but this user can read: for a log with links and keys."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def write_whole(path: Path, data: bytes) -> None:
    """Writes under another name beside `path`, then renames. On an OSError, which names `path`, it is as it was."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)
