"""One mount: requests read from its /dev/fuse descriptor, answered, and written back.

::

    kernel → readv → header → handler of the opcode → FilesystemOps
    kernel ← write ← header + payload, or -errno ←┘

A request that needs a large file copied waits for a thread that copies, and is asked again (``deferred``).

Invariants: one request at a time; a handler's failure is the answer to its request and never the end of the mount;
the filesystem is closed when the connection is.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from unionfs.namedtuple import NamedTuple
from unionfs.ops import CopyPendingError, FilesystemOps
from unionfs.transport.deferred import Deferred
from unionfs.transport.direct.backing import Backing
from unionfs.transport.direct.directories import DirectoryRequests
from unionfs.transport.direct.files import FileRequests
from unionfs.transport.direct.names import NameRequests
from unionfs.transport.direct.notify import KernelNotifier
from unionfs.transport.direct.replies import Replies
from unionfs.transport.direct.requests import DONE, Handler, Payload
from unionfs.transport.handoff import Handoff
from unionfs.transport.negotiate import Agreement, Wishes, encode_agreement, negotiate, parse_offer
from unionfs.transport.protocol import (
    BUFFER_BYTES,
    IN_HEADER,
    OLDEST_MINOR_WITH_EPOCH,
    OPCODES,
    OUT_HEADER,
    InitFlag,
    Opcode,
)
from unionfs.types import Caller, Ino

_GONE = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN})
_TAKEN_BACK = frozenset({errno.ENOENT, errno.EINTR})
_IN_BYTES = IN_HEADER.size
_OUT_BYTES = OUT_HEADER.size
_UNKNOWN = 0
_COPY_BELOW_BYTES = 16 << 10
"""Smaller payloads are joined to their header: one buffer is cheaper than two."""
_REQUESTS_IN_TURN = 128
_NOTIFY_PATIENCE_SECONDS = 0.01

Log = Callable[[str], None]


class Settings(NamedTuple):
    """How a mount is served, apart from its filesystem."""

    passthrough: bool = False
    """The kernel may read and write backing files by itself, where it permits that."""
    stack_depth: int = 1
    timeout_seconds: float = 1.0
    """How long names and attributes are trusted when the filesystem does not own its files."""
    changeable: bool = False
    """Branches may change while mounted: names must not outlive the kernel's means to forget them all."""
    volatile: bool = False
    """fsync is answered without work."""


