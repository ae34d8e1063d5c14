"""One build of one step at a time, over all processes on this machine.

A lock is a ``flock(2)`` on a file of its own, so that it ends with its process however that ends. Invariants: the
file a holder has locked is the one under the name (a holder removes it at the end; whoever locked a removed file
tries again); waiting can be given up.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

from cache.errors import LockCancelledError

_FIRST_WAIT_SECONDS = 0.005
_LONGEST_WAIT_SECONDS = 0.1
_SUFFIX = ".lock"


@contextmanager
def hold(
    directory: str,
    name: str,
    *,
    cancelled: Callable[[], bool] = lambda: False,
    waiting: Callable[[], None] | None = None,
) -> Generator[bool]:
    """The lock ``name`` is held inside the block; the value tells whether somebody else held it before.

    ``waiting`` is called once when that is so; ``cancelled`` is asked at least every 0.1 s while waiting.
    Raises LockCancelledError, and OSError when ``directory`` can't be written.
    """
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, name + _SUFFIX)
    waited = False
    pause_seconds = _FIRST_WAIT_SECONDS
    while (descriptor := _try_lock(path)) is None:
        if not waited and waiting is not None:
            waiting()
        waited = True
        if cancelled():
            raise LockCancelledError(f"lock {path!r} was not awaited")
        time.sleep(pause_seconds)
        pause_seconds = min(pause_seconds * 2, _LONGEST_WAIT_SECONDS)
    try:
        yield waited
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)
        os.close(descriptor)


def sweep(directory: str) -> None:
    """The files of holders that were killed are gone; those of living ones stay."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            descriptor = _try_lock(path) if name.endswith(_SUFFIX) else None
            if descriptor is not None:
                os.unlink(path)
                os.close(descriptor)


def _try_lock(path: str) -> int | None:
    """Descriptor of the locked file under ``path``, or None while another holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
