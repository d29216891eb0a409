"""The command line, `kilocall`."""

from __future__ import annotations

import signal
import sys
from types import FrameType

__all__ = ["main", "run"]

#: What a shell expects of a program that Ctrl-C ended: 128 + SIGINT.
INTERRUPTED = 130
TERMINATED = 143
REFUSED = 2


def main() -> None:
    """Runs the command and exits with its code."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Exit code of a command: 0, 2 for what was asked or given wrongly, 130 after Ctrl-C.

    A KilocallError or OSError becomes one line on stderr. Whatever was being written is removed on the way.
    """
    from kilocall.cli.app import app
    from kilocall.proto.errors import KilocallError

    try:
        app(arguments, prog_name="kilocall", standalone_mode=True)
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
    return 0


def _say(text: str) -> None:
    """One line, whatever is in the text: names of files may hold line ends or colours."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    print(f"kilocall: {line}", file=sys.stderr)


def _terminate(number: int, frame: FrameType | None) -> None:
    # As an exception, so that what is half written is removed.
    raise SystemExit(TERMINATED)