class Connection:
    """Answers the requests of one mount. Requests are read without blocking."""

    def __init__(
        self,
        device_fd: int,
        ops: FilesystemOps,
        notifier: KernelNotifier,
        settings: Settings,
        handoff: Handoff,
        log: Log,
        buffer: bytearray | None = None,
    ) -> None:
        """``device_fd`` is an open /dev/fuse, owned by the connection as ``ops`` and ``notifier`` are.

        ``log`` takes what must not be lost. ``buffer``, of `BUFFER_BYTES`, is shared with mounts of the same thread:
        making one takes a third of a millisecond.
        """
        os.set_blocking(device_fd, False)
        self.device_fd = device_fd
        self.aborted = False
        """The kernel was told to give the mount up (fusectl): writes may be lost."""
        self.trace: Log | None = None
        """When set, gets a line for each request."""
        self._ops = ops
        self._settings = settings
        self._handoff = handoff
        self._log = log
        self._agreement: Agreement | None = None
        self._notifier = notifier
        self._handlers: list[Handler] = [_unknown] * OPCODES
        self._handlers[Opcode.INIT] = self._init
        self._counts = [0] * OPCODES
        self._buffer = bytearray(BUFFER_BYTES) if buffer is None else buffer
        self._buffers = (self._buffer,)
        self._view = memoryview(self._buffer)
        self._closed = False
        self._deferred = Deferred(handoff.start)
        ops.defer_copies()

    @property
    def resume_fd(self) -> int:
        """Readable when `resume` has something to do."""
        return self._deferred.fd

    @property
    def agreement(self) -> Agreement | None:
        """What INIT settled, None before it."""
        return self._agreement

    def counts(self) -> dict[str, int]:
        """Number of requests answered so far, by the name of the opcode."""
        return {_opcode_name(opcode): count for opcode, count in enumerate(self._counts) if count}

    def serve(self) -> bool:
        """Waiting requests are answered, a bounded number of them; False once the kernel has let the mount go."""
        buffers = self._buffers
        handoff = self._handoff
        spins = handoff.spins
        for _ in range(_REQUESTS_IN_TURN):
            try:
                size = os.readv(self.device_fd, buffers)
            except BlockingIOError:
                spins -= 1
                if spins < 0:
                    return True
                continue
            except OSError as error:
                if error.errno in _GONE:
                    self.aborted = error.errno == errno.ECONNABORTED and self._was_aborted()
                    return False
                if error.errno in _TAKEN_BACK:
                    continue
                raise
            handoff.asked()
            self._answer(size)
            if handoff.moving:
                return True
            spins = handoff.spins
        return True

    def _was_aborted(self) -> bool:
        """Whether the mount, which is gone, was aborted.

        Where it was let go while a request was taken off the queue, a RELEASE at the end of a program for one, that
        read says ECONNABORTED as well, and the next one ENODEV (fs/fuse/dev.c, fuse_dev_do_read).
        """
        try:
            os.readv(self.device_fd, self._buffers)
        except OSError as error:
            return error.errno == errno.ECONNABORTED
        return True

    def resume(self) -> None:
        """Requests that waited for the copy of a large file are answered, or wait for another one."""
        for request in self._deferred.finished():
            self._buffer[: len(request)] = request
            if self._answer(len(request)):
                self._deferred.answered(request)

    def close(self) -> None:
        """The mount is gone, or answers ENOTCONN; the filesystem is closed. Idempotent."""
        if self._closed:
            return
        self._closed = True
        # a notification may wait for a lock whose holder waits for an answer from here
        while not self._notifier.finish(_NOTIFY_PATIENCE_SECONDS):
            self.serve()
        self._deferred.close()
        os.close(self.device_fd)
        self._ops.close()

    def _answer(self, size: int) -> bool:
        """Whether the request of ``size`` bytes in the buffer is answered; it waits for a copy otherwise."""
        _, opcode, unique, node, uid, gid, pid, _, _ = IN_HEADER.unpack_from(self._buffer)
        if opcode >= OPCODES:
            opcode = _UNKNOWN
        self._counts[opcode] += 1
        payload: Payload = DONE
        failure = 0
        try:
            payload = self._handlers[opcode](node, self._view[_IN_BYTES:size], Caller(uid, gid, pid))
        except OSError as error:
            failure = error.errno or errno.EIO
        except CopyPendingError as pending:
            self._counts[opcode] -= 1
            self._deferred.wait(pending.copy, bytes(self._view[:size]))
            return False
        except Exception:  # noqa: BLE001  whatever a filesystem raises, the mount lives on
            failure = errno.EIO
            self._log_exception(opcode, node)
        if self.trace is not None:
            self.trace(_describe(opcode, unique, node, pid, payload, failure))
        if payload is not None:
            if size + len(payload) < _COPY_BELOW_BYTES:
                self._handoff.answering(pid)
            else:
                self._handoff.leave()  # one processor copies while the other uses what was copied
            self._reply(unique, payload, failure)
        return True

    def _reply(self, unique: int, payload: bytes, failure: int) -> None:
        try:
            if failure:
                os.write(self.device_fd, OUT_HEADER.pack(_OUT_BYTES, -failure, unique))
            elif len(payload) < _COPY_BELOW_BYTES:
                os.write(self.device_fd, OUT_HEADER.pack(_OUT_BYTES + len(payload), 0, unique) + payload)
            else:
                os.writev(self.device_fd, (OUT_HEADER.pack(_OUT_BYTES + len(payload), 0, unique), payload))
        except OSError as error:
            # ENOENT: nobody waits any more; a mount that is gone is noticed by the next read
            if error.errno in _GONE or error.errno == errno.ENOENT:
                return
            self._log(f"reply of {len(payload)} bytes is refused by the kernel: {error.strerror}")
            if not failure:
                self._reply(unique, DONE, errno.EIO)

    def _init(self, _node: Ino, body: memoryview, _caller: Caller) -> Payload:
        settings = self._settings
        owned = self._ops.entries_stay_valid()
        try:
            agreement = negotiate(parse_offer(body), Wishes(owned, settings.passthrough, settings.stack_depth))
        except ValueError as error:
            self._log(str(error))
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO)) from error
        lasting = owned and (not settings.changeable or agreement.minor >= OLDEST_MINOR_WITH_EPOCH)
        replies = Replies(None if lasting else settings.timeout_seconds)
        backing = Backing(self.device_fd, enabled=bool(agreement.flags & InitFlag.PASSTHROUGH))
        names = NameRequests(self._ops, replies, negative_entries=owned)
        files = FileRequests(self._ops, replies, backing, self.device_fd, keep_cache=owned)
        directories = DirectoryRequests(self._ops, replies, self._notifier, keep_cache=owned)
        for table in (
            names.handlers(),
            files.handlers(volatile=settings.volatile),
            directories.handlers(volatile=settings.volatile),
            {Opcode.DESTROY: _destroy},
        ):
            for opcode, handler in table.items():
                self._handlers[opcode] = handler
        self._agreement = agreement
        self._notifier.minor = agreement.minor
        return encode_agreement(agreement)

    def _log_exception(self, opcode: int, node: int) -> None:
        import traceback  # only a defect needs it

        self._log(f"{_opcode_name(opcode)} of node {node} failed unexpectedly, answered EIO\n{traceback.format_exc()}")


def _unknown(_node: Ino, _body: memoryview, _caller: Caller) -> Payload:
    """ENOSYS, after which the kernel does without the request."""
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _destroy(_node: Ino, _body: memoryview, _caller: Caller) -> Payload:
    return DONE


def _opcode_name(opcode: int) -> str:
    try:
        return Opcode(opcode).name
    except ValueError:
        return "UNKNOWN"


def _describe(opcode: int, unique: int, node: int, pid: int, payload: Payload, failure: int) -> str:
    if failure:
        outcome = errno.errorcode.get(failure, str(failure))
    else:
        outcome = "no reply" if payload is None else f"{len(payload)} bytes"
    return f"{unique} {_opcode_name(opcode)} node {node} pid {pid}: {outcome}"
