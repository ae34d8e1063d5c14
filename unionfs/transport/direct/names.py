"""Requests about names, attributes and extended attributes."""

from __future__ import annotations

import errno
import os
import stat
import time

from unionfs.ops import FilesystemOps
from unionfs.transport.direct.replies import Replies, statfs
from unionfs.transport.direct.requests import DONE, NO_REPLY, Handler, Payload, name_of, names_of
from unionfs.transport.protocol import (
    BATCH_FORGET_IN,
    FORGET_IN,
    FORGET_ONE,
    GETATTR_HANDLE,
    GETATTR_IN,
    GETXATTR_IN,
    GETXATTR_OUT,
    LINK_IN,
    MKDIR_IN,
    MKNOD_IN,
    RENAME2_IN,
    RENAME_IN,
    SETATTR_IN,
    SETXATTR_IN_OLD,
    Opcode,
    SetAttrBit,
)
from unionfs.types import Caller, HandleId, Ino, SetAttr

_NANOSECONDS = 10**9
_PERMISSIONS = 0o7777
_MODE, _UID, _GID, _SIZE = (int(bit) for bit in (SetAttrBit.MODE, SetAttrBit.UID, SetAttrBit.GID, SetAttrBit.SIZE))
_ATIME, _MTIME, _ATIME_NOW, _MTIME_NOW = (
    int(bit) for bit in (SetAttrBit.ATIME, SetAttrBit.MTIME, SetAttrBit.ATIME_NOW, SetAttrBit.MTIME_NOW)
)


