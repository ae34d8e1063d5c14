"""What the three commands have in common: errors become one line and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from unionfs.errors import UnionError, one_line

FAILED = 1
MISUSED = 2
INTERRUPTED = 130


class UsageError(Exception):
    """The words on the command line are no call of the command."""


def run(name: str, usage: str, words: list[str], act: Callable[[list[str]], None]) -> int:
    """``act`` has been done; the exit status of the command ``name``.

    ``--help``, and no words at all, show the usage. What goes wrong is one line on stderr, perhaps with a hint.
    """
    if not words or "-h" in words or "--help" in words:
        print(usage, end="", file=sys.stdout if words else sys.stderr)
        return 0 if words else MISUSED
    try:
        if words in (["-V"], ["--version"]):
            print(f"{name} {_version()}")
        else:
            act(words)
        sys.stdout.flush()
    except UsageError as error:
        return _failed(name, str(error), f"{name} --help", MISUSED)
    except BrokenPipeError:
        # whoever reads has seen enough; nothing is left to be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), sys.stdout.fileno())
        return FAILED
    except (UnionError, OSError) as error:
        return _failed(name, one_line(error), getattr(error, "hint", ""), FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _failed(name: str, message: str, hint: str, status: int) -> int:
    print(f"{name}: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return status


def _version() -> str:
    from importlib import metadata  # takes longer than a mount

    try:
        return metadata.version("pybuild")
    except metadata.PackageNotFoundError:
        return "of a source tree"
