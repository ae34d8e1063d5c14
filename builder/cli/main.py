"""The ``pybuild`` command: finds the sub-command, runs it, turns errors into an exit status.

Exit status: 0; a RUN step's own status when it fails; 1 other errors; 2 usage; 130 interrupted (docs/cli.md).
A call whose first word is no sub-command is a build, as ``pybuild -t img .``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

INTERRUPTED_STATUS = 130
_COMMANDS = {
    "build": ("builder.cli.build", "build an image from a Dockerfile"),
    "images": ("builder.cli.images", "list the images of the store"),
    "inspect": ("builder.cli.images", "show an image's configuration as JSON"),
    "history": ("builder.cli.images", "show what an image's layers were made by"),
    "tag": ("builder.cli.images", "give an image one more name"),
    "rmi": ("builder.cli.images", "remove an image's name, and what nothing else needs"),
    "pull": ("builder.cli.transfer", "fetch an image from a registry"),
    "push": ("builder.cli.transfer", "send an image to a registry"),
    "load": ("builder.cli.transfer", "read images from an archive"),
    "save": ("builder.cli.transfer", "write an image to an archive"),
    "import": ("builder.cli.transfer", "make an image of a root filesystem's tar"),
    "login": ("builder.cli.transfer", "store credentials for a registry"),
    "logout": ("builder.cli.transfer", "remove credentials for a registry"),
    "run": ("builder.cli.run", "run a command in an image"),
    "cache": ("builder.cli.cache", "list, measure or prune what builds have stored"),
}
"""Sub-command → module with a function ``command_NAME(arguments) -> status``, and its one line of help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status of the command line; messages are on stderr, data on stdout."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _dispatch(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("pybuild: interrupted\n")
        return INTERRUPTED_STATUS
    except BrokenPipeError:
        # nobody reads on: not an error, but Python must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - what is not expected is raised again
        return _report(error)
    return status


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in {"-h", "--help", "help"}:
        sys.stdout.write(_help())
        return 0 if words else 2
    if words[0] in {"-V", "--version", "version"}:
        sys.stdout.write(f"pybuild {_version()}\n")
        return 0
    name = words.pop(0) if words[0] in _COMMANDS else "build"
    module = import_module(_COMMANDS[name][0])
    command: Callable[[Sequence[str]], int] = getattr(module, f"command_{name}")
    return command(words)


def _report(error: Exception) -> int:
    """One message on stderr for an expected error; anything else is a defect and keeps its traceback."""
    from builder.errors import BuildError, describe_os_error, render

    if isinstance(error, BuildError):
        sys.stderr.write(render(error, {}) + "\n")
        return error.exit_status
    from layers.errors import LayersError
    from unionfs.errors import UnionError

    if isinstance(error, LayersError | UnionError):
        sys.stderr.write(f"error: {error}\n")
        return 1
    if isinstance(error, OSError):
        sys.stderr.write(f"error: {describe_os_error(error)}\n")
        return 1
    raise error


def _help() -> str:
    width = max(len(name) for name in _COMMANDS)
    commands = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in _COMMANDS.items())
    return (
        "usage: pybuild [build] [OPTIONS] CONTEXT\n       pybuild COMMAND [OPTIONS]\n\n"
        "Builds OCI images from Dockerfiles, without a daemon.\n\n"
        f"commands:\n{commands}\n\n"
        "example:\n  pybuild -t hello examples/Dockerfiles/hello\n\n"
        "pybuild COMMAND --help tells a command's options.\n"
    )


def _version() -> str:
    from importlib.metadata import version

    return version("pybuild")
