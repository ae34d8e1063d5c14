"""Removal of whole trees, whatever their names, depths and permissions.

Invariants: nothing outside the tree is touched: links are removed, never followed; the walk holds two descriptors at a
time, so that depth costs neither descriptors nor stack; mounts inside are not crossed into but make it fail (EBUSY);
what a removal that is cut off leaves lies below the name it was given, and removing that name again finishes it.
"""

from __future__ import annotations

import errno
import os
import stat

from unionfs.namedtuple import NamedTuple

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str | bytes | os.PathLike[str], *, dir_fd: int | None = None) -> None:
    """Nothing of that name is there any more, be it a tree, a file or absent before.

    Directories of the caller's that he may not write to are made writable for it.

    Raises:
        OSError: an entry cannot be removed (EBUSY, EROFS, EACCES of a directory that belongs to somebody else, ESTALE
            of one that was moved away meanwhile).
    """
    try:
        fd = _enter(path, dir_fd)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(path, dir_fd=dir_fd)
        return
    _empty(fd)
    os.rmdir(path, dir_fd=dir_fd)


def _enter(name: str | bytes | os.PathLike[str], dir_fd: int | None) -> int:
    """Opens a directory that may lack the permissions for it. ENOTDIR also for a link."""
    try:
        return os.open(name, _DIRECTORY, dir_fd=dir_fd)
    except PermissionError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
            raise NotADirectoryError from None
        os.chmod(name, stat.S_IRWXU, dir_fd=dir_fd)
        return os.open(name, _DIRECTORY, dir_fd=dir_fd)


class _Step(NamedTuple):
    """From a directory, told by its device and inode number, down to ``name``."""

    name: str
    identity: tuple[int, int]


def _empty(fd: int) -> None:
    """The directory is empty; ``fd`` is closed. Goes down by name and up by ``..``."""
    depth: list[_Step] = []
    try:
        while True:
            below = _remove_files(fd)
            if below is not None:
                depth.append(_Step(below, _identity(fd)))
                fd, last = _enter(below, fd), fd
                os.close(last)
            elif depth:
                name, identity = depth.pop()
                fd, last = os.open("..", _DIRECTORY, dir_fd=fd), fd
                os.close(last)
                if _identity(fd) != identity:
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), name)
                os.rmdir(name, dir_fd=fd)
            else:
                return
    finally:
        os.close(fd)


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _remove_files(fd: int) -> str | None:
    """Removes what is no directory; the name of a directory that is left and could not be removed as empty."""
    if os.fstat(fd).st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.fchmod(fd, stat.S_IRWXU)
    with os.scandir(fd) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=fd)
                continue
            try:
                os.rmdir(entry.name, dir_fd=fd)
            except OSError:
                return entry.name
    return None
