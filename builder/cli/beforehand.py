"""What can be said against the options of a build before anything is built, rather than after it."""

from __future__ import annotations

import argparse
import os
import sys

from builder.errors import UsageError


def check_beforehand(arguments: argparse.Namespace) -> None:
    """What is to be written can be, and of ``--iidfile`` and ``--metadata-file`` nothing of an earlier build is there.

    Raises:
        UsageError: a file cannot be where it is to be written.
    """
    # the directory of files is made where it is missing
    written = [output["dest"] for output in arguments.output if output.get("dest") and output["type"] != "local"]
    for path in written:
        _check_place(f"output {path!r}", path)
    for option, path in (("--iidfile", arguments.iidfile), ("--metadata-file", arguments.metadata_file)):
        if path is not None:
            _check_place(f"{option} {path!r}", path)
            if not os.path.islink(path) and os.path.isfile(path) and not arguments.check:
                # what an earlier build left is not taken for the id of one that fails
                os.unlink(path)


def _check_place(name: str, path: str) -> None:
    if path == "-":
        if sys.stdout.isatty():
            raise UsageError("an archive is not written to a terminal", hints=("dest=PATH names a file",))
        return
    directory = os.path.dirname(path) or "."
    if os.path.isdir(path):
        raise UsageError(f"{name} is a directory")
    if not os.path.isdir(directory):
        raise UsageError(f"{name}: there is no directory {directory!r}")
    if not os.access(path if os.path.exists(path) else directory, os.W_OK):
        raise UsageError(f"{name} cannot be written to")
