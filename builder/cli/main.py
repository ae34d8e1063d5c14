"""The ``pybuild`` command: finds the sub-command, runs it, turns errors into an exit status.

Exit status: 0; a RUN step's own status when it fails; 1 other errors; 2 usage; 130 interrupted, by SIGINT or SIGTERM
(docs/cli.md).
A call whose first word is no sub-command is a build, as ``pybuild -t img .``.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module

USAGE_STATUS = 2
INTERRUPTED_STATUS = 130
BASE_DIRECTORIES = ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR")
_HELP = frozenset({"-h", "--help"})
_COLLECT_AFTER_OBJECTS = 100_000


def run() -> None:
    """The process has ended with the status of its command line.

    The interpreter is not taken down object by object: that is an eighth of a cached build's time, and what holds a
    resource has been closed by now (commands close what they open). For the same reason garbage is looked for only
    after many objects: reading modules makes many that stay.
    """
    gc.set_threshold(_COLLECT_AFTER_OBJECTS)
    if not _is_usual():
        from builder.cli.outset import settle

        settle()
    # bytes that are no UTF-8 are printed as they are; all goes out when it is flushed, also with PYTHONUNBUFFERED:
    # there it can be said that it did not
    sys.stdout.reconfigure(errors="surrogateescape", write_through=False)  # type: ignore[union-attr]
    sys.stderr.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    _end_alike()
    status = main()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # main has flushed and told when it could not; what is left here is a failure's
            stream.flush()
    os._exit(status)


def _is_usual() -> bool:
    """Whether nothing is to be done before the command line is read (`builder.cli.outset`)."""
    return (
        sys.getfilesystemencoding() == "utf-8"
        and None not in {sys.stdin, sys.stdout, sys.stderr}
        and os.environ.get("HOME", "").startswith("/")
        and all(os.environ.get(name, "/").startswith("/") for name in BASE_DIRECTORIES)
    )


def _end_alike() -> None:
    """SIGTERM ends whatever runs as SIGINT does, with the same status, unless it is ignored."""
    # signal itself makes enumerations of its numbers, for a millisecond; whoever waits in an event loop has it
    numbers = import_module("_signal")
    if numbers.getsignal(numbers.SIGTERM) == numbers.SIG_DFL:
        numbers.signal(numbers.SIGTERM, numbers.default_int_handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status of the command line; messages are on stderr, data on stdout."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _dispatch(words)
        _flush_stdout()
    except KeyboardInterrupt:
        sys.stderr.write("pybuild: interrupted\n")
        return INTERRUPTED_STATUS
    except BrokenPipeError:
        # nobody reads on: not an error, but Python must not complain at exit
        _drop_stdout()
        return 1
    except Exception as error:  # noqa: BLE001 - what is not expected is raised again
        return _report(error)
    return status


def _flush_stdout() -> None:
    """What was printed has arrived. Raises BuildError, BrokenPipeError."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        from builder.errors import BuildError, describe_os_error

        # what is left in the buffer would fail once more at the end
        _drop_stdout()
        raise BuildError(f"stdout: {describe_os_error(error)}") from None


def _drop_stdout() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _dispatch(words: list[str]) -> int:
    from builder.cli import commands

    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in _HELP:
        (sys.stdout if words else sys.stderr).write(commands.overview())
        return 0 if words else USAGE_STATUS
    if words[0] in {"-V", "--version", "version"}:
        from builder import __version__

        sys.stdout.write(f"pybuild {__version__}\n")
        return 0
    if words[0] in commands.GROUPS and (len(words) == 1 or words[1] in _HELP):
        (sys.stdout if words[1:] else sys.stderr).write(commands.group_overview(words[0]))
        return 0 if words[1:] else USAGE_STATUS
    name, rest = commands.find_command(words)
    module = import_module(commands.COMMANDS[name][0])
    command: Callable[[Sequence[str]], int] = getattr(module, f"command_{commands.function_name(name)}")
    try:
        return _call(command, name, rest)
    except SystemExit as stop:
        # argparse, after the help of the command
        return stop.code if isinstance(stop.code, int) else 1


def _call(command: Callable[[Sequence[str]], int], name: str, words: list[str]) -> int:
    """Status of the command, whose words come after those that the configuration gives it."""
    directory = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.environ.get("HOME") or "/root", ".config")
    if not os.path.exists(os.path.join(directory, "pybuild", "config.toml")):
        return command(words)
    from builder.configuration import configuration_path, read_defaults
    from builder.errors import UsageError

    defaults = read_defaults(os.environ, name)
    try:
        return command([*defaults, *words])
    except UsageError as error:
        if defaults:
            # what is wrong may stand there
            error.hints = (*error.hints, f"{configuration_path(os.environ)} begins it with {' '.join(defaults)}")
        raise


def _report(error: Exception) -> int:
    """One message on stderr for an expected error; anything else is a defect and keeps its traceback."""
    from builder.errors import BuildError, describe_os_error, render, room_hints

    if isinstance(error, BuildError):
        sys.stderr.write(render(error, {}) + "\n")
        return error.exit_status
    from layers.errors import LayersError
    from unionfs.errors import UnionError

    if isinstance(error, LayersError | UnionError):
        from builder.advice import hints_for

        sys.stderr.write(render(BuildError(str(error), hints=hints_for(error)), {}) + "\n")
        return 1
    if isinstance(error, OSError):
        sys.stderr.write(render(BuildError(describe_os_error(error), hints=room_hints(error)), {}) + "\n")
        return 1
    raise error
