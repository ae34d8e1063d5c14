"""Whether the way to a path leads through a union, found out by the process that serves it.

To touch a path of the mount is to wait for an answer of the process that waits. So the way is gone name by name, and
before a directory is entered the kernel is asked, through /proc, on which mount it lies. Invariant: no request ever
reaches the file system asked about.
"""

from __future__ import annotations

import errno
import os

from unionfs.errors import BranchInsideError
from unionfs.mountinfo import read_mounts

_LINKS = 40
_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def check_outside(path: bytes, device: tuple[int, int]) -> None:
    """The way to the absolute ``path`` does not lead through the file system ``device``, major and minor.

    Raises:
        BranchInsideError: it does.
    """
    own = {entry.mount_id for entry in read_mounts() if entry.device == device}
    pending = path.split(b"/")[::-1]
    links = 0
    way = [os.open(b"/", _FLAGS)]
    try:
        while pending:
            name = pending.pop()
            if name in {b"", b"."}:
                continue
            if name == b"..":
                if len(way) > 1:
                    os.close(way.pop())
                continue
            fd = _open(way[-1], name)
            if fd is None:
                return  # whoever opens the branch says what is wrong
            if _mount_of(fd) in own:
                os.close(fd)
                raise BranchInsideError(path, "lies inside the union itself")
            target = _read_link(fd)
            if target is not None:
                os.close(fd)
                links += 1
                if links > _LINKS:
                    return
                if target.startswith(b"/"):
                    _leave(way, 1)
                pending += target.split(b"/")[::-1]
                continue
            way.append(fd)
    finally:
        _leave(way, 0)


def _leave(way: list[int], depth: int) -> None:
    while len(way) > depth:
        os.close(way.pop())


def _open(directory_fd: int, name: bytes) -> int | None:
    try:
        return os.open(name, _FLAGS, dir_fd=directory_fd)
    except OSError:
        return None


def _read_link(fd: int) -> bytes | None:
    """Target of the link behind the descriptor, None when it is no link."""
    try:
        return os.readlink(b"", dir_fd=fd)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.EINVAL}:
            return None
        raise


def _mount_of(fd: int) -> int:
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(b"mnt_id:"))
