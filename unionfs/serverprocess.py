"""A server process of ours as its client sees it: started, waited for, and asked after its end.

What it says on stderr goes into memory, so that it can be told with the reason of its end and does not tear the
progress on a terminal apart.

Invariants: the process is reaped exactly once, by whoever waits first; any thread may ask.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Sequence
from typing import Any

MOST_SAID_BYTES = 1 << 20
_TAIL_BYTES = 4096
_TAIL_LINES = 3


class ServerProcess:
    """A process that was started by `start`; `close` it in the end."""

    def __init__(self, pid: int, said_fd: int) -> None:
        self.pid = pid
        self._said_fd = said_fd
        self._lock = threading.Lock()
        self._status: int | None = None

    @classmethod
    def start(cls, argv: list[str], *, file_actions: Sequence[tuple[Any, ...]] = (), **options: Any) -> ServerProcess:
        """``argv`` runs, with what os.posix_spawn takes, and its stderr in memory. Raises OSError."""
        said_fd = os.memfd_create("stderr", os.MFD_CLOEXEC)
        try:
            actions = [*file_actions, (os.POSIX_SPAWN_DUP2, said_fd, 2)]
            pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, **options)
        except BaseException:
            os.close(said_fd)
            raise
        return cls(pid, said_fd)

    def wait(self) -> int:
        """The exit status as os.waitstatus_to_exitcode has it; waits for the end of the process."""
        with self._lock:
            if self._status is None:
                # somebody else may have reaped it: then nothing is known of its end
                self._status = 0
                with contextlib.suppress(ChildProcessError):
                    self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            return self._status

    def said(self) -> str:
        """What it has written to stderr, at most `MOST_SAID_BYTES` of it."""
        with self._lock:
            if self._said_fd < 0:
                return ""
            return os.pread(self._said_fd, MOST_SAID_BYTES, 0).decode("utf-8", "replace")

    def describe_end(self) -> str:
        """How it ended and what it said last: ``was killed by signal 9 (SIGKILL)``; waits for the end."""
        status = self.wait()
        lines = self.said()[-_TAIL_BYTES:].split("\n")
        tail = " / ".join([line.strip() for line in lines if line.strip()][-_TAIL_LINES:])
        if status < 0:
            how = f"was killed by signal {-status} ({_signal_name(-status)})"
        else:
            how = f"ended with status {status}"
        return f"{how}: {tail}" if tail else how

    def close(self) -> int:
        """It has ended, and nothing of it is left; its exit status. Idempotent."""
        status = self.wait()
        with self._lock:
            if self._said_fd >= 0:
                os.close(self._said_fd)
                self._said_fd = -1
        return status


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
