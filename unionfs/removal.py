"""Removes trees of any depth, following no link.

A directory in a directory is moved up to the root of what is removed before it is emptied, so that neither descriptors
nor the stack grow with the depth. Invariant: what a removal that is cut off leaves lies below the name it was given,
and removing that name again finishes it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Generator

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MINE = 0o700


@contextlib.contextmanager
def open_directory(path: bytes) -> Generator[int]:
    """A descriptor of the directory, closed at the end."""
    fd = os.open(path, _FLAGS & ~os.O_NOFOLLOW)
    try:
        yield fd
    finally:
        os.close(fd)


def remove(dir_fd: int, name: bytes) -> None:
    """What lies at ``name`` in the open directory is gone, a directory with all that is in it.

    Directories of the caller's that he may not write to are made writable for it. Raises FileNotFoundError.
    """
    if not stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=dir_fd)
        return
    root_fd = _open(dir_fd, name)
    try:
        _empty(root_fd)
    finally:
        os.close(root_fd)
    os.rmdir(name, dir_fd=dir_fd)


def _empty(root_fd: int) -> None:
    mark = b".%s-" % uuid.uuid4().hex.encode()
    moved = 0
    pending = _directories(root_fd)
    while pending:
        name = pending.pop()
        fd = _open(root_fd, name)
        try:
            for inner in _directories(fd):
                up = mark + b"%d" % moved
                moved += 1
                _move(fd, inner, root_fd, up)
                pending.append(up)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=root_fd)


def _directories(fd: int) -> list[bytes]:
    """The directories in the open directory, in which nothing else is left."""
    found: list[bytes] = []
    with os.scandir(fd) as entries:
        names = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in names:
        if is_directory:
            found.append(name)
            continue
        try:
            os.unlink(name, dir_fd=fd)
        except PermissionError:
            os.fchmod(fd, _MINE)
            os.unlink(name, dir_fd=fd)
    return found


def _open(dir_fd: int, name: bytes) -> int:
    try:
        return os.open(name, _FLAGS, dir_fd=dir_fd)
    except PermissionError:
        os.chmod(name, _MINE, dir_fd=dir_fd)
        return os.open(name, _FLAGS, dir_fd=dir_fd)


def _move(from_fd: int, name: bytes, to_fd: int, up: bytes) -> None:
    try:
        os.rename(name, up, src_dir_fd=from_fd, dst_dir_fd=to_fd)
    except PermissionError:
        # moving a directory writes to it, since its parent changes
        for fd in (from_fd, to_fd):
            os.fchmod(fd, _MINE)
        os.chmod(name, _MINE, dir_fd=from_fd)
        os.rename(name, up, src_dir_fd=from_fd, dst_dir_fd=to_fd)
