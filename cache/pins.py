"""What running builds rely on, so that nobody prunes it under them.

::

    pins/lock        shared while a build looks for results and pins them; exclusive while somebody prunes
    pins/<name>      chain ids, one a line, of a build that holds the file's lock

Invariants: what a build found and pinned under the shared lock stays until the build closes its pins or dies, however
it dies (``flock(2)``); a file whose lock is free belongs to nobody and is removed by the next pruning. Where the
directory can't be written nothing is pinned: nobody can prune there either.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress

DIRECTORY = "pins"
_LOCK = "lock"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class Pins:
    """The pins of one build in the store directory ``root``; of several threads one at a time uses them."""

    def __init__(self, root: str) -> None:
        self._directory = os.path.join(root, DIRECTORY)
        self._path = ""
        self._descriptor = -1

    @contextmanager
    def looking(self) -> Generator[None]:
        """What is found inside the block is there until it is left, and longer when it is pinned inside of it."""
        descriptor = _lock(self._directory, fcntl.LOCK_SH)
        try:
            yield
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def pin(self, chain_ids: Iterable[str]) -> None:
        """These stacks of layers stay until `close`."""
        lines = "".join(f"{chain_id}\n" for chain_id in chain_ids).encode()
        if not lines:
            return
        if self._descriptor < 0:
            self._create()
        if self._descriptor >= 0:
            os.write(self._descriptor, lines)

    def close(self) -> None:
        """Nothing is pinned. Idempotent."""
        if self._descriptor >= 0:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            os.close(self._descriptor)
            self._descriptor = -1

    def _create(self) -> None:
        self._path = os.path.join(self._directory, f"{os.getpid()}-{os.urandom(6).hex()}")
        try:
            os.makedirs(self._directory, exist_ok=True)
            self._descriptor = os.open(self._path, _FLAGS | os.O_EXCL | os.O_APPEND, 0o600)
        except OSError:
            return
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)


@contextmanager
def pruning(root: str) -> Generator[frozenset[str]]:
    """The chain ids that running builds have pinned; nobody looks for results inside the block."""
    directory = os.path.join(root, DIRECTORY)
    descriptor = _lock(directory, fcntl.LOCK_EX)
    try:
        yield frozenset(_pinned(directory)) if descriptor >= 0 else frozenset()
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _pinned(directory: str) -> Generator[str]:
    for name in os.listdir(directory):
        if name == _LOCK:
            continue
        path = os.path.join(directory, name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        with open(descriptor, encoding="ascii") as file:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield from file.read().split()
            else:
                with suppress(FileNotFoundError):
                    os.unlink(path)


def _lock(directory: str, kind: int) -> int:
    """Descriptor of the locked file, -1 where there can be none."""
    try:
        os.makedirs(directory, exist_ok=True)
        descriptor = os.open(os.path.join(directory, _LOCK), _FLAGS, 0o600)
    except OSError:
        return -1
    fcntl.flock(descriptor, kind)
    return descriptor
