"""What holds before a command line is read, however the process was started.

Invariants from then on: descriptors 0 to 2 are open, so that no file of the store is ever taken for one of them; names
and texts are UTF-8 whatever the locale says, and what is none passes unharmed; ``HOME`` is absolute, and so are the
XDG base directories that are set (XDG Base Directory Specification, "Basics": a relative one counts as not set).
Imported only where something of it does not hold.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping, Sequence

from builder.cli.main import BASE_DIRECTORIES

_UTF8 = ("-X", "utf8")


def settle() -> None:
    """The invariants hold. In a locale that is not UTF-8 the interpreter begins again in its UTF-8 mode."""
    if sys.getfilesystemencoding() != "utf-8":
        words = begin_again(sys.executable, sys.orig_argv)
        os.execv(words[0], words)  # noqa: S606 - the same program, with the words it was given
    _open_missing()
    settle_directories(os.environ)


def begin_again(interpreter: str, words: Sequence[str]) -> list[str]:
    """The command line that does the same in the UTF-8 mode. It is no loop: that mode's encoding is UTF-8."""
    return [interpreter, *_UTF8, *words[1:]]


def _open_missing() -> None:
    """A stdin that was closed is empty; writing to a closed stdout fails as it would; a closed stderr loses all."""
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # the lowest number that is free is this one
            os.set_inheritable(os.open(os.devnull, flags), True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False, encoding="utf-8", buffering=1)  # noqa: SIM115 - for as long as the process lives


def settle_directories(environment: MutableMapping[str, str]) -> None:
    """Directories of the user are absolute in ``environment``, or not there; the home is that of the list of users."""
    for name in BASE_DIRECTORIES:
        if not os.path.isabs(environment.get(name, "/")):
            del environment[name]
    if not os.path.isabs(environment.get("HOME", "")):
        from pwd import getpwuid

        try:
            environment["HOME"] = getpwuid(os.geteuid()).pw_dir
        except KeyError:
            environment["HOME"] = "/"
