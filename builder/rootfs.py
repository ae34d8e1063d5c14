"""The root of an image as steps see it: its branches merged, read in this process without a mount.

Invariants: no path leads out of the root, links are followed inside it; nothing is written here (``builder.upper``
does that); memory is bounded by the largest directory, since nodes are given back when a path is left; one thread at
a time is inside the union.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Self

from builder import identities, paths
from builder.backing import Backing
from builder.identities import ResolvedUser
from builder.rootentry import RootEntry
from cache.contenthash import FileState, carried_xattr
from cache.hosttree import Visit, descend
from unionfs.types import ROOT_INO, Attr, Caller, Ino

if TYPE_CHECKING:
    from unionfs.ops import FilesystemOps

_CALLER = Caller(uid=0, gid=0, pid=0)
_MOST_BYTES = 16 << 20
PASSWD = b"etc/passwd"
GROUP = b"etc/group"


class RootFs:
    """Files of the merged view ``union``, which stays the caller's. Paths follow ``builder.paths``.

    ``backing`` are its branches when they never change, as those of committed layers: it spares reading known files.
    """

    def __init__(self, union: FilesystemOps, backing: Backing | None = None) -> None:
        self._union = union
        self._backing = backing
        self._lock = RLock()
        self._trail: list[tuple[bytes, Ino]] = []

    def close(self) -> None:
        """No node of the union is held. Idempotent; the union stays open."""
        with self._lock:
            self._leave(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def lstat(self, path: bytes) -> Attr | None:
        """Attributes of what lies at ``path``, of a link itself; None when nothing does."""
        try:
            with self._node(path) as attr:
                return attr
        except (FileNotFoundError, NotADirectoryError):
            return None

    def resolve(self, path: str | bytes, *, last: bool = True) -> bytes:
        """The place ``path`` leads to, links followed inside the root; it need not exist. Raises OSError(ELOOP)."""
        return paths.follow(os.fsencode(path), self._link_target, last=last)

    def find(self, path: str | bytes) -> RootEntry | None:
        """What ``path`` leads to, links followed; None when it leads nowhere. Raises OSError(ELOOP)."""
        location = self.resolve(path)
        attr = self.lstat(location)
        return None if attr is None else RootEntry(self, location, location, attr)

    def names(self, path: bytes) -> list[bytes]:
        """Sorted names in the directory ``path``. Raises OSError."""
        return [name for name, _ in self._list(path)]

    def walk(self, path: bytes, prefix: bytes = b"", visit: Visit | None = None) -> Iterator[RootEntry]:
        """Every entry below the directory ``path``, itself not among them: see ``cache.hosttree.walk``."""
        return descend(
            self._entries(path, prefix), lambda entry: self._entries(entry.location, entry.path + b"/"), visit
        )

    def read_file(self, path: str | bytes, most_bytes: int = _MOST_BYTES) -> bytes | None:
        """Content of the regular file that ``path`` leads to; None when it leads nowhere.

        Raises OSError: EINVAL for what is no regular file, EFBIG for more than ``most_bytes``.
        """
        entry = self.find(path)
        if entry is None:
            return None
        name = paths.shown(entry.location)
        if not stat.S_ISREG(entry.mode):
            raise OSError(errno.EINVAL, "expected a regular file", name)
        if entry.size > most_bytes:
            raise OSError(errno.EFBIG, f"expected at most {most_bytes} bytes, got {entry.size}", name)
        with open(entry.open(), "rb") as file:
            return file.read(most_bytes)

    def resolve_user(self, text: str) -> ResolvedUser:
        """Who ``USER text`` is in this image. Raises UnknownIdentityError."""
        passwd, group = self._identities()
        return identities.resolve_user(text, passwd, group)

    def resolve_owner(self, text: str) -> tuple[int, int]:
        """User and group that ``--chown=text`` gives files in this image. Raises UnknownIdentityError."""
        if not identities.names_identity(text):
            return identities.resolve_owner(text, (), ())
        passwd, group = self._identities()
        return identities.resolve_owner(text, passwd, group)

    def readlink(self, path: bytes) -> bytes:
        """Target of the link at ``path``."""
        with self._node(path) as attr:
            return self._union.readlink(attr.ino)

    def xattrs(self, path: bytes) -> tuple[tuple[bytes, bytes], ...]:
        """Extended attributes at ``path`` that a copy carries, sorted by name."""
        with self._node(path) as attr:
            names = sorted(name for name in self._union.listxattr(attr.ino) if carried_xattr(os.fsdecode(name)))
            return tuple((name, self._union.getxattr(attr.ino, name)) for name in names)

    def every_xattr(self, path: bytes) -> tuple[tuple[bytes, bytes], ...]:
        """All extended attributes at ``path`` but the union's own marks, sorted by name."""
        with self._node(path) as attr:
            return tuple(
                (name, self._union.getxattr(attr.ino, name)) for name in sorted(self._union.listxattr(attr.ino))
            )

    def modes(self, path: bytes) -> dict[bytes, int]:
        """``st_mode`` of every name in the directory ``path``."""
        return {name: attr.mode for name, attr in self._list(path)}

    def open_file(self, path: bytes) -> int:
        """Descriptor for reading the regular file at ``path``; the caller closes it."""
        union = self._union
        with self._node(path) as attr:
            handle = union.open(attr.ino, os.O_RDONLY, _CALLER)
            try:
                return os.open(f"/proc/self/fd/{union.content_fd(handle)}", os.O_RDONLY | os.O_CLOEXEC)
            finally:
                union.release(handle)

    def file_state(self, path: bytes, attr: Attr) -> FileState | None:
        """What tells the regular file at ``path`` (with ``attr``) from every other content; None: nothing does."""
        return None if self._backing is None else self._backing.state(path, attr)

    def _identities(self) -> tuple[tuple[identities.PasswdEntry, ...], tuple[identities.GroupEntry, ...]]:
        passwd = identities.parse_passwd(self.read_file(PASSWD) or b"")
        return passwd, identities.parse_group(self.read_file(GROUP) or b"")

    def _link_target(self, path: bytes) -> bytes | None:
        try:
            with self._node(path) as attr:
                return self._union.readlink(attr.ino) if stat.S_ISLNK(attr.mode) else None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _entries(self, path: bytes, prefix: bytes) -> Iterator[RootEntry]:
        return iter([RootEntry(self, prefix + name, paths.join(path, name), attr) for name, attr in self._list(path)])

    def _list(self, path: bytes) -> list[tuple[bytes, Attr]]:
        """Names and attributes in the directory ``path``, sorted by name."""
        with self._node(path) as attr:
            handle = self._union.opendir(attr.ino)
            try:
                found = self._union.readdir(handle, 0, attributes=True)
                return sorted((entry.name, entry.attr) for entry in found if entry.attr is not None)
            finally:
                self._union.releasedir(handle)

    @contextmanager
    def _node(self, path: bytes) -> Generator[Attr]:
        """Attributes of what lies at ``path``; its node is held inside the block. Raises OSError."""
        with self._lock:
            if not path:
                yield self._union.getattr(ROOT_INO, None)
                return
            directory, _, name = path.rpartition(b"/")
            attr = self._union.lookup(self._enter(directory), name, _CALLER)
            try:
                yield attr
            finally:
                self._union.forget(attr.ino, 1)

    def _enter(self, directory: bytes) -> Ino:
        """Node of ``directory``, held until another directory is entered that is not below it."""
        parts = directory.split(b"/") if directory else []
        shared = _common(parts, [name for name, _ in self._trail])
        self._leave(shared)
        for part in parts[shared:]:
            attr = self._union.lookup(self._trail[-1][1] if self._trail else ROOT_INO, part, _CALLER)
            self._trail.append((part, attr.ino))
            if not stat.S_ISDIR(attr.mode):
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), paths.shown(directory))
        return self._trail[-1][1] if self._trail else ROOT_INO

    def _leave(self, depth: int) -> None:
        """The trail is ``depth`` long at most."""
        while len(self._trail) > depth:
            self._union.forget(self._trail.pop()[1], 1)


@contextmanager
def open_root(branches: Sequence[Path]) -> Generator[RootFs | None]:
    """The merged view of ``branches``, top first, read-only, inside the block; None when there are none.

    Raises UnionError when a branch is missing.
    """
    if not branches:
        yield None
        return
    from unionfs.branch import Branch, BranchStack
    from unionfs.types import Access, UnionOptions
    from unionfs.union import Union

    stack = BranchStack(tuple(Branch(os.fsencode(path), Access.RO) for path in branches))
    union = Union(stack, UnionOptions(read_only=True))
    try:
        with RootFs(union, Backing(branches)) as root:
            yield root
    finally:
        union.close()


def _common(one: list[bytes], other: Iterable[bytes]) -> int:
    """How many first members are the same."""
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count
