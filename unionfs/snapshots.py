"""Named snapshots of a union: the top branch is put aside under a name, and an empty one takes its place.

::

    snapshot b:   note in TOP: frozen  →  .unionfs-snapshots/b made, empty, its note "built upon b, waits as b"
                  →  RENAME_EXCHANGE of TOP and .unionfs-snapshots/b  →  the union's stack: TOP, b, what was below
    rollback a:   the same under the name a~1, the empty branch being built upon a

The exchange is the one step that counts: a kill before it leaves the old state and an empty directory that the next
snapshot removes, a kill after it the new state. TOP stays the name of what is written, so a union is mounted again by
the words it was mounted by first (``expand``). Invariants: a snapshot is never written to; nothing is removed but by
``drop``; everything is reached through descriptors that were opened before the union was mounted.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
import uuid
from collections.abc import Sequence

from unionfs import _sys
from unionfs.branch import Branch, OpenBranch
from unionfs.copyup import Copier
from unionfs.errors import BranchMissingError, SnapshotError, reason
from unionfs.lineage import (
    DROPPED,
    Note,
    check_name,
    name_aside,
    plan_chain,
    plan_drop,
    read_note,
    remove_note,
    write_note,
)
from unionfs.namedtuple import NamedTuple
from unionfs.origins import write_origin
from unionfs.restack import Wanted
from unionfs.types import ROOT_INO, Access
from unionfs.union import Union

DIRECTORY = b".unionfs-snapshots"
"""Beside the top branch."""

_DIRECTORY_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Snapshot(NamedTuple):
    """One snapshot: its branch, what it is built upon, when it was taken; whether the union is built upon it."""

    name: str
    path: bytes
    below: str | None
    frozen_ns: int
    current: bool


class Line:
    """A branch and its snapshots, on the disk. The caller closes it."""

    def __init__(self, top: bytes, directory: bytes | None = None) -> None:
        """``directory`` holds the snapshots; None: ``.unionfs-snapshots`` beside ``top``.

        Raises:
            BranchMissingError: there is no such branch.
        """
        above, _, name = os.path.abspath(top).rpartition(b"/")
        self.top = top
        self.directory = directory if directory is not None else above + b"/" + DIRECTORY
        self._name = name or b"."
        self._place = DIRECTORY if directory is None else directory
        self._fd = -1
        try:
            self._above_fd = os.open(above or b"/", _DIRECTORY_FLAGS)
        except OSError as error:
            raise BranchMissingError(top, f"expected a directory: {reason(error)}") from error
        with contextlib.suppress(FileNotFoundError):
            self._fd = os.open(self._place, _DIRECTORY_FLAGS, dir_fd=self._above_fd)

    def close(self) -> None:
        """The descriptors are closed. Idempotent."""
        for fd in (self._fd, self._above_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._above_fd = -1

    # -- what there is ------------------------------------------------------------------------------------------
    def head(self) -> Note | None:
        """The note of the top branch, None when it never had a snapshot."""
        fd = os.open(self._name, _DIRECTORY_FLAGS, dir_fd=self._above_fd)
        try:
            return read_note(fd)
        finally:
            os.close(fd)

    def notes(self, line: str) -> dict[str, Note]:
        """The snapshots of the line by name."""
        found: dict[str, Note] = {}
        for name in self._names():
            note = self._note(name)
            if note is not None and note.line == line and note.waits != name and not name.startswith(DROPPED):
                found[name] = note
        return found

    def _names(self) -> list[str]:
        if self._fd < 0:
            return []
        with os.scandir(b"/proc/self/fd/%d" % self._fd) as entries:
            return sorted(os.fsdecode(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False))

    def _note(self, name: str) -> Note | None:
        fd = os.open(name, _DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=self._fd)
        try:
            return read_note(fd)
        finally:
            os.close(fd)

    def chain(self, start: str | None = None) -> tuple[Branch, ...]:
        """The branches of the snapshots from ``start``, else of those the top is built upon, newest first.

        Raises:
            SnapshotError: one of them is not there.
        """
        head = self.head()
        if head is None:
            if start is not None:
                raise SnapshotError(f"snapshot {start!r} is not there")
            return ()
        try:
            names = plan_chain(self.notes(head.line), head.below if start is None else start)
        except SnapshotError as error:
            raise SnapshotError(f"{error}: {os.fsdecode(self.directory)!r} lacks it (snapdir=)") from error
        return tuple(Branch(self.path(name), Access.RO) for name in names)

    def path(self, name: str) -> bytes:
        """Where the snapshot lies."""
        return self.directory + b"/" + os.fsencode(name)

    def snapshots(self) -> list[Snapshot]:
        """All snapshots, oldest first."""
        head = self.head()
        if head is None:
            return []
        notes = self.notes(head.line)
        current = plan_chain(notes, head.below)
        found = [
            Snapshot(name, self.path(name), note.below, note.frozen_ns or 0, name in current)
            for name, note in notes.items()
        ]
        return sorted(found, key=lambda one: (one.frozen_ns, one.name))

    # -- what changes it ----------------------------------------------------------------------------------------
    def begin(self) -> Note:
        """The note of the top branch, which has one now; the directory of snapshots is there."""
        if self._fd < 0:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._place, 0o700, dir_fd=self._above_fd)
            self._fd = os.open(self._place, _DIRECTORY_FLAGS, dir_fd=self._above_fd)
        head = self.head()
        if head is None:
            head = Note(uuid.uuid4().hex)
            self._write_head(head)
        return head

    def _write_head(self, note: Note) -> None:
        fd = os.open(self._name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._above_fd)
        try:
            write_note(fd, note)
        finally:
            os.close(fd)

    def prepare(self, name: str, note: Note, source: OpenBranch, shown_ino: int | None) -> OpenBranch:
        """An empty branch that waits as ``name`` to take the top's place, with the metadata of ``source``'s root.

        ``shown_ino``: the number its root shows for good (``origins``).
        """
        self._clear(name)
        try:
            os.mkdir(name, 0o700, dir_fd=self._fd)
        except FileExistsError:
            raise SnapshotError(f"snapshot {name!r} is there already") from None
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
            try:
                write_note(fd, note._replace(waits=name))
                _dress(source, fd)
                if shown_ino is not None:
                    write_origin(b"/proc/self/fd/%d/." % fd, shown_ino)
                os.fsync(fd)
            finally:
                os.close(fd)
            return OpenBranch(Branch(b"/proc/self/fd/%d/%s" % (self._fd, os.fsencode(name)), Access.RO), 0)
        except BaseException:
            self._clear(name)
            raise

    def exchange(self, name: str) -> None:
        """The top branch and ``name`` have changed places: the one step that counts."""
        try:
            _sys.renameat2(self._above_fd, self._name, self._fd, os.fsencode(name), _sys.RENAME_EXCHANGE)
        except OSError as error:
            hint = "expected a directory that is no mount point, and snapdir= on its file system"
            raise SnapshotError(f"branch {os.fsdecode(self.top)!r}: {reason(error)} ({hint})") from error
        for fd in (self._fd, self._above_fd):
            _sync(fd)

    def freeze(self, head: Note) -> None:
        """The note of the top says that it is a snapshot from now on; without consequence until the exchange."""
        self._write_head(head._replace(frozen_ns=time.time_ns(), waits=None))

    def thaw(self, head: Note) -> None:
        """The note of the top is ``head`` again."""
        self._write_head(head)

    def discard(self, name: str) -> None:
        """The empty branch that waited as ``name`` is gone."""
        self._clear(name)

    def drop(self, name: str) -> list[bytes]:
        """The snapshot is gone from the list; directories that are left to be removed.

        Raises:
            SnapshotError: it is not there, or something is built upon it.
        """
        head = self.head()
        if head is None:
            raise SnapshotError(f"snapshot {name!r} is not there")
        plan_drop(self.notes(head.line), head, name)
        os.rename(name, f"{DROPPED}{uuid.uuid4().hex}", src_dir_fd=self._fd, dst_dir_fd=self._fd)
        _sync(self._fd)
        return [self.path(one) for one in self._names() if one.startswith(DROPPED)]

    def _clear(self, name: str) -> None:
        """A directory that waits in vain is gone; one with anything but a note in it never is."""
        try:
            fd = os.open(name, _DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=self._fd)
        except FileNotFoundError:
            return
        try:
            note = read_note(fd)
            if note is None or note.waits == name:
                remove_note(fd)
        finally:
            os.close(fd)
        # one that is not empty is no leftover
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=self._fd)


def _dress(source: OpenBranch, fd: int) -> None:
    """The directory has the owner, mode, attributes and times of the root of ``source``."""
    status = os.fstat(source.fd)
    host_path = b"/proc/self/fd/%d" % fd
    with contextlib.suppress(PermissionError):
        os.fchown(fd, status.st_uid, status.st_gid)
    os.fchmod(fd, stat.S_IMODE(status.st_mode))
    Copier(durable=False).copy_xattrs(source.proc_path(b""), host_path + b"/.")
    os.utime(host_path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _sync(path_fd: int) -> None:
    fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=path_fd)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def take_snapshot(union: Union, line: Line, name: str) -> None:
    """What the union shows now is the snapshot ``name``, and goes on in an empty branch above it.

    Raises:
        BranchBusyError: files of the top branch are open for writing. SnapshotError: the name, or the top branch,
        will not do. Nothing has changed.
    """
    head = _begin(union, line, check_name(name))
    top, *rest = union.branches
    kept = Wanted(Branch(line.path(name), Access.RO), top)
    _exchange(union, line, head, name, name, [kept, *(Wanted(one.branch, one) for one in rest)])


def roll_back(union: Union, line: Line, name: str) -> str:
    """The union shows the snapshot ``name``; the name under which what came after is kept.

    Raises:
        BranchBusyError: files of a branch that goes are open. SnapshotError: there is no such snapshot.
    """
    head = _begin(union, line, None)
    notes = line.notes(head.line)
    chain = [Branch(line.path(one), Access.RO) for one in plan_chain(notes, name)]
    aside = name_aside(notes, name)
    known = {line.path(one) for one in notes}
    below = [Wanted(one.branch, one) for one in union.branches[1:] if one.branch.path not in known]
    _exchange(union, line, head, aside, name, [*(Wanted(branch) for branch in chain), *below])
    return aside


def _begin(union: Union, line: Line, name: str | None) -> Note:
    if not union.branches[0].writable:
        raise SnapshotError(f"branch {os.fsdecode(line.top)!r}: expected the top branch to be writable")
    head = line.begin()
    if name is not None and name in line.notes(head.line):
        raise SnapshotError(f"snapshot {name!r} is there already")
    return head


def _exchange(union: Union, line: Line, head: Note, waits: str, below: str, rest: Sequence[Wanted]) -> None:
    """The top branch is now what waits, above ``rest``; the old one lies at ``waits``."""
    shown_ino = union.getattr(ROOT_INO, None).visible_ino if union.options.stable_inodes else None
    fresh = line.prepare(waits, Note(head.line, below), union.branches[0], shown_ino)
    exchanged = False

    def commit() -> None:
        nonlocal exchanged
        line.exchange(waits)
        exchanged = True

    try:
        line.freeze(head)
        union.restack([Wanted(Branch(line.top, Access.RW), fresh), *rest], commit)
    except BaseException:
        if not exchanged:
            fresh.close()
            line.thaw(head)
            line.discard(waits)
        raise


def expand(branches: Sequence[Branch], directory: bytes | None = None, at: str | None = None) -> tuple[Branch, ...]:
    """``branches`` with the snapshots they are built upon; with ``at``, the topmost as it was then.

    Raises:
        SnapshotError: a snapshot is not there. BranchMissingError: a branch is not.
    """
    found: list[Branch] = []
    for position, branch in enumerate(branches):
        line = Line(branch.path, directory if position == 0 else None)
        try:
            if at is not None and position == 0:
                found += line.chain(at)
            else:
                found += [branch, *line.chain()]
        except OSError as error:
            raise BranchMissingError(branch.path, f"expected a directory: {reason(error)}") from error
        finally:
            line.close()
    return tuple(found)
