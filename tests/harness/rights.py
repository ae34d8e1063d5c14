"""What a test does by itself and a plain user may not: the test is skipped there, with what it was.

Root of a user namespace makes no devices and no attributes in ``trusted`` (user_namespaces(7)), and where one id exists
gives no file away. A test that needs one of these as a means cannot be run; code of the product that is refused has to
cope, so only calls from within tests/ and layers/testing/ count, and only what is refused on a file that no union serves.

Invariant: root of the machine is refused nothing, so nothing is replaced where tests must not be skipped.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from harness.abilities import is_root_of_the_machine, refuse

PROJECT = Path(__file__).resolve().parents[2]
TESTS = (str(PROJECT / "tests"), str(PROJECT / "layers" / "testing"))
DEATHS = str(PROJECT / "tests" / "harness" / "deaths.py")
REFUSED = {errno.EPERM, errno.EINVAL}
ON_FILES = {
    "mknod": "makes a device, which root of the machine may",
    "setxattr": "sets an attribute that root of the machine may",
    "chown": "gives a file to an id that does not exist here",
    "lchown": "gives a file to an id that does not exist here",
    "fchown": "gives a file to an id that does not exist here",
}
OF_PROCESSES = {
    "setgroups": "takes groups, which root of the machine may",
    "seteuid": "becomes an id that does not exist here",
    "setegid": "becomes an id that does not exist here",
    "setresuid": "becomes an id that does not exist here",
    "setresgid": "becomes an id that does not exist here",
}
"""Function of ``os`` → what a test that is refused it does."""
BY_NAME = {"fchown": os.chown}


def skip_what_is_refused() -> None:
    """From now on, unless this is root of the machine."""
    if is_root_of_the_machine():
        return
    user = os.geteuid()
    for name, what in (ON_FILES | OF_PROCESSES).items():
        setattr(os, name, _skipping(getattr(os, name), what, user))


def _skipping(call: Callable[..., Any], what: str, user: int) -> Callable[..., Any]:
    """``call``, by whose refusal tests are skipped, but in a child that became somebody other than ``user``."""

    @functools.wraps(call)
    def called(*words: Any, **named: Any) -> Any:
        try:
            return call(*words, **named)
        except OSError as error:
            is_of_a_test = _caller(sys._getframe(1)).startswith(TESTS) and os.geteuid() == user
            if error.errno in REFUSED and is_of_a_test and _is_refused_by_the_kernel(call, words, named):
                refuse(what)
            raise

    return called


def _caller(frame: FrameType) -> str:
    """The file of who called; what harness.deaths counts, somebody else called."""
    back = frame.f_back if frame.f_code.co_filename == DEATHS else None
    return (back or frame).f_code.co_filename


def _is_refused_by_the_kernel(call: Callable[..., Any], words: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """Whether nothing but the kernel refuses it: a new file and a new directory are refused it too."""
    if call.__name__ not in ON_FILES:
        return True
    call = BY_NAME.get(call.__name__, call)
    named = {name: value for name, value in named.items() if name != "dir_fd"}
    with tempfile.TemporaryDirectory() as directory:
        new = os.path.join(directory, "new")
        places = [new] if call.__name__ == "mknod" else [new, directory]
        if call.__name__ != "mknod":
            Path(new).touch()
        return all(_fails(call, place, *words[1:], **named) for place in places)


def _fails(call: Callable[..., Any], *words: Any, **named: Any) -> bool:
    try:
        call(*words, **named)
    except OSError:
        return True
    return False
