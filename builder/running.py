"""A command over layers of the store, in the sandbox that build steps run in; what it writes goes with it.

Invariants: the layers stay while the command runs; when the block is left its mount has ended and its branch is gone,
of a process that was killed at the next start of a build or command.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Sequence
from io import FileIO
from pathlib import Path

from builder.errors import BuildError
from builder.sandbox.client import Running
from builder.sandbox.spec import Bind, SandboxSpec
from builder.servers import Servers
from builder.session import Session
from builder.steps import bound
from builder.steps.roots import Root
from builder.steps.run import make_scaffold, mount_root
from layers.digest import ChainId
from unionfs.client import is_whole
from unionfs.namedtuple import NamedTuple


@contextlib.contextmanager
def fresh_root(session: Session, chain: ChainId | None, above: Sequence[Path] = ()) -> Generator[Root]:
    """A root on the layers of ``chain`` and the branches ``above`` them, top first; its own branch is gone afterwards.

    The layers must be there, and pinned.
    """
    session.snapshotter.sweep()
    active = session.snapshotter.prepare("run", chain)
    try:
        yield Root(active.path, (*above, *(() if chain is None else session.snapshotter.view(chain))))
    finally:
        session.snapshotter.remove(active)


@contextlib.contextmanager
def overlaid(session: Session, spec: SandboxSpec) -> Generator[tuple[SandboxSpec, tuple[int, ...]]]:
    """``spec`` with its writable binds as unions of what they show and branches that are gone afterwards.

    With it come the detached mounts that the binds name by index. Of a file nothing can be above: it is read-only.
    """
    with contextlib.ExitStack() as stack:
        binds: list[Bind] = []
        fds: list[int] = []
        can_mount = bool(spec.binds) and session.servers.can_mount
        for bind in spec.binds:
            if not can_mount and bind.kind in {"bind", "cache"}:
                # shown as a copy, which is gone afterwards
                binds.append(bind._replace(read_only=True))
            elif bind.read_only or bind.kind not in {"bind", "cache"}:
                binds.append(bind)
            elif not os.path.isdir(bind.source):
                binds.append(bind._replace(read_only=True))
            else:
                binds.append(bind._replace(source="", fd=len(fds)))
                fds.append(bound.mount(session, [Path(bind.source)], stack, writable=True, passthrough="off"))
        yield spec._replace(binds=tuple(binds)), tuple(fds)


class RootEnd:
    """What the union server says of the end of a root (`DetachedMount.ended`): a little before the command's own."""

    def __init__(self, ended: FileIO) -> None:
        self._ended = ended
        self._report = b""

    def fileno(self) -> int:
        """Readable when something is said, and from the end on."""
        return self._ended.fileno()

    def is_lost(self) -> bool:
        """Whether the root has ended as it should not; waits until it has ended."""
        self._report += self._ended.readall()
        return not is_whole(self._report)

    def describe(self, servers: Servers) -> str:
        """How a root that is lost has ended."""
        return servers.describe_loss(self._report)


class Started(NamedTuple):
    """A command that runs, and its root."""

    running: Running
    root: RootEnd


@contextlib.contextmanager
def started(
    session: Session,
    root: Root,
    spec: SandboxSpec,
    stdin: int | None,
    stdout: int | None,
    stderr: int | None,
    mount_fds: Sequence[int] = (),
) -> Generator[Started]:
    """The command of ``spec`` runs over ``root``; it has ended after the block, and what it wrote is not looked at.

    The descriptors stay the caller's; one of the three that is None is /dev/null.

    Raises:
        SandboxError: this machine can't run it.
        UnionError: nothing can be mounted.
        BuildError: its root ended before it did.
    """
    servers = session.servers
    mount = mount_root(servers, root, make_scaffold(Path(session.root) / "scaffold"))
    with open(mount.ended, "rb", buffering=0) as ended:
        end = RootEnd(ended)
        try:
            try:
                running = servers.sandbox.run(
                    mount.furnish(spec),
                    root_fd=mount.fd,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    mount_fds=mount_fds,
                )
            finally:
                os.close(mount.fd)
            with running:
                yield Started(running, end)
        finally:
            mount.settle(take=False)
            lost = end.is_lost()
    if lost:
        raise BuildError(f"the command lost its root: {end.describe(servers)}")
