"""The two helper processes of a build: the union server and the sandbox server.

Invariants: both are started at the first need and at most once; when `close` returns they have ended, and with them
every mount, process and cgroup of the build; should this process die instead, they see their socket close and end too.
"""

from __future__ import annotations

import threading

from builder.sandbox.client import SandboxServer
from unionfs.client import UnionServer


class Servers:
    """Starts the servers when they are first asked for; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._union: UnionServer | None = None
        self._sandbox: SandboxServer | None = None

    @property
    def union(self) -> UnionServer:
        """The union server, running. Raises UnionError where FUSE cannot be used."""
        with self._lock:
            if self._union is None:
                self._union = UnionServer.start()
            return self._union

    @property
    def sandbox(self) -> SandboxServer:
        """The sandbox server, running."""
        with self._lock:
            if self._sandbox is None:
                self._sandbox = SandboxServer.start()
            return self._sandbox

    def close(self) -> None:
        """Both have ended. Idempotent."""
        with self._lock:
            sandbox, self._sandbox = self._sandbox, None
            union, self._union = self._union, None
        try:
            if sandbox is not None:
                sandbox.close()
        finally:
            if union is not None:
                union.close()