class NameRequests:
    """Translates requests about names and attributes."""

    def __init__(self, ops: FilesystemOps, replies: Replies, *, negative_entries: bool) -> None:
        """``negative_entries``: the kernel may remember that a name is not there."""
        self._ops = ops
        self._replies = replies
        self._negative_entries = negative_entries

    def handlers(self) -> dict[Opcode, Handler]:
        """What answers each opcode."""
        return {
            Opcode.LOOKUP: self._lookup,
            Opcode.FORGET: self._forget,
            Opcode.BATCH_FORGET: self._batch_forget,
            Opcode.GETATTR: self._getattr,
            Opcode.SETATTR: self._setattr,
            Opcode.READLINK: self._readlink,
            Opcode.SYMLINK: self._symlink,
            Opcode.MKNOD: self._mknod,
            Opcode.MKDIR: self._mkdir,
            Opcode.UNLINK: self._unlink,
            Opcode.RMDIR: self._rmdir,
            Opcode.RENAME: self._rename,
            Opcode.RENAME2: self._rename2,
            Opcode.LINK: self._link,
            Opcode.STATFS: self._statfs,
            Opcode.SETXATTR: self._setxattr,
            Opcode.GETXATTR: self._getxattr,
            Opcode.LISTXATTR: self._listxattr,
            Opcode.REMOVEXATTR: self._removexattr,
        }

    def _lookup(self, node: Ino, body: memoryview, caller: Caller) -> Payload:
        try:
            return self._replies.entry(self._ops.lookup(node, bytes(body[:-1]), caller))
        except OSError as error:
            if error.errno == errno.ENOENT and self._negative_entries:
                return self._replies.negative
            raise

    def _forget(self, node: Ino, body: memoryview, _caller: Caller) -> Payload:
        self._ops.forget(node, FORGET_IN.unpack_from(body)[0])
        return NO_REPLY

    def _batch_forget(self, _node: Ino, body: memoryview, _caller: Caller) -> Payload:
        count, _ = BATCH_FORGET_IN.unpack_from(body)
        end = BATCH_FORGET_IN.size + count * FORGET_ONE.size
        for node, references in FORGET_ONE.iter_unpack(body[BATCH_FORGET_IN.size : end]):
            self._ops.forget(node, references)
        return NO_REPLY

    def _getattr(self, node: Ino, body: memoryview, _caller: Caller) -> Payload:
        flags, _, handle = GETATTR_IN.unpack_from(body)
        return self._replies.attributes(self._ops.getattr(node, handle if flags & GETATTR_HANDLE else None))

    def _setattr(self, node: Ino, body: memoryview, caller: Caller) -> Payload:
        valid, _, handle, *_ = SETATTR_IN.unpack_from(body)
        changes = decode_setattr(body, time.time_ns())
        through = HandleId(handle) if valid & SetAttrBit.HANDLE else None
        if valid & SetAttrBit.KILL_SUIDGID and changes.mode is None:
            changes = changes._replace(mode=mode_to_drop(self._ops.getattr(node, through).mode))
        return self._replies.attributes(self._ops.setattr(node, changes, through, caller))

    def _readlink(self, node: Ino, _body: memoryview, _caller: Caller) -> Payload:
        return self._ops.readlink(node)

    def _symlink(self, node: Ino, body: memoryview, caller: Caller) -> Payload:
        name, target = names_of(body)
        return self._replies.entry(self._ops.symlink(node, name, target, caller))

    def _mknod(self, node: Ino, body: memoryview, caller: Caller) -> Payload:
        mode, rdev, umask, _ = MKNOD_IN.unpack_from(body)
        caller = Caller(caller.uid, caller.gid, caller.pid, umask)
        return self._replies.entry(self._ops.mknod(node, name_of(body, MKNOD_IN.size), mode, rdev, caller))

    def _mkdir(self, node: Ino, body: memoryview, caller: Caller) -> Payload:
        mode, umask = MKDIR_IN.unpack_from(body)
        caller = Caller(caller.uid, caller.gid, caller.pid, umask)
        return self._replies.entry(self._ops.mkdir(node, name_of(body, MKDIR_IN.size), mode, caller))

    def _unlink(self, node: Ino, body: memoryview, _caller: Caller) -> Payload:
        self._ops.unlink(node, name_of(body))
        return DONE

    def _rmdir(self, node: Ino, body: memoryview, _caller: Caller) -> Payload:
        self._ops.rmdir(node, name_of(body))
        return DONE

    def _rename(self, node: Ino, body: memoryview, _caller: Caller) -> Payload:
        (new_parent,) = RENAME_IN.unpack_from(body)
        name, new_name = names_of(body, RENAME_IN.size)
        self._ops.rename(node, name, new_parent, new_name, 0)
        return DONE

    def _rename2(self, node: Ino, body: memoryview, _caller: Caller) -> Payload:
        new_parent, flags, _ = RENAME2_IN.unpack_from(body)
        name, new_name = names_of(body, RENAME2_IN.size)
        self._ops.rename(node, name, new_parent, new_name, flags)
        return DONE

    def _link(self, node: Ino, body: memoryview, _caller: Caller) -> Payload:
        (target,) = LINK_IN.unpack_from(body)
        return self._replies.entry(self._ops.link(target, node, name_of(body, LINK_IN.size)))

    def _statfs(self, _node: Ino, _body: memoryview, _caller: Caller) -> Payload:
        return statfs(self._ops.statfs())

    def _setxattr(self, node: Ino, body: memoryview, _caller: Caller) -> Payload:
        size, flags = SETXATTR_IN_OLD.unpack_from(body)
        name, _, rest = bytes(body[SETXATTR_IN_OLD.size :]).partition(b"\0")
        self._ops.setxattr(node, name, rest[:size], flags)
        return DONE

    def _getxattr(self, node: Ino, body: memoryview, _caller: Caller) -> Payload:
        size, _ = GETXATTR_IN.unpack_from(body)
        return _sized(self._ops.getxattr(node, name_of(body, GETXATTR_IN.size)), size)

    def _listxattr(self, node: Ino, body: memoryview, _caller: Caller) -> Payload:
        size, _ = GETXATTR_IN.unpack_from(body)
        return _sized(b"".join(name + b"\0" for name in self._ops.listxattr(node)), size)

    def _removexattr(self, node: Ino, body: memoryview, _caller: Caller) -> Payload:
        self._ops.removexattr(node, name_of(body))
        return DONE


def decode_setattr(body: memoryview, now_ns: int) -> SetAttr:
    """The changes a SETATTR asks for."""
    valid, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = SETATTR_IN.unpack_from(body)
    return SetAttr(
        mode & _PERMISSIONS if valid & _MODE else None,
        uid if valid & _UID else None,
        gid if valid & _GID else None,
        size if valid & _SIZE else None,
        (now_ns if valid & _ATIME_NOW else atime * _NANOSECONDS + atime_ns) if valid & _ATIME else None,
        (now_ns if valid & _MTIME_NOW else mtime * _NANOSECONDS + mtime_ns) if valid & _MTIME else None,
    )


def mode_to_drop(mode: int) -> int | None:
    """Permission bits after a change by somebody without CAP_FSETID, None when they stay as they are.

    setuid goes, setgid goes where the group may execute (``inode(7)``, ``fuse.h`` on FUSE_HANDLE_KILLPRIV_V2).
    """
    kept = mode & _PERMISSIONS & ~stat.S_ISUID
    if mode & stat.S_IXGRP:
        kept &= ~stat.S_ISGID
    return kept if kept != mode & _PERMISSIONS else None


def _sized(value: bytes, room: int) -> bytes:
    """``value``, or its size when the caller asked for that alone (``getxattr(2)``)."""
    if room == 0:
        return GETXATTR_OUT.pack(len(value), 0)
    if len(value) > room:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value
