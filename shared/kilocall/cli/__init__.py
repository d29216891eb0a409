"""The command line, `kilocall`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

__all__ = ["main", "run"]

#: What a shell expects of a program that Ctrl-C ended: 128 + SIGINT.
INTERRUPTED = 130
TERMINATED = 143
REFUSED = 2


def main() -> None:
    """Runs the command and exits with its code."""
    # numpy's products are small here; threads that wait for each other over them would take a sixth of two cores from a
    # call. It is read when numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Exit code of a command: 0, 2 for what was asked or given wrongly, 130 after Ctrl-C.

    A KilocallError, OSError or wrong option becomes one line on stderr. Whatever was being written is removed on the
    way.
    """
    import typer

    from kilocall.cli.app import app
    from kilocall.proto.errors import KilocallError

    usage_error: Any = typer.BadParameter.__mro__[1]  # whose name differs from version to version
    try:
        code = app(arguments, prog_name="kilocall", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except usage_error as error:
        _refuse(error)
        return REFUSED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does; closing stderr keeps the interpreter quiet about it.
        sys.stderr.close()
        return 0
    except KilocallError as error:
        _say(str(error))
        return REFUSED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _say(f"{where}{error.strerror or error}")
        return REFUSED


def _refuse(error: Any) -> None:
    """Says what is wrong with an option: its name, the value given, and what is allowed."""
    said = error.format_message()
    if not said:
        return  # help that was asked for by saying nothing, and that has been printed
    problems = error.__cause__.errors() if hasattr(error.__cause__, "errors") else []  # typer checks by pydantic
    if problems:
        low, high = (getattr(error.param, bound, None) for bound in ("min", "max"))
        if low is not None or high is not None:
            allowed = f"{low:g} to {high:g}" if low is not None and high is not None else f"{low:g} or more"
        else:
            said = problems[0]["msg"].removeprefix("Value error, ")
            allowed = said.partition("is not one of ")[2] or said
        said = f"{max(error.param.opts, key=len)} is {problems[0]['input']}; allowed: {allowed}"
    _say(f"{said.rstrip('.')} (see {error.ctx.command_path} --help)" if error.ctx else said)


def _say(text: str) -> None:
    """One line, whatever is in the text: names of files may hold line ends or colours."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    print(f"kilocall: {line}", file=sys.stderr)


def _terminate(number: int, frame: FrameType | None) -> None:
    # As an exception, so that what is half written is removed.
    raise SystemExit(TERMINATED)
