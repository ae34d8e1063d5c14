"""A file on its way: it appears under its name only when it is whole.

::

    unnamed (O_TMPFILE) ── whole ──▶ <name>.<owner>.partial ──▶ <name>

A process that is killed leaves nothing: the kernel drops a file without a name. Between its two names, and where the
filesystem knows no unnamed files, it lies beside its place under a name that carries its owner, and goes with the next
file of that name.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import IO

from builder.errors import BuildError
from layers.ownership import is_abandoned, temporary_name, this_process

_SUFFIX = ".partial"
# what a filesystem, or a kernel, says that knows no unnamed files: open(2)
_UNKNOWN = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})


@contextmanager
def destination(path: str, option: str = "output") -> Generator[IO[bytes]]:
    """A stream that becomes the file at ``path`` when the block ends well, and leaves nothing when it does not.

    ``-`` is stdout. A link leads to the file that is replaced; what is no regular file is written to as it lies.

    Raises:
        BuildError: the disk is full, nobody reads on, and the like; the message begins with ``option``.
    """
    if path == "-":
        try:
            yield sys.stdout.buffer
            sys.stdout.flush()
        except OSError as error:
            raise BuildError(f"{option} '-': {os.strerror(error.errno or 0).lower()}") from error
        return
    target = os.path.realpath(path)
    partial = f"{target}.{temporary_name(this_process())}{_SUFFIX}"
    try:
        if _is_special(path):
            with open(path, "wb") as file:
                yield file
            return
        _sweep(target)
        with _open(partial) as file:
            yield file
            file.flush()
            _name(file.fileno(), partial)
        os.rename(partial, target)
    except OSError as error:
        raise BuildError(f"{option} {path!r}: {os.strerror(error.errno or 0).lower()}") from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(partial)


def _open(partial: str) -> IO[bytes]:
    """A new file in the directory of ``partial``: without a name, or of this one."""
    try:
        fd = os.open(os.path.dirname(partial), os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
        return open(partial, "xb")
    return open(fd, "wb")


def _name(fd: int, partial: str) -> None:
    """The open file has the name; one that has a name already keeps it."""
    if os.fstat(fd).st_nlink == 0:
        # given a descriptor of a directory, Python calls linkat(2), which follows the link to the file
        os.link(f"/proc/self/fd/{fd}", partial, src_dir_fd=fd, follow_symlinks=True)


def _sweep(target: str) -> None:
    """What killed processes wrote on the way to ``target`` is gone."""
    directory, name = os.path.split(target)
    for found in os.listdir(directory):
        owner = found.removeprefix(f"{name}.").removesuffix(_SUFFIX)
        if found == f"{name}.{owner}{_SUFFIX}" and is_abandoned(owner, 0):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, found))


def _is_special(path: str) -> bool:
    """Whether what lies at ``path`` is to be written to as it is: /dev/stdout, a device, a FIFO."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
