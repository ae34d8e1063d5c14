"""The filesystem served through libfuse, by pyfuse3 on trio: the one module that knows either.

Slower than the direct transport, and less complete, since pyfuse3 offers no more: no fallocate, no SEEK_DATA and
SEEK_HOLE, no copy_file_range, no O_TMPFILE, no passing through to backing files, no caching of listings; ``st_ino``
is the node number itself, so it changes when a copy-up makes a new node; and one mount in a process. Invariants:
every handler translates and nothing else; whatever it raises becomes the answer to its request (pyfuse3 alone would
end the mount on anything but its own error).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from types import CoroutineType
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import pyfuse3
import trio

from unionfs.mounting import MountError, MountOptions, has_labels, quoted
from unionfs.ops import CopyPendingError, FilesystemOps, LongCopy, Notifier
from unionfs.transport.courier import Courier
from unionfs.types import ROOT_INO, Attr, Caller, HandleId, Ino, SetAttr
from unionfs.wire import Message

_DOTS = 2
_NOTIFY_PATIENCE_SECONDS = 1.0

Log = Callable[[str], None]
_P = ParamSpec("_P")
_R = TypeVar("_R")


def _guarded(
    handler: Callable[Concatenate[PyfuseOperations, _P], Awaitable[_R]],
) -> Callable[Concatenate[PyfuseOperations, _P], CoroutineType[Any, Any, _R]]:
    """``handler`` with every failure turned into an errno."""

    @functools.wraps(handler)
    async def guarded(self: PyfuseOperations, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        self.count(handler.__name__)
        try:
            return await self.copies.answer(lambda: handler(self, *args, **kwargs))
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from error
        except pyfuse3.FUSEError:
            raise
        except Exception as error:
            self.log(f"{handler.__name__} failed unexpectedly, answered EIO\n{traceback.format_exc()}")
            raise pyfuse3.FUSEError(errno.EIO) from error

    # mypy takes an async function for less than the CoroutineType that pyfuse3's signatures name
    return cast("Callable[Concatenate[PyfuseOperations, _P], CoroutineType[Any, Any, _R]]", guarded)


class _Copies:
    """Requests that wait for the copies of large files, which threads make."""

    def __init__(self) -> None:
        self._running: dict[LongCopy, trio.Event] = {}
        self._users: Counter[LongCopy] = Counter()

    async def answer(self, ask: Callable[[], Awaitable[_R]]) -> _R:
        """What ``ask`` answers, asked again after each copy it needs."""
        used: set[LongCopy] = set()
        try:
            while True:
                try:
                    return await ask()
                except CopyPendingError as pending:
                    if pending.copy not in used:
                        used.add(pending.copy)
                        self._users[pending.copy] += 1
                    await self._copied(pending.copy)
        finally:
            for copy in used:
                self._users[copy] -= 1
                if not self._users[copy]:
                    del self._users[copy]
                    copy.drop()

    async def _copied(self, copy: LongCopy) -> None:
        running = self._running.get(copy)
        if running is not None:
            await running.wait()
            return
        self._running[copy] = trio.Event()
        await trio.to_thread.run_sync(copy.run)
        self._running.pop(copy).set()


class PyfuseOperations(pyfuse3.Operations):
    """pyfuse3's requests, passed on to a filesystem."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, ops: FilesystemOps, timeout_seconds: float, log: Log) -> None:
        """``timeout_seconds``: how long the kernel trusts names; it cannot be told to forget them all."""
        super().__init__()
        self.log = log
        self.requests: Counter[str] = Counter()
        self.trace: Log | None = None
        self.copies = _Copies()
        ops.defer_copies()
        self._ops = ops
        self._owned = ops.entries_stay_valid()
        self._timeout = timeout_seconds
        self._directories: dict[int, Ino] = {}

    def count(self, name: str) -> None:
        """One more request of that name."""
        self.requests[name.upper()] += 1
        if self.trace is not None:
            self.trace(name.upper())

    # -- names --------------------------------------------------------------------------------------------------
    @_guarded
    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """A name that is not there is remembered as such when nobody else makes names."""
        try:
            return self._entry(self._ops.lookup(Ino(parent_inode), name, _caller(ctx)))
        except FileNotFoundError:
            if not self._owned:
                raise
            nothing = pyfuse3.EntryAttributes()
            nothing.st_ino = 0
            nothing.entry_timeout = self._timeout
            return nothing

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Cannot fail."""
        for ino, references in inode_list:
            self._ops.forget(Ino(ino), references)

    @_guarded
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:  # noqa: ARG002 - pyfuse3's signature
        """Attributes of the node."""
        return self._entry(self._ops.getattr(Ino(inode), None))

    @_guarded
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """The changed attributes."""
        changes = SetAttr(
            attr.st_mode & 0o7777 if fields.update_mode else None,
            attr.st_uid if fields.update_uid else None,
            attr.st_gid if fields.update_gid else None,
            attr.st_size if fields.update_size else None,
            attr.st_atime_ns if fields.update_atime else None,
            attr.st_mtime_ns if fields.update_mtime else None,
        )
        handle = None if fh is None else HandleId(fh)
        return self._entry(self._ops.setattr(Ino(inode), changes, handle, _caller(ctx)))

    @_guarded
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:  # noqa: ARG002 - pyfuse3's signature
        """Target of the link."""
        return self._ops.readlink(Ino(inode))

    @_guarded
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """A new file, device, FIFO or socket."""
        return self._entry(self._ops.mknod(Ino(parent_inode), name, mode, rdev, _caller(ctx)))

    @_guarded
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """A new directory."""
        return self._entry(self._ops.mkdir(Ino(parent_inode), name, mode, _caller(ctx)))

    @_guarded
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """A new symbolic link."""
        return self._entry(self._ops.symlink(Ino(parent_inode), name, target, _caller(ctx)))

    @_guarded
    async def link(
        self,
        inode: int,
        new_parent_inode: int,
        new_name: bytes,
        ctx: pyfuse3.RequestContext,  # noqa: ARG002
    ) -> pyfuse3.EntryAttributes:
        """One more name."""
        return self._entry(self._ops.link(Ino(inode), Ino(new_parent_inode), new_name))

    @_guarded
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:  # noqa: ARG002
        """One name fewer."""
        self._ops.unlink(Ino(parent_inode), name)

    @_guarded
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:  # noqa: ARG002
        """One directory fewer."""
        self._ops.rmdir(Ino(parent_inode), name)

    @_guarded
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,  # noqa: ARG002 - pyfuse3's signature
    ) -> None:
        """Another name."""
        self._ops.rename(Ino(parent_inode_old), name_old, Ino(parent_inode_new), name_new, flags)

    # -- open files ---------------------------------------------------------------------------------------------
    @_guarded
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """An open file."""
        return self._opened(self._ops.open(Ino(inode), flags, _caller(ctx)))

    @_guarded
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """A new open file."""
        attr, handle = self._ops.create(Ino(parent_inode), name, mode, flags, _caller(ctx))
        return self._opened(handle), self._entry(attr)

    @_guarded
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Content."""
        return self._ops.read(HandleId(fh), off, size)

    @_guarded
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Number of bytes written."""
        return self._ops.write(HandleId(fh), off, buf)

    async def flush(self, fh: int) -> None:
        """Nothing is held back here."""

    async def release(self, fh: int) -> None:
        """Cannot fail."""
        self._ops.release(HandleId(fh))

    @_guarded
    async def fsync(self, fh: int, datasync: bool) -> None:
        """On disk."""
        self._ops.fsync(HandleId(fh), datasync)

    # -- directories --------------------------------------------------------------------------------------------
    @_guarded
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:  # noqa: ARG002 - pyfuse3's signature
        """An open directory."""
        handle = self._ops.opendir(Ino(inode))
        self._directories[handle] = Ino(inode)
        return handle

    @_guarded
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Entries after ``start_id``; each one taken is one more reference, but for ``.`` and ``..``."""
        for position, name in enumerate((b".", b".."), 1):
            here = self._entry(self._ops.getattr(self._directories[fh], None))
            if start_id < position and not pyfuse3.readdir_reply(token, name, here, position):
                return
        for entry in self._ops.readdir(HandleId(fh), max(0, start_id - _DOTS), attributes=True):
            if entry.attr is None:
                continue
            if not pyfuse3.readdir_reply(token, entry.name, self._entry(entry.attr), entry.cookie + _DOTS):
                return
            self._ops.remember(entry.attr.ino)

    async def releasedir(self, fh: int) -> None:
        """Cannot fail."""
        del self._directories[fh]
        self._ops.releasedir(HandleId(fh))

    @_guarded
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """On disk."""
        self._ops.fsyncdir(self._directories[fh], datasync)

    # -- the rest -----------------------------------------------------------------------------------------------
    @_guarded
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:  # noqa: ARG002 - pyfuse3's signature
        """Size and room."""
        room = self._ops.statfs()
        answer = pyfuse3.StatvfsData()
        answer.f_bsize, answer.f_frsize = room.bsize, room.frsize
        answer.f_blocks, answer.f_bfree, answer.f_bavail = room.blocks, room.bfree, room.bavail
        answer.f_files, answer.f_ffree, answer.f_favail = room.files, room.ffree, room.ffree
        answer.f_namemax = room.namelen
        return answer

    @_guarded
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:  # noqa: ARG002
        """Value of the attribute."""
        return self._ops.getxattr(Ino(inode), name)

    @_guarded
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:  # noqa: ARG002
        """pyfuse3 has dealt with XATTR_CREATE and XATTR_REPLACE."""
        self._ops.setxattr(Ino(inode), name, value, 0)

    @_guarded
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:  # noqa: ARG002
        """Names of the attributes."""
        return self._ops.listxattr(Ino(inode))

    @_guarded
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:  # noqa: ARG002
        """One attribute fewer."""
        self._ops.removexattr(Ino(inode), name)

    # -- translation --------------------------------------------------------------------------------------------
    def _entry(self, attr: Attr) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = attr.ino
        entry.generation = 0
        entry.entry_timeout = entry.attr_timeout = self._timeout
        entry.st_mode = attr.mode
        entry.st_nlink = attr.nlink
        entry.st_uid, entry.st_gid = attr.uid, attr.gid
        entry.st_rdev = attr.rdev
        entry.st_size, entry.st_blocks, entry.st_blksize = attr.size, attr.blocks, attr.blksize
        entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = attr.atime_ns, attr.mtime_ns, attr.ctime_ns
        return entry

    def _opened(self, handle: HandleId) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=handle, keep_cache=self._owned)


