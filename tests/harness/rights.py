"""What a test does by itself and a plain user may not: the test is skipped there, with what it was.

Root of a user namespace makes no devices and no attributes in ``trusted`` (user_namespaces(7)), and where one id exists
gives no file away. A test that needs one of these as a means cannot be run; code of the product that is refused has to
cope, so only calls from within tests/ and layers/testing/ count.

Invariant: root of the machine is refused nothing, so nothing is replaced where tests must not be skipped.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.abilities import is_root_of_the_machine

PROJECT = Path(__file__).resolve().parents[2]
TESTS = (str(PROJECT / "tests"), str(PROJECT / "layers" / "testing"))
REFUSED = {errno.EPERM, errno.EINVAL}
CALLS = {
    "mknod": "makes a device, which root of the machine may",
    "setxattr": "sets an attribute that root of the machine may",
    "chown": "gives a file to an id that does not exist here",
    "lchown": "gives a file to an id that does not exist here",
    "fchown": "gives a file to an id that does not exist here",
    "setgroups": "takes groups, which root of the machine may",
    "seteuid": "becomes an id that does not exist here",
    "setegid": "becomes an id that does not exist here",
    "setresuid": "becomes an id that does not exist here",
    "setresgid": "becomes an id that does not exist here",
}
"""Function of ``os`` → what a test that is refused it does."""


def skip_what_is_refused() -> None:
    """From now on, unless this is root of the machine."""
    if is_root_of_the_machine():
        return
    for name, what in CALLS.items():
        setattr(os, name, _skipping(getattr(os, name), what))


def _skipping(call: Callable[..., Any], what: str) -> Callable[..., Any]:
    @functools.wraps(call)
    def called(*words: Any, **named: Any) -> Any:
        try:
            return call(*words, **named)
        except OSError as error:
            if error.errno in REFUSED and sys._getframe(1).f_code.co_filename.startswith(TESTS):
                pytest.skip(f"not as a plain user: {what}")
            raise

    return called
