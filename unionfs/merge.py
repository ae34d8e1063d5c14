"""Snapshots merged into one directory: the core of ``snapmerge``.

Each snapshot is a branch (``delta``); the oldest is applied first. Invariants: the result shows what a union of the
snapshots over OUT showed; every entry is put into its place by one rename; applying the same snapshots again changes
nothing, so a merge that was cut off is finished by running it again; in a dry run OUT is only read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from unionfs import whiteout
from unionfs.branch import TEMPORARY_NAME, Branch, OpenBranch, check_distinct
from unionfs.copyup import Copier
from unionfs.delta import Change, ChangeKind, iter_changes
from unionfs.errors import MergeError
from unionfs.lineage import NOTE
from unionfs.listing import probe_one
from unionfs.names import replace, withdraw
from unionfs.resolve import Kind
from unionfs.types import Access, WhiteoutForm

Report = Callable[[str], None]


def merge(out: Path, snapshots: Sequence[Path], *, keep_whiteouts: bool, dry_run: bool, report: Report) -> None:
    """``out`` shows what a union of ``snapshots``, the oldest first, over it showed.

    Without ``keep_whiteouts`` OUT is the bottom of every union it will be part of, and no marks are left in it; with it
    they stay. ``report`` gets one line for each thing that is done, or would be in a dry run.

    Raises:
        MergeError: no snapshot, or one of the directories is missing, there twice, or inside another.
        OSError: reading or writing failed; running the merge again finishes it.
    """
    if not snapshots:
        raise MergeError("snapmerge: expected at least one snapshot")
    with ExitStack() as stack:
        target = OpenBranch(Branch(os.fsencode(out), Access.RO if dry_run else Access.RW), 0)
        stack.enter_context(closing(target))
        opened = [target]
        for position, snapshot in enumerate(snapshots, 1):
            opened.append(OpenBranch(Branch(os.fsencode(snapshot), Access.RO), position))
            stack.enter_context(closing(opened[-1]))
        check_distinct(tuple(opened))
        if not dry_run and not target.writable:
            raise MergeError(f"snapmerge: {str(out)!r} cannot be written")
        for source, snapshot in zip(opened[1:], snapshots, strict=True):
            merging = _Merging(source, target, report, keep_whiteouts=keep_whiteouts, dry_run=dry_run)
            for change in iter_changes(snapshot):
                merging.apply(change)
            merging.finish()
        newest = os.fstat(opened[-1].fd)
    if not dry_run:
        # the directory of temporary things was taken out of it last
        os.utime(out, ns=(newest.st_atime_ns, newest.st_mtime_ns))


class _Merging:
    """One snapshot on its way into OUT."""

    def __init__(
        self, source: OpenBranch, target: OpenBranch, report: Report, *, keep_whiteouts: bool, dry_run: bool
    ) -> None:
        self._source = source
        self._target = target
        self._report = report
        self._keep = keep_whiteouts
        self._dry_run = dry_run
        self._copier = Copier(durable=False)
        self._links: dict[tuple[int, int], bytes] = {}
        self._directories: list[Change] = []

    def apply(self, change: Change) -> None:
        """OUT shows the change."""
        while self._directories and not _is_inside(change.path, self._directories[-1].path):
            self._finish_directory(self._directories.pop())
        if change.kind is ChangeKind.WHITEOUT:
            self._remove(change)
        elif change.is_directory:
            self._directory(change)
            self._directories.append(change)
        else:
            self._entry(change)

    def finish(self) -> None:
        """The last directories have their metadata."""
        while self._directories:
            self._finish_directory(self._directories.pop())

    def _remove(self, change: Change) -> None:
        prefix, name = _split(change.path)
        if whiteout.exists(self._target, change.path):
            self._say("remove", change.path)
            if not self._dry_run:
                withdraw(self._target, change.path)
        if self._keep:
            self._say("keep whiteout", change.path)
            if not self._dry_run:
                whiteout.place(self._target, prefix, name, WhiteoutForm.AUFS)

    def _directory(self, change: Change) -> None:
        """The directory is there, emptied first when the change is opaque or hides what was there."""
        prefix, name = _split(change.path)
        opaque = change.kind is ChangeKind.OPAQUE_DIRECTORY
        there = probe_one(self._target, prefix, name) if change.path else None
        if there is None or there.kind is Kind.DIRECTORY:
            if opaque:
                self._clear(change.path)
            return
        self._say("make directory", change.path)
        if self._dry_run:
            return
        staged = self._copier.stage(self._source, change.path, self._target)
        if self._keep and (opaque or there.kind is not Kind.ABSENT):
            # a file or whiteout that stood here hid what is below OUT, and the directory goes on doing so
            whiteout.make_opaque(self._target.temporary()[0], staged, WhiteoutForm.AUFS)
        fd, rest = self._target.at(change.path)
        replace(self._target, staged, fd, rest, over=True)
        whiteout.remove_mark(self._target, prefix, name)

    def _clear(self, path: bytes) -> None:
        self._say("clear", path)
        if self._dry_run:
            return
        if self._keep:
            fd, rest = self._target.at(path)
            whiteout.make_opaque(fd, rest, WhiteoutForm.AUFS)
        prefix = path + b"/" if path else b""
        for name in os.listdir(self._target.proc_path(path)):
            if name not in whiteout.OPAQUE_NAMES and prefix + name not in {TEMPORARY_NAME, NOTE}:
                withdraw(self._target, prefix + name)

    def _entry(self, change: Change) -> None:
        prefix, name = _split(change.path)
        key = (change.stat.st_dev, change.stat.st_ino)
        first = self._links.get(key)
        if change.stat.st_nlink > 1:
            self._links.setdefault(key, change.path)
        self._say("write" if first is None else "link", change.path)
        if self._dry_run:
            return
        if first is None:
            staged = self._copier.stage(self._source, change.path, self._target)
        else:
            fd, rest = self._target.at(first)
            temporary_fd, staged = self._target.temporary()
            os.link(rest, staged, src_dir_fd=fd, dst_dir_fd=temporary_fd, follow_symlinks=False)
        fd, rest = self._target.at(change.path)
        replace(self._target, staged, fd, rest, over=True)
        self._target.discard(staged)
        whiteout.remove_mark(self._target, prefix, name)

    def _finish_directory(self, change: Change) -> None:
        """The directory has the metadata of the snapshot; last, since filling it changes its times."""
        if self._dry_run:
            return
        status = change.stat
        host_path = self._target.proc_path(change.path)
        os.chown(host_path, status.st_uid, status.st_gid)
        os.chmod(host_path, stat.S_IMODE(status.st_mode))
        source_path = self._source.proc_path(change.path)
        for name in set(os.listxattr(host_path)) - set(os.listxattr(source_path)):
            if not whiteout.is_own_xattr(os.fsencode(name)):
                os.removexattr(host_path, name)
        self._copier.copy_xattrs(source_path, host_path)
        os.utime(host_path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _say(self, what: str, path: bytes) -> None:
        self._report(f"{what} {os.fsdecode(path) or '.'}")


def _split(path: bytes) -> tuple[bytes, bytes]:
    directory, _, name = path.rpartition(b"/")
    return (directory + b"/" if directory else b""), name


def _is_inside(path: bytes, directory: bytes) -> bool:
    return not directory or path.startswith(directory + b"/")
