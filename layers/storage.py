"""Files of the store: errors that name the path, writes that survive a crash.

Invariants: a file that `replace_file` wrote holds the old or the new content at every instant, also after a crash.
"""

from __future__ import annotations

import errno
import os

from layers.errors import StoreError

_HINTS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the store is on a read-only filesystem",
    errno.EACCES: "the store belongs to somebody else",
    errno.EPERM: "the store may not be changed",
    errno.EEXIST: "something else is there",
}


def store_error(path: str | os.PathLike[str], error: OSError) -> StoreError:
    """The failure of a system call on ``path`` as an error of the store."""
    text = _HINTS.get(error.errno or 0) or (error.strerror or str(error)).lower()
    return StoreError(f'store: "{os.fspath(path)}": {text}')


def make_durable(directory: str | os.PathLike[str]) -> None:
    """The names in the directory are on disk."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: str | os.PathLike[str], content: bytes, temporary: str | os.PathLike[str]) -> None:
    """The file has the content, durable; ``temporary`` is a free name on the same filesystem.

    Raises:
        StoreError: the disk is full and the like; the old content is still there.
    """
    try:
        with open(temporary, "xb", buffering=0) as file:
            try:
                view = memoryview(content)
                while view:
                    view = view[file.write(view) :]
                os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
        make_durable(os.path.dirname(os.fspath(path)))
    except OSError as error:
        raise store_error(path, error) from error
