"""Files of a directory on this machine, in sorted order, as the content hash and COPY want them.

Invariants: no symbolic link is followed; memory is bounded by the largest directory; an entry that was exchanged
between the walk and its opening is refused, so nothing outside the directory is ever read.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import TypeVar

from cache.contenthash import FileState, TreeEntry, carried_xattr

Entry = TypeVar("Entry", bound=TreeEntry)

Visit = Callable[[bytes, bool], tuple[bool, bool]]
"""Asked with path and whether it is a directory: whether the entry is taken, whether a directory is entered."""


class HostEntry:
    """A file of the host as it was when the walk saw it (``cache.contenthash.TreeEntry``)."""

    # what is asked of each entry, several times, is no property: a call for each question is a tenth of a walk
    __slots__ = ("gid", "host_path", "mode", "path", "size", "stat", "uid")

    def __init__(self, path: bytes, host_path: bytes, found: os.stat_result, owner: tuple[int, int] | None) -> None:
        self.path = path
        self.host_path = host_path
        self.stat = found
        self.mode = found.st_mode
        self.size = found.st_size
        # the file's own, or what replaces it
        self.uid, self.gid = owner or (found.st_uid, found.st_gid)

    def __repr__(self) -> str:
        return f"HostEntry({self.path!r}, {self.host_path!r})"

    @property
    def rdev(self) -> int:
        """Device number."""
        return self.stat.st_rdev

    @property
    def nlink(self) -> int:
        """Number of names; one for directories, whose links mean something else."""
        return 1 if stat.S_ISDIR(self.mode) else self.stat.st_nlink

    @property
    def file_id(self) -> tuple[int, int]:
        """Device and inode number."""
        return (self.stat.st_dev, self.stat.st_ino)

    @property
    def atime_ns(self) -> int:
        """Last access, for the copy."""
        return self.stat.st_atime_ns

    @property
    def mtime_ns(self) -> int:
        """Last change of the content, for the copy."""
        return self.stat.st_mtime_ns

    @property
    def state(self) -> FileState:
        """What changes with every change of the file."""
        found = self.stat
        return FileState(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def readlink(self) -> bytes:
        """Target of a symbolic link."""
        return os.readlink(self.host_path)

    def xattrs(self) -> tuple[tuple[bytes, bytes], ...]:
        """Extended attributes that a copy carries, sorted by name; none where the file system has none."""
        try:
            names = os.listxattr(self.host_path, follow_symlinks=False)
            if not names:
                return ()
            return tuple(
                (os.fsencode(name), os.getxattr(self.host_path, name, follow_symlinks=False))
                for name in sorted(names)
                if carried_xattr(name)
            )
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return ()
            raise

    def open(self) -> int:
        """Descriptor for reading the very file that the walk saw. Raises ESTALE when another lies there now."""
        descriptor = os.open(self.host_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        now = os.fstat(descriptor)
        if (now.st_dev, now.st_ino) != (self.stat.st_dev, self.stat.st_ino):
            os.close(descriptor)
            raise OSError(errno.ESTALE, "file was exchanged while it was being read", os.fsdecode(self.host_path))
        return descriptor


def host_entry(path: bytes, host_path: bytes, owner: tuple[int, int] | None = None) -> HostEntry:
    """The entry at ``host_path``, to be known as ``path``. Raises OSError."""
    return HostEntry(path, host_path, os.lstat(host_path), owner)


def walk(
    root: bytes, prefix: bytes = b"", *, owner: tuple[int, int] | None = None, visit: Visit | None = None
) -> Iterator[HostEntry]:
    """Every entry below the directory ``root``, itself not among them; parents before children, names sorted.

    Paths begin with ``prefix``, which is empty or ends in a slash. ``owner`` replaces the owners. ``visit`` is asked
    with the path including the prefix (see ``descend``). Raises OSError for a directory that can't be read.
    """
    return descend(_list(root, prefix, owner), lambda entry: _list(entry.host_path, entry.path + b"/", owner), visit)


def descend(start: Iterator[Entry], inside: Callable[[Entry], Iterator[Entry]], visit: Visit | None) -> Iterator[Entry]:
    """``start`` and, after each directory of it, what is ``inside``, depth first, as far as ``visit`` says.

    A directory that is entered but not taken comes nevertheless when something in it is taken, before that.
    """
    pending = [start]
    entered_directories: list[Entry] = []
    held: list[Entry] = []
    while pending:
        for entry in pending[-1]:
            directory = entry.mode & 0o170000 == stat.S_IFDIR
            taken, entered = (True, directory) if visit is None else visit(entry.path, directory)
            if taken:
                yield from held
                held.clear()
                yield entry
            if directory and entered:
                if not taken:
                    held.append(entry)
                entered_directories.append(entry)
                pending.append(inside(entry))
                break
        else:
            pending.pop()
            left = entered_directories.pop() if entered_directories else None
            if held and held[-1] is left:
                held.pop()


def _list(directory: bytes, prefix: bytes, owner: tuple[int, int] | None) -> Iterator[HostEntry]:
    """Entries of one directory, sorted; entries that vanish meanwhile are left out."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found: list[HostEntry] = []
    base = directory + b"/"
    try:
        with os.scandir(descriptor) as listing:
            for item in listing:
                name = os.fsencode(item.name)
                try:
                    found.append(HostEntry(prefix + name, base + name, item.stat(follow_symlinks=False), owner))
                except FileNotFoundError:
                    continue
    finally:
        os.close(descriptor)
    found.sort(key=_name)
    return iter(found)


def _name(entry: HostEntry) -> bytes:
    return entry.path
