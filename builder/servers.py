"""The two helper processes of a build: the union server and the sandbox server.

Invariants: both are started at most once, by `start` or at the first need; when `close` returns they have ended, and
with them every mount, process and cgroup of the build; should this process die instead, they see their socket close
and end too.
"""

from __future__ import annotations

import sys
import threading

from builder.limits import Limits
from builder.sandbox.client import SandboxServer
from builder.sandbox.spec import Network
from unionfs.client import UnionServer


class Servers:
    """The servers, started when they are first asked for at the latest; safe to use from several threads."""

    def __init__(self, isolation: str = "auto") -> None:
        self._isolation = isolation
        self._lock = threading.Lock()
        self._union: UnionServer | None = None
        self._sandbox: SandboxServer | None = None

    def start(self, network: Network, limits: Limits) -> None:
        """Both are starting, the sandbox for a first step with ``network`` and ``limits``; returns at once."""
        with self._lock:
            if self._sandbox is None:
                self._sandbox = SandboxServer.start(network=network, limits=limits, isolation=self._isolation)
            if self._union is None:
                self._union = UnionServer.start()

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
                self._sandbox = SandboxServer.start(isolation=self._isolation)
            return self._sandbox

    def end(self) -> None:
        """Both are ending, and no step can be run any more; returns at once, `close` waits."""
        with self._lock:
            if self._sandbox is not None:
                self._sandbox.end()
            if self._union is not None:
                self._union.end()

    def close(self) -> None:
        """Both have ended. Idempotent."""
        self.end()
        with self._lock:
            sandbox, self._sandbox = self._sandbox, None
            union, self._union = self._union, None
        said = ""
        try:
            if sandbox is not None:
                said += sandbox.close()
        finally:
            if union is not None:
                said += union.close()
        # nothing, unless something is wrong with them
        sys.stderr.write(said)
