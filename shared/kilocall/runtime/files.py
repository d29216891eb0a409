"""Files that exist whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def keep_newest(folder: Path, name: str, data: bytes, most: int) -> None:
    """Writes `name` whole into a cache folder that nobody else may read, and deletes the oldest beyond `most`.

    Names begin with a hexadecimal digit; other files in the folder are left alone. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(folder / name, data)
    files = sorted(folder.glob("[0-9a-f]*"), key=lambda file: file.stat().st_mtime)
    for old in files[:-most]:
        old.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Writes under another name beside `path`, then renames. On an OSError `path` is as it was."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
