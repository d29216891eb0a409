"""What the verbs share on the terminal: tables on stdout, progress and warnings on stderr."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from kilocall.proto.errors import BadInput

__all__ = ["console", "needs", "print_facts", "print_table", "progress_bar", "warn"]


def console(*, stderr: bool = False) -> Console:
    """Made anew each time, so that a test's or a caller's redirection counts."""
    return Console(stderr=stderr, highlight=False)


def warn(text: str) -> None:
    """One line on stderr; the command goes on."""
    console(stderr=True).print(Text(f"kilocall: {text}", style="yellow"), soft_wrap=True)


def print_facts(title: str, rows: Iterable[tuple[str, str]]) -> None:
    """A table of names and values."""
    table = Table(
        title=title, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2, 0, 0)
    )
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    console().print(table)


def print_table(title: str, columns: list[str], rows: Iterable[list[str]]) -> None:
    """A table whose first column is text and whose others are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=not number, overflow="ellipsis")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console().print(table)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on stderr while it is a terminal; yields what the library reports to: done, total or None."""
    screen = console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
        disable=not screen.is_terminal,
    ) as progress:
        bar = progress.add_task(what, total=None)

        def report(done: int, total: int | None) -> None:
            progress.update(bar, completed=done, total=total)

        yield report


def needs(module: str, extra: str) -> None:
    """Raises BadInput when an optional library is missing."""
    if importlib.util.find_spec(module) is None:
        raise BadInput(f"this command needs {module}, which is not installed: pip install 'kilocall[{extra}]'")
