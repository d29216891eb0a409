"""A script of a page and all modules that it imports, as one file.

A browser asks for a module only once it has read the one that imports it, and each request takes it 2 ms of a
processor, also where the file is kept: a page of a call and its two workers would make 160.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Final

__all__ = ["bundled"]

_IMPORT: Final = re.compile(r'^import \{([^}]*)\} from "(\.{1,2}/[\w./-]+\.js)";$', re.M)
_EXPORT: Final = re.compile(r"^export (?=(?:(?:async )?function\*? |class |const )(\w+|\[[\w, ]+\]))", re.M)
_UNKNOWN: Final = re.compile(r"^(?:import|export|await)\b.*", re.M)


def bundled(entry: str, modules: Mapping[str, bytes]) -> bytes:
    """The module of this path with all others in front, each in a function that returns what it exports.

    Raises ValueError for an import or export that is none of the few kinds which the modules have.
    """
    numbers: dict[str, int | None] = {}  # None: what it imports is being added
    made: list[str] = []

    def add(path: str) -> int:
        if path in numbers:
            number = numbers[path]
            if number is None:
                raise ValueError(f"{path} imports itself, by way of others")
            return number
        numbers[path] = None
        text = modules[path].decode()
        imports = []
        for names, imported in _IMPORT.findall(text):
            number = add(posixpath.normpath(posixpath.join(posixpath.dirname(path), imported)))
            imports.append(f"const {{{names.replace(' as ', ': ')}}} = m{number};")
        exports = ", ".join(name.strip("[]") for name in _EXPORT.findall(text))
        body = _EXPORT.sub("", _IMPORT.sub("", text))
        if unknown := _UNKNOWN.search(body):
            raise ValueError(f"{path}: {unknown[0]!r} does not go into one file")
        place = posixpath.relpath(path, posixpath.dirname(entry) or ".")
        body = body.replace("import.meta.url", f'new URL("{place}", import.meta.url).href')
        number = numbers[path] = len(made)
        head = f"const m{number} = (() => {{ // {path}"
        made.append("\n".join([head, *imports, body, f"return {{ {exports} }};", "})();"]))
        return number

    add(entry)
    return "\n".join(made).encode()
