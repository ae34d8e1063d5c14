"""``unionmount``: mounts a union of directories.

Returns 0 once the union answers requests, 1 with one line on stderr when it cannot be mounted, 2 when the words on
the command line make no sense.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from unionfs import daemon
from unionfs.cli.options import Transport, parse_options
from unionfs.cli.running import UsageError, run
from unionfs.cli.usage import UNIONMOUNT
from unionfs.daemon import DaemonCall
from unionfs.errors import reason
from unionfs.mounting import MountError
from unionfs.mountspec import MountSpec
from unionfs.namedtuple import NamedTuple

_FLAGS = frozenset("fd")
_SHORT = "dirs="
_DEAD = frozenset({errno.ENOTCONN, errno.ECONNABORTED})


class _Words(NamedTuple):
    """The command line, sorted by kind."""

    options: list[str]
    positional: list[str]
    foreground: bool
    trace: bool


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    return run("unionmount", UNIONMOUNT, sys.argv[1:] if arguments is None else arguments, _act)


def _act(words: list[str]) -> None:
    call, foreground = _call(words)
    if foreground:
        daemon.run(call, daemon.to_stderr, lambda: None)
    else:
        daemon.start(call)


def _call(arguments: list[str]) -> tuple[DaemonCall, bool]:
    words = _sort(arguments)
    if not words.positional or words.positional[-1].startswith(_SHORT):
        raise UsageError("mount point is missing")
    *sources, mount_point = words.positional
    options = [source for source in sources if source.startswith(_SHORT)] + words.options
    if len(sources) > 1 and not all(source.startswith(_SHORT) for source in sources):
        raise UsageError(f"expected at most a source and a mount point, got {' '.join(words.positional)!r}")
    request = parse_options(options, privileged=os.geteuid() == 0)
    call = DaemonCall(
        MountSpec(request.branches, request.union),
        _directory(mount_point),
        request.mount,
        through_pyfuse3=request.transport is Transport.PYFUSE3,
        timeout_seconds=request.timeout_seconds,
        trace=words.trace,
        snapshot_directory=request.snapshot_directory,
        at=request.at,
    )
    return call, words.foreground or words.trace


def _sort(arguments: list[str]) -> _Words:
    options: list[str] = []
    positional: list[str] = []
    flags: set[str] = set()
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            positional.extend(rest)
        elif len(word) > 1 and word[0] == "-" and _FLAGS.issuperset(word[1:]):
            flags.update(word[1:])
        elif word == "-o":
            value = next(rest, None)
            if value is None:
                raise UsageError("option -o needs a list of options")
            options.append(value)
        elif word.startswith("-o"):
            options.append(word[2:])
        elif word.startswith("-") and len(word) > 1:
            raise UsageError(f"option {word!r} is unknown")
        else:
            positional.append(word)
    return _Words(options, positional, "f" in flags, "d" in flags)


def _directory(text: str) -> bytes:
    path = os.path.realpath(os.fsencode(text))
    try:
        status = os.stat(path)
    except OSError as error:
        hint = f"a union whose daemon has ended is mounted there: umount {text!r}" if error.errno in _DEAD else ""
        raise MountError(f"mount point {text!r}: {reason(error)}", hint) from error
    if not stat.S_ISDIR(status.st_mode):
        raise MountError(f"mount point {text!r}: not a directory")
    return path


if __name__ == "__main__":
    sys.exit(main())
