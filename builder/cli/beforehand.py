"""What can be said against the options of a build before anything is built, rather than after it."""

from __future__ import annotations

import argparse
import os

from builder.cli.arguments import UNLIMITED
from builder.errors import UsageError


def check_beforehand(arguments: argparse.Namespace) -> None:
    """The limits agree, and what is to be written can be.

    Raises:
        UsageError: they do not, or a file cannot be where it is to be written.
    """
    _check_swap(arguments.memory, arguments.memory_swap)
    # the directory of files is made where it is missing
    written = [output["dest"] for output in arguments.output if output.get("dest") and output["type"] != "local"]
    for path in written:
        _check_place(f"output {path!r}", path)
    for option, path in (("--iidfile", arguments.iidfile), ("--metadata-file", arguments.metadata_file)):
        if path is not None:
            _check_place(f"{option} {path!r}", path)


def _check_swap(memory: int | None, swap: int | None) -> None:
    if swap is not None and memory is None:
        raise UsageError("--memory-swap: expected --memory beside it")
    if swap not in {None, UNLIMITED} and (swap or 0) < (memory or 0):
        raise UsageError("--memory-swap: expected no less than --memory, since it counts memory and swap together")


def _check_place(name: str, path: str) -> None:
    if path == "-":
        return
    directory = os.path.dirname(path) or "."
    if os.path.isdir(path):
        raise UsageError(f"{name} is a directory")
    if not os.path.isdir(directory):
        raise UsageError(f"{name}: there is no directory {directory!r}")
    if not os.access(path if os.path.exists(path) else directory, os.W_OK):
        raise UsageError(f"{name} cannot be written to")
