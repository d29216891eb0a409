"""version, bench speed, doctor: what is installed here and how fast it is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["show_version"]


def show_version() -> None:
    try:
        print(f"kilocall {version('kilocall')}")
    except PackageNotFoundError:
        print("kilocall, run from its source folders")
