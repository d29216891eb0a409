"""Which version of the program this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["program_version"]


def program_version() -> str:
    try:
        return version("kilocall")
    except PackageNotFoundError:
        return "from source"