class PyfuseNotifier:
    """The `ops.Notifier` of a mount served by pyfuse3."""

    def __init__(self) -> None:
        self._courier = Courier()

    def invalidate_entry(self, parent: Ino, name: bytes) -> None:
        """The kernel forgets what ``name`` in ``parent`` leads to."""
        self._courier.post(lambda: pyfuse3.invalidate_entry(parent, name))

    def invalidate_inode(self, ino: Ino) -> None:
        """The kernel forgets the attributes and the cached content of ``ino``."""
        self._courier.post(lambda: pyfuse3.invalidate_inode(ino))

    def invalidate_attributes(self, ino: Ino) -> None:
        """The kernel forgets the attributes of ``ino`` at once."""
        with contextlib.suppress(OSError):
            pyfuse3.invalidate_inode(ino, attr_only=True)

    def invalidate_all(self) -> None:
        """Only the root's attributes and listing: libfuse has nothing for more."""
        self.invalidate_inode(ROOT_INO)

    def when_told(self, call: Callable[[], None]) -> None:
        """``call`` is made, perhaps by another thread, once the kernel has got all it was told before."""
        self._courier.after(call)

    def finish(self) -> None:
        """Nothing more will be told."""
        self._courier.finish(_NOTIFY_PATIENCE_SECONDS)


