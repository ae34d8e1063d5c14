"""Children that die instead of their n-th change of a file system."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from unionfs import _sys

CHANGING = (
    "chmod", "chown", "copy_file_range", "fchmod", "fchown", "ftruncate", "link", "mkdir", "mknod", "pwrite", "pwritev",
    "removexattr", "rename", "rmdir", "setxattr", "symlink", "truncate", "unlink", "utime", "write",
)  # fmt: skip
DIED = 7


class Life:
    """Ends the process instead of the change number ``changes``."""

    def __init__(self, changes: int) -> None:
        self._left = changes

    def spend(self) -> None:
        if not self._left:
            os._exit(DIED)
        self._left -= 1

    def mortal(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            self.spend()
            return function(*arguments, **keywords)

        return call

    def begin(self) -> None:
        """From now on, in this process, every system call that changes something counts."""
        for name in CHANGING:
            setattr(os, name, self.mortal(getattr(os, name)))
        _sys.renameat2 = self.mortal(_sys.renameat2)
        really_open = os.open

        def opening(path: Any, flags: int, *arguments: Any, **keywords: Any) -> int:
            if flags & (os.O_CREAT | os.O_TRUNC):
                self.spend()
            return really_open(path, flags, *arguments, **keywords)

        os.open = opening  # type: ignore[assignment]  # a function of the same signature, in a child that ends soon


def survives(changes: int, act: Callable[[], object]) -> bool:
    """Whether ``act``, in a child, came to its end within so many changes."""
    pid = os.fork()  # noqa: TID251 - a child that is to die, in a process without threads
    if pid == 0:
        try:
            Life(changes).begin()
            act()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in {0, DIED}, "the operation failed unexpectedly"
    return status == 0
