"""Paths of an archive, confined to one directory.

The directory is private to the one who extracts: nobody else changes it, so a component that was looked at stays what
it was. Links are followed by hand, component by component: absolute targets begin at the directory, ``..`` stops there,
as the kernel does it under RESOLVE_IN_ROOT (openat2(2)).

Invariants: no descriptor of anything outside the directory is ever opened; a name is never resolved by the kernel
through a component that could be a link.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from layers.errors import ArchiveError
from layers.lowerview import LowerEntry, LowerView
from layers.tar.entry import show
from unionfs.removal import remove_tree
from unionfs.whiteout import PREFIX

_LONGEST_NAME = 255
_MOST_LINKS = 40
_MOST_REMEMBERED = 20_000
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Parts = tuple[bytes, ...]


def split_name(name: bytes, what: str) -> Parts:
    """The components of a name in an archive; leading slashes and ``.`` count for nothing.

    Raises:
        ArchiveError: a component is ``..`` or longer than any file name; a whiteout may be longer by its prefix.
    """
    parts = tuple(part for part in name.split(b"/") if part not in {b"", b"."})
    if b".." in parts:
        raise ArchiveError(f'archive: {what} {show(name)} has a ".." in its path')
    if any(len(part.removeprefix(PREFIX)) > _LONGEST_NAME for part in parts):
        raise ArchiveError(f"archive: {what} {show(name)} has a name over {_LONGEST_NAME} bytes")
    return parts


class ConfinedTree:
    """A directory being filled. Descriptors are valid until the next call; ``close`` gives back the last.

    ``on_new_directory`` is told of parents that had no entry of their own: their path, their parent's descriptor, and
    what the layers below show there.
    """

    def __init__(
        self, root: bytes, lower: LowerView, on_new_directory: Callable[[Parts, int, LowerEntry | None], None]
    ) -> None:
        self.root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lower = lower
        self._on_new_directory = on_new_directory
        self._real: set[Parts] = set()
        self._last: tuple[Parts, Parts] | None = None
        self._last_fd = -1

    def close(self) -> None:
        """All descriptors are closed. Idempotent."""
        self._forget_last()
        if self.root_fd >= 0:
            os.close(self.root_fd)
            self.root_fd = -1

    def parent(self, parts: Parts) -> tuple[int, Parts]:
        """Descriptor and physical path of the directory that holds the last of ``parts``; it is made when missing.

        A link on the way is followed inside the directory, also one that only the layers below have.

        Raises:
            ArchiveError: a component is no directory, or links go round in circles.
        """
        wanted = parts[:-1]
        if self._last is not None and self._last[0] == wanted:
            return self._last_fd, self._last[1]
        real = self._walk(wanted, create=True)
        if real is None:
            raise ArchiveError(f"archive: {show(b'/'.join(parts))} lies under something that is no directory")
        return self._remember(wanted, real)

    def existing_parent(self, parts: Parts) -> int | None:
        """As ``parent``, but nothing is made: None when the directory is not there."""
        real = self._walk(parts[:-1], create=False)
        return None if real is None else self._remember(parts[:-1], real)[0]

    def open_directory(self, parts: Parts) -> int | None:
        """A readable descriptor of the directory at this physical path; None when there is none. The caller closes."""
        if parts and not self._is_real_directory(parts[:-1]):
            return None
        try:
            return os.open(b"/".join(parts) or b".", _DIRECTORY & ~os.O_PATH, dir_fd=self.root_fd)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def remove(self, fd: int, name: bytes) -> None:
        """Nothing of that name is in the directory ``fd``, which stays open."""
        remove_tree(name, dir_fd=fd)
        self._real.clear()

    # -- the walk -----------------------------------------------------------------------------------------------------
    def _walk(self, parts: Parts, *, create: bool) -> Parts | None:
        """The physical path of a directory; None when something on the way is no directory, or missing."""
        if parts in self._real:
            return parts
        real: Parts = ()
        pending = list(reversed(parts))
        links = 0
        while pending:
            part = pending.pop()
            if part == b"..":
                real = real[:-1]
                continue
            below = (*real, part)
            if below not in self._real:
                target = self._enter(below, create=create)
                if target is None:
                    return None
                if target:
                    links += 1
                    if links > _MOST_LINKS:
                        raise ArchiveError(f"archive: {show(b'/'.join(parts))} goes through more than 40 links")
                    real = () if target.startswith(b"/") else real
                    pending.extend(piece for piece in reversed(target.split(b"/")) if piece not in {b"", b"."})
                    continue
            real = below
        return real

    def _enter(self, path: Parts, *, create: bool) -> bytes | None:
        """``b""`` when the path, whose parent is real, is a directory now; the target when it is a link; else None."""
        name = b"/".join(path)
        try:
            mode = os.stat(name, dir_fd=self.root_fd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return self._missing(path, name) if create else None
        if stat.S_ISLNK(mode):
            return os.readlink(name, dir_fd=self.root_fd)
        if not stat.S_ISDIR(mode):
            return None
        self._note_real(path)
        return b""

    def _missing(self, path: Parts, name: bytes) -> bytes:
        """What the layers below have there is followed when it is a link; otherwise a directory is made."""
        hidden = self._has(b"/".join((*path[:-1], PREFIX + path[-1])))
        below = None if hidden else self._lower.find(path)
        if below is not None and below.link_target:
            return below.link_target
        os.mkdir(name, 0o700, dir_fd=self.root_fd)
        parent = os.open(b"/".join(path[:-1]) or b".", _DIRECTORY, dir_fd=self.root_fd)
        try:
            self._on_new_directory(path, parent, below if below is not None and below.is_directory else None)
        finally:
            os.close(parent)
        self._note_real(path)
        return b""

    def _has(self, name: bytes) -> bool:
        try:
            os.stat(name, dir_fd=self.root_fd, follow_symlinks=False)
        except OSError:
            return False
        return True

    def _is_real_directory(self, parts: Parts) -> bool:
        """Whether the path leads there without a link. What is known to be real has real parents."""
        known = len(parts)
        while known and parts[:known] not in self._real:
            known -= 1
        return all(self._enter(parts[:count], create=False) == b"" for count in range(known + 1, len(parts) + 1))

    def _note_real(self, path: Parts) -> None:
        if len(self._real) >= _MOST_REMEMBERED:
            self._real.clear()
        self._real.add(path)

    def _remember(self, wanted: Parts, real: Parts) -> tuple[int, Parts]:
        """Opens the real directory and keeps it for the entries that follow."""
        self._forget_last()
        self._last_fd = os.open(b"/".join(real) or b".", _DIRECTORY, dir_fd=self.root_fd)
        self._last = (wanted, real)
        return self._last_fd, real

    def _forget_last(self) -> None:
        if self._last_fd >= 0:
            os.close(self._last_fd)
            self._last_fd = -1
        self._last = None
