"""The two helper processes of a build: the union server and the sandbox server; and copies in place of the first.

Where FUSE can't be used there is no union server, and steps work on copies of their roots (`builder.rootcopies`).

Invariants: both are started at most once, by `start` or at the first need; when `close` returns they have ended, and
with them every mount, process and cgroup of the build; should this process die instead, they see their socket close
and end too.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from builder.limits import Limits
from builder.sandbox.client import SandboxServer
from builder.sandbox.isolation import NO_NAMESPACES
from builder.sandbox.spec import Network, SandboxSpec
from layers.snapshotter import Snapshotter
from unionfs.branch import Branch
from unionfs.client import UnionServer
from unionfs.namedtuple import NamedTuple
from unionfs.types import UnionOptions

if TYPE_CHECKING:
    from builder.rootcopies.copies import CopiedMount, RootCopies


_DEVICE = "/dev/fuse"
_DEVICE_NUMBER = os.makedev(10, 229)


class Mounted(NamedTuple):
    """The root of a step, attached nowhere yet; ``fd`` and ``ended`` are as in `unionfs.client.DetachedMount`."""

    fd: int
    ended: int
    copy: CopiedMount | None = None

    def settle(self, *, take: bool) -> None:
        """The command has ended, or could not be started; ``take``: what it wrote is wanted.

        To be called before the end of ``ended`` is waited for. May take long where it is a copy.
        """
        if self.copy is not None:
            self.copy.settle(take=take)

    def furnish(self, spec: SandboxSpec, stderr: Path | None = None) -> SandboxSpec:
        """What of ``spec`` the sandbox is to be given: where it can't mount, its mounts lie in the root already.

        The pipe at ``stderr``, beside the topmost branch, is moved to /dev/stderr there.

        Raises:
            BuildError: something can't be shown to a step there.
        """
        return spec if self.copy is None else self.copy.furnish(spec, stderr)


class Servers:
    """The servers, started when they are first asked for at the latest; safe to use from several threads."""

    def __init__(self, isolation: str, snapshotter: Snapshotter) -> None:
        """``snapshotter`` gives copies of roots a place."""
        self._isolation = isolation
        self._snapshotter = snapshotter
        self._lock = threading.Lock()
        self._union: UnionServer | RootCopies | None = None
        self._sandbox: SandboxServer | None = None

    def start(self, network: Network, limits: Limits, steps: int) -> None:
        """Both are starting, the sandbox for ``steps``, the first with ``network`` and ``limits``; returns at once."""
        with self._lock:
            if self._sandbox is None:
                self._sandbox = SandboxServer.start(
                    network=network, limits=limits, isolation=self._isolation, steps=steps
                )
            self._start_union()

    def mount(self, branches: Sequence[Branch], options: UnionOptions, *, passthrough: str) -> Mounted:
        """A union of ``branches``, top first (`unionfs.client.UnionServer.mount`), or a copy that looks like it.

        Where it is a copy the topmost branch is empty, and has what was written after `Mounted.settle` alone.

        Raises:
            UnionError: FUSE can't be used although its device can.
            BuildError: the disk takes no copy.
        """
        union = self._settled_union()
        if isinstance(union, UnionServer):
            made = union.mount(branches, options, passthrough=passthrough)
            return Mounted(made.fd, made.ended)
        copy = union.mount([Path(os.fsdecode(branch.path)) for branch in branches])
        return Mounted(copy.fd, copy.ended, copy)

    def lacks_fuse(self) -> str:
        """Why steps work on copies of their roots, one line; empty where they don't. Waits for the sandbox server.

        Raises:
            SandboxError: no step can be run here.
        """
        union = self._settled_union()
        return "" if isinstance(union, UnionServer) else union.why

    def makes_unions(self) -> bool:
        """Whether `mount` makes unions, not copies; waits for the sandbox server.

        Raises:
            SandboxError: no step can be run here.
        """
        return isinstance(self._settled_union(), UnionServer)

    def describe_loss(self, report: bytes) -> str:
        """Why a root whose `Mounted.ended` said ``report``, and that is not whole, is not; may wait."""
        with self._lock:
            union = self._start_union()
        return union.describe_loss(report)

    @property
    def can_mount(self) -> bool:
        """Whether mounts can be made for steps; waits for the sandbox server.

        Raises:
            SandboxError: no step can be run here.
        """
        return self.sandbox.level != NO_NAMESPACES

    def _settled_union(self) -> UnionServer | RootCopies:
        """As `_start_union`, when it is known whether mounts can be made."""
        can_mount = self.can_mount
        with self._lock:
            union = self._start_union()
            if can_mount:
                return union
            if isinstance(union, UnionServer):
                union.close()
                union = self._copies("nothing can be mounted", attachable=False)
            elif union.attachable:
                union = self._copies(union.why, attachable=False)
            self._union = union
            return union

    def _copies(self, why: str, *, attachable: bool = True) -> RootCopies:
        from builder.rootcopies.copies import RootCopies

        return RootCopies(self._snapshotter, why, attachable=attachable)

    def _start_union(self) -> UnionServer | RootCopies:
        """The union server, or what takes its place; with the lock held."""
        if self._union is None:
            refusal = _refused_device()
            if refusal is None:
                self._union = UnionServer.start()
            else:
                self._union = self._copies(str(refusal))
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
            if isinstance(self._union, UnionServer):
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


def _refused_device() -> Exception | None:
    """Why the device of FUSE can't be opened, None where it can."""
    try:
        fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        pass
    else:
        is_fuse = os.fstat(fd).st_rdev == _DEVICE_NUMBER
        os.close(fd)
        if is_fuse:
            return None
    # says the reason, and takes what a build that has FUSE does without
    from unionfs.mounting import MountError, open_device

    try:
        os.close(open_device())
    except MountError as error:
        return error
    return None
