"""Requests about open files."""

from __future__ import annotations

from unionfs.ops import FilesystemOps
from unionfs.transport.direct.backing import NO_BACKING, Backing
from unionfs.transport.direct.names import mode_to_drop
from unionfs.transport.direct.notify import store
from unionfs.transport.direct.replies import Replies, opened
from unionfs.transport.direct.requests import DONE, Handler, Payload, name_of
from unionfs.transport.protocol import (
    COPY_FILE_RANGE_IN,
    COPY_FILE_RANGE_OUT,
    CREATE_IN,
    FALLOCATE_IN,
    FSYNC_DATASYNC,
    FSYNC_IN,
    LSEEK_IN,
    LSEEK_OUT,
    OPEN_IN,
    OPEN_KILL_SUIDGID,
    READ_IN,
    RELEASE_IN,
    WRITE_IN,
    WRITE_OUT,
    Opcode,
    OpenFlag,
)
from unionfs.types import Caller, HandleId, Ino, SetAttr

_MAX_COPY_32 = 0x7FFF_F000
_PASSED_THROUGH = int(OpenFlag.PASSTHROUGH | OpenFlag.NOFLUSH)


class FileRequests:
    """Translates requests about open files."""

    def __init__(
        self, ops: FilesystemOps, replies: Replies, backing: Backing, device_fd: int, *, keep_cache: bool
    ) -> None:
        """``keep_cache``: content cached by the kernel outlives the open file. ``device_fd`` belongs to the caller."""
        self._device_fd = device_fd
        self._keeps = keep_cache
        self._ops = ops
        self._replies = replies
        self._backing = backing
        self._cached = int(OpenFlag.NOFLUSH | OpenFlag.KEEP_CACHE if keep_cache else OpenFlag.NOFLUSH)

    def handlers(self, *, volatile: bool) -> dict[Opcode, Handler]:
        """What answers each opcode. FLUSH is left out: ENOSYS tells the kernel never to ask again.

        ``volatile``: FSYNC is left out for the same effect.
        """
        table: dict[Opcode, Handler] = {
            Opcode.OPEN: self._open,
            Opcode.CREATE: self._create,
            Opcode.TMPFILE: self._tmpfile,
            Opcode.READ: self._read,
            Opcode.WRITE: self._write,
            Opcode.RELEASE: self._release,
            Opcode.FALLOCATE: self._fallocate,
            Opcode.LSEEK: self._lseek,
            Opcode.COPY_FILE_RANGE: self._copy_file_range,
            Opcode.COPY_FILE_RANGE_64: self._copy_file_range_64,
        }
        if not volatile:
            table[Opcode.FSYNC] = self._fsync
        return table

    def _open(self, node: Ino, body: memoryview, caller: Caller) -> Payload:
        flags, request_flags = OPEN_IN.unpack_from(body)
        handle = self._ops.open(node, flags, caller)
        if request_flags & OPEN_KILL_SUIDGID:
            self._drop_privileges(node, handle, caller)
        reply = self._opened(node, handle)
        if self._keeps and not self._backing.passes(node):
            content = self._ops.whole_content(handle)
            if content is not None:
                store(self._device_fd, node, content)
        return reply

    def _create(self, node: Ino, body: memoryview, caller: Caller) -> Payload:
        flags, mode, umask, _ = CREATE_IN.unpack_from(body)
        caller = Caller(caller.uid, caller.gid, caller.pid, umask)
        attr, handle = self._ops.create(node, name_of(body, CREATE_IN.size), mode, flags, caller)
        return self._replies.entry(attr) + self._opened(attr.ino, handle)

    def _tmpfile(self, node: Ino, body: memoryview, caller: Caller) -> Payload:
        flags, mode, umask, _ = CREATE_IN.unpack_from(body)
        caller = Caller(caller.uid, caller.gid, caller.pid, umask)
        attr, handle = self._ops.tmpfile(node, mode, flags, caller)
        return self._replies.entry(attr) + self._opened(attr.ino, handle)

    def _read(self, _node: Ino, body: memoryview, _caller: Caller) -> Payload:
        handle, offset, size, *_ = READ_IN.unpack_from(body)
        return self._ops.read(handle, offset, size)

    def _write(self, _node: Ino, body: memoryview, _caller: Caller) -> Payload:
        handle, offset, size, *_ = WRITE_IN.unpack_from(body)
        written = self._ops.write(handle, offset, body[WRITE_IN.size : WRITE_IN.size + size])
        return WRITE_OUT.pack(written, 0)

    def _fsync(self, _node: Ino, body: memoryview, _caller: Caller) -> Payload:
        handle, flags, _ = FSYNC_IN.unpack_from(body)
        self._ops.fsync(handle, bool(flags & FSYNC_DATASYNC))
        return DONE

    def _release(self, node: Ino, body: memoryview, _caller: Caller) -> Payload:
        self._ops.release(RELEASE_IN.unpack_from(body)[0])
        self._backing.released(node)
        return DONE

    def _fallocate(self, _node: Ino, body: memoryview, _caller: Caller) -> Payload:
        handle, offset, length, mode, _ = FALLOCATE_IN.unpack_from(body)
        self._ops.fallocate(handle, mode, offset, length)
        return DONE

    def _lseek(self, _node: Ino, body: memoryview, _caller: Caller) -> Payload:
        handle, offset, whence, _ = LSEEK_IN.unpack_from(body)
        return LSEEK_OUT.pack(self._ops.lseek(handle, offset, whence))

    def _copy_file_range(self, _node: Ino, body: memoryview, _caller: Caller) -> Payload:
        source, source_offset, _, target, target_offset, length, _ = COPY_FILE_RANGE_IN.unpack_from(body)
        length = min(length, _MAX_COPY_32)
        return WRITE_OUT.pack(self._ops.copy_file_range(source, source_offset, target, target_offset, length), 0)

    def _copy_file_range_64(self, _node: Ino, body: memoryview, _caller: Caller) -> Payload:
        source, source_offset, _, target, target_offset, length, _ = COPY_FILE_RANGE_IN.unpack_from(body)
        return COPY_FILE_RANGE_OUT.pack(self._ops.copy_file_range(source, source_offset, target, target_offset, length))

    def _opened(self, node: Ino, handle: HandleId) -> bytes:
        """The reply to an open; a handle the kernel cannot be given is released."""
        try:
            fd = self._ops.backing_fd(handle) if self._backing.enabled else None
            backing_id = self._backing.opened(node, fd)
        except OSError:
            self._ops.release(handle)
            raise
        if backing_id == NO_BACKING:
            return opened(handle, self._cached)
        return opened(handle, _PASSED_THROUGH, backing_id)

    def _drop_privileges(self, node: Ino, handle: HandleId, caller: Caller) -> None:
        mode = mode_to_drop(self._ops.getattr(node, handle).mode)
        if mode is not None:
            self._ops.setattr(node, SetAttr(mode=mode), handle, caller)
