"""The fresh branch of a step, written below the merged view of the branches under it.

Steps that only add (COPY, ADD, WORKDIR) need no union to write through: what they put into the branch hides what lies
below, and a directory merges with the one below as soon as it is there. So files are made directly in the branch, at
the speed of the file system below. What a step took away is hidden by a mark (`Upper.hide`).

Invariants: the branch was empty at first; a directory that lies below keeps its metadata unless
new one is given, and its times unless a name is added to it; nothing outside the branch is ever written, and no link
is followed, whatever the names; names and attributes that would be marks of a union are refused or left out.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from builder import paths
from builder.filecopy import copy_content
from builder.rootfs import RootFs
from builder.trail import (
    Attributes,
    OpenDirectory,
    Trail,
    attributes_below,
    check_name,
    refuse_mark,
    set_xattrs,
)
from unionfs.removal import remove_tree
from unionfs.types import WhiteoutForm
from unionfs.whiteout import PREFIX, make_device, written_form

if TYPE_CHECKING:
    from cache.contenthash import TreeEntry

_MARK_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class UnreadableError(Exception):
    """A source can't be opened; the cause says why."""


class Upper:
    """The branch directory ``upper`` of a step whose other branches ``view`` shows merged (None: there are none).

    Paths are canonical (``RootFs.resolve``). Use it as a context manager: directories get their metadata when they are
    left, all of them by ``close``.
    """

    def __init__(self, upper: Path, view: RootFs | None) -> None:
        self._view = view
        self._trail = Trail(upper, view)

    def close(self) -> None:
        """Every directory has its metadata and nothing is open. Idempotent. Raises the first OSError met."""
        self._trail.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def mode_at(self, path: bytes) -> int | None:
        """``st_mode`` of what lies at ``path`` in the merged view, of a link itself; None when nothing does."""
        fd = self._trail.root_fd
        hidden = False
        place = b""
        for name in path.split(b"/"):
            place = paths.join(place, name)
            try:
                mode = os.stat(place or b".", dir_fd=fd, follow_symlinks=False).st_mode
            except FileNotFoundError:
                hidden = hidden or place in self._trail.replaced
                break
            if place == path:
                return mode
            if not stat.S_ISDIR(mode):
                return None
            hidden = hidden or place in self._trail.replaced
        found = self._view.lstat(path) if self._view is not None and not hidden else None
        return None if found is None else found.mode

    def directory(self, path: bytes, attributes: Attributes) -> None:
        """A directory lies at ``path``; new ones on the way have ``attributes``, those that were there keep theirs.

        Raises NotADirectoryError when something else lies on the way, ReservedNameError.
        """
        self._trail.enter(path, attributes)

    def put_directory(self, path: bytes, attributes: Attributes) -> None:
        """A directory with ``attributes`` lies at ``path``, whose parent is there; what is in it stays.

        Raises NotADirectoryError when something else lies there, ReservedNameError.
        """
        directory = self._trail.enter(path, attributes)
        directory.final = attributes

    def date_directory(self, path: bytes, times_ns: tuple[int, int]) -> None:
        """The directory at ``path``, which is in the branch, has these times, whatever was put into it so far."""
        self._trail.enter(path, None).times_ns = times_ns

    def put_file(self, path: bytes) -> int:
        """Descriptor of the new, empty regular file at ``path``, for ``finish_file``.

        What lay there is replaced. Raises IsADirectoryError for a directory, ReservedNameError.
        """
        directory, name = self._place(path)
        try:
            return os.open(name, _CREATE_FLAGS, 0o600, dir_fd=directory.fd)
        except FileExistsError:
            self._clear(directory, name)
            return os.open(name, _CREATE_FLAGS, 0o600, dir_fd=directory.fd)

    def finish_file(self, descriptor: int, attributes: Attributes) -> None:
        """The written file has its metadata; the caller closes the descriptor."""
        os.fchown(descriptor, attributes.uid, attributes.gid)
        os.fchmod(descriptor, attributes.mode)
        if attributes.xattrs:
            set_xattrs(descriptor, attributes.xattrs)
        if attributes.times_ns is not None:
            os.utime(descriptor, ns=attributes.times_ns)

    def copy_file(
        self, path: bytes, entry: TreeEntry, attributes: Callable[[int | None], Attributes], check: Callable[[], None]
    ) -> None:
        """A copy of the regular file ``entry`` lies at ``path``; ``attributes`` is asked with its open descriptor.

        ``check`` is called now and then and ends the work by raising. Raises UnreadableError and as ``put_file``.
        """
        try:
            source = entry.open()
        except OSError as error:
            raise UnreadableError from error
        try:
            target = self.put_file(path)
            try:
                copy_content(source, target, os.fstat(source), check)
                self.finish_file(target, attributes(source))
            finally:
                os.close(target)
        finally:
            os.close(source)

    def put_content(self, path: bytes, content: bytes, attributes: Attributes) -> None:
        """A file with ``content`` and ``attributes`` lies at ``path``; see ``put_file``."""
        with open(self.put_file(path), "wb") as file:
            file.write(content)
            file.flush()
            self.finish_file(file.fileno(), attributes)

    def put_symlink(self, path: bytes, target: bytes, attributes: Attributes) -> None:
        """A symbolic link lies at ``path``; see ``put_file``."""
        directory, name = self._place(path)
        try:
            os.symlink(target, name, dir_fd=directory.fd)
        except FileExistsError:
            self._clear(directory, name)
            os.symlink(target, name, dir_fd=directory.fd)
        self._dress(directory, name, attributes, link=True)

    def put_node(self, path: bytes, kind: int, rdev: int, attributes: Attributes) -> None:
        """A device or FIFO (``kind`` as in ``S_IFMT``) lies at ``path``; see ``put_file``.

        Raises ReservedNameError for the character device 0:0, which is a whiteout.
        """
        refuse_mark(path, kind, rdev)
        directory, name = self._place(path)
        try:
            os.mknod(name, kind | 0o600, rdev, dir_fd=directory.fd)
        except FileExistsError:
            self._clear(directory, name)
            os.mknod(name, kind | 0o600, rdev, dir_fd=directory.fd)
        self._dress(directory, name, attributes, link=False)

    def put_link(self, path: bytes, existing: bytes) -> None:
        """``path`` is one more name of the file at ``existing``, which lies in the branch; see ``put_file``.

        Raises FileNotFoundError when the branch has no such file.
        """
        directory, name = self._place(path)
        source_fd = self._trail.open_beneath(existing.rpartition(b"/")[0])
        source = existing.rpartition(b"/")[2]
        try:
            try:
                os.link(source, name, src_dir_fd=source_fd, dst_dir_fd=directory.fd, follow_symlinks=False)
            except FileExistsError:
                self._clear(directory, name)
                os.link(source, name, src_dir_fd=source_fd, dst_dir_fd=directory.fd, follow_symlinks=False)
        finally:
            os.close(source_fd)

    def link_at(self, path: bytes) -> bytes | None:
        """Target of the symbolic link at ``path``, None for anything else. What is above ``path`` are directories."""
        mode = self.mode_at(path)
        if mode is None or not stat.S_ISLNK(mode):
            return None
        directory, _, name = path.rpartition(b"/")
        try:
            fd = self._trail.open_beneath(directory)
        except FileNotFoundError:
            pass
        else:
            try:
                return os.readlink(name, dir_fd=fd)
            except FileNotFoundError:
                pass
            finally:
                os.close(fd)
        return None if self._view is None else self._view.readlink(path)

    def bring_up(self, path: bytes) -> None:
        """The file at ``path`` lies in the branch, as it is below. Raises FileNotFoundError when there is none."""
        view = self._view
        directory, name = self._place(path)
        try:
            os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            found = None if view is None else view.lstat(path)
            if view is None or found is None:
                raise
        else:
            return
        attributes = attributes_below(view, path)
        if stat.S_ISLNK(found.mode):
            self.put_symlink(path, view.readlink(path), attributes)
        elif not stat.S_ISREG(found.mode):
            self.put_node(path, stat.S_IFMT(found.mode), found.rdev, attributes)
        else:
            self.put_copy(path, view.open_file(path), attributes)

    def put_copy(self, path: bytes, source: int, attributes: Attributes) -> None:
        """A copy of the regular file open as ``source``, which is closed, lies at ``path``; see ``put_file``."""
        try:
            target = self.put_file(path)
            try:
                copy_content(source, target, os.fstat(source), lambda: None)
                self.finish_file(target, attributes)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def replace(self, path: bytes) -> None:
        """Nothing lies at ``path``, whose parent is a directory: not in the branch, and from below nothing shows."""
        parent, _, name = path.rpartition(b"/")
        directory = self._trail.enter(parent, None)
        check_name(path)
        self._trail.replaced.add(path)
        remove_tree(name, dir_fd=directory.fd)

    def remove(self, path: bytes) -> None:
        """Nothing lies at ``path`` in the branch, whose parent is there; what lies below shows."""
        parent, _, name = path.rpartition(b"/")
        directory = self._trail.enter(parent, None)
        remove_tree(name, dir_fd=directory.fd)

    def names(self, path: bytes) -> list[bytes]:
        """What is in the directory ``path`` of the branch, marks as well."""
        return list(map(os.fsencode, os.listdir(self._trail.enter(path, None).fd)))

    def hide(self, path: bytes) -> None:
        """What lies below at ``path`` does not show, and nothing of that name is in the branch."""
        parent, _, name = path.rpartition(b"/")
        directory = self._trail.enter(parent, None)
        directory.changed = True
        prefix = parent + b"/" if parent else b""
        if written_form(prefix, name, WhiteoutForm.AUFS) is WhiteoutForm.OVERLAY:
            make_device(directory.fd, name)
        else:
            os.close(os.open(PREFIX + name, _MARK_FLAGS, 0o644, dir_fd=directory.fd))

    # -- places -----------------------------------------------------------------------------------------------------
    def _place(self, path: bytes) -> tuple[OpenDirectory, bytes]:
        """The open parent of ``path`` and the name in it, where no directory lies below."""
        parent, _, name = path.rpartition(b"/")
        directory = self._trail.last
        if directory.path != parent:
            directory = self._trail.enter(parent, None)
        check_name(path)
        if directory.below and stat.S_ISDIR(self._trail.mode_below(directory, name)):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), paths.shown(path))
        directory.changed = True
        return directory, name

    def _clear(self, directory: OpenDirectory, name: bytes) -> None:
        """What lies at ``name`` in the branch is gone. Raises IsADirectoryError."""
        if stat.S_ISDIR(os.stat(name, dir_fd=directory.fd, follow_symlinks=False).st_mode):
            place = paths.shown(paths.join(directory.path, name))
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), place)
        os.unlink(name, dir_fd=directory.fd)

    def _dress(self, directory: OpenDirectory, name: bytes, attributes: Attributes, *, link: bool) -> None:
        """Metadata of what has no descriptor of its own."""
        os.chown(name, attributes.uid, attributes.gid, dir_fd=directory.fd, follow_symlinks=False)
        if not link:
            os.chmod(name, attributes.mode, dir_fd=directory.fd)
        if attributes.xattrs:
            set_xattrs(b"/proc/self/fd/%d/%s" % (directory.fd, name), attributes.xattrs)
        if attributes.times_ns is not None:
            os.utime(name, ns=attributes.times_ns, dir_fd=directory.fd, follow_symlinks=False)
