"""This installation: version, doctor."""

from __future__ import annotations

import typer

from kilocall.cli.options import AsJson, EngineChoice, Engines, Threads

__all__ = ["doctor", "version"]


def version() -> None:
    """Version of this program."""
    from kilocall.cli.machine import show_version

    show_version()


def doctor(
    engine: EngineChoice = Engines.auto,
    threads: Threads = 0,
    json: AsJson = False,
) -> None:
    """What is installed, whether it works, which engine is chosen and why; exit code 2 if something is broken."""
    from kilocall.cli.machine import show_diagnosis

    raise typer.Exit(show_diagnosis(engine.value, threads, json))
