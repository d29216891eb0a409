"""Pages of the bench, made from the templates beside this file."""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = ["PNG", "HtmlRow", "HtmlTable", "data_url", "rendered"]

PNG: Final = "image/png"
_PACKAGE: Final = "kilocall.bench"


@dataclass(frozen=True)
class HtmlRow:
    """The cells of a line; `own` where it is kilocall's."""

    cells: Sequence[str]
    own: bool = False


@dataclass(frozen=True)
class HtmlTable:
    """What a template draws; the columns `words`, counted from 0, hold text, the others numbers."""

    head: Sequence[str]
    rows: Sequence[HtmlRow]
    words: Collection[int] = (0,)


def rendered(template: str, **values: object) -> str:
    """The page; whatever a template names must be among the `values`."""
    return _environment().get_template(template).render(**values)


def data_url(data: bytes, kind: str) -> str:
    """A file of MIME type `kind` inside the page."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