class PyfuseMount:
    """A mount attached at a mount point, answering once `run` runs."""

    def __init__(
        self,
        mount_point: bytes,
        options: MountOptions,
        make_filesystem: Callable[[Notifier], FilesystemOps],
        timeout_seconds: float,
        log: Log,
    ) -> None:
        """The filesystem is made before anything is mounted.

        Raises:
            MountError, UnionError, OSError: nothing is mounted.
        """
        self._notifier = PyfuseNotifier()
        self._ops = make_filesystem(self._notifier)
        self._operations = PyfuseOperations(self._ops, timeout_seconds, log)
        self._watched: dict[int, Callable[[], None]] = {}
        self._closed = False
        try:
            pyfuse3.init(self._operations, os.fsdecode(mount_point), _option_words(options))
        except RuntimeError as error:
            self._ops.close()
            raise MountError(f"mount point {os.fsdecode(mount_point)!r}: libfuse refuses: {error}") from error

    def trace(self, log: Log) -> None:
        """Each request is logged from now on."""
        self._operations.trace = log

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """``ready`` is called whenever ``fd`` can be read, while `run` runs."""
        self._watched[fd] = ready

    def run(self) -> None:
        """Serves until the kernel has let the mount go, or until `stop`."""
        trio.run(self._serve)

    def stop(self) -> None:
        """`run` returns soon."""
        pyfuse3.terminate()

    def statistics(self) -> Message:
        """Requests served so far."""
        opcodes = dict(self._operations.requests)
        return {"transport": "pyfuse3", "requests": sum(opcodes.values()), "opcodes": opcodes}

    def close(self) -> None:
        """The mount and the filesystem are closed. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._notifier.finish()
        pyfuse3.close(unmount=True)
        self._ops.close()

    async def _serve(self) -> None:
        async with trio.open_nursery() as nursery:
            for fd, ready in self._watched.items():
                nursery.start_soon(_watch, fd, ready)
            await pyfuse3.main()
            nursery.cancel_scope.cancel()


def _caller(context: pyfuse3.RequestContext) -> Caller:
    # libfuse has applied the umask to the mode
    return Caller(context.uid, context.gid, context.pid)


async def _watch(fd: int, ready: Callable[[], None]) -> None:
    while True:
        await trio.lowlevel.wait_readable(fd)
        ready()


def _option_words(options: MountOptions) -> set[str]:
    words = {f"fsname={quoted(options.source)}", f"subtype={quoted(options.subtype)}", "default_permissions"}
    flags = ("allow_other", "noexec", "noatime")
    words |= {flag for flag in flags if getattr(options, flag)}
    if options.read_only:
        words.add("ro")
    if options.context is not None and has_labels():
        words.add(f"context={quoted(options.context)}")
    if os.geteuid() == 0:
        words |= {"nosuid" if options.nosuid else "suid", "nodev" if options.nodev else "dev"}
    return words
