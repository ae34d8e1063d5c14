"""Where FUSE can't be used, a step works on a copy of its root; what it changed becomes its branch afterwards.

::

    mount     a copy of the root is laid out, or one that a step left is taken, to which is done what branches on top of
              it say; a detached bind mount of it
    settle    the command has ended: its changes are in the branch; the copy waits for the step that goes on from there

Where nothing can be mounted either, the copy is a directory, in which a step's own mounts lie as files while it runs
(`CopiedMount.furnish`).

Invariants: a copy is used again only for a root that is, branch by branch, what the last step left. Copies lie among
the layers being made, so that a kill leaves nothing that is not swept; no more than `_MOST_SPARE` wait, and none is
left when `RootCopies.close` returns.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from builder.errors import BuildError, describe_os_error, room_hints
from builder.rootcopies.copying import bring_forward, lay_out, take_changes, take_inventory
from builder.rootcopies.furnishing import Furnishing
from builder.rootcopies.inventory import Inventory, await_tick
from builder.rootfs import open_root
from builder.sandbox import _sys
from builder.sandbox.spec import SandboxSpec
from builder.trail import ReservedNameError
from layers.snapshotter import Active, Snapshotter
from unionfs.namedtuple import NamedTuple
from unionfs.removal import remove_tree

_MOST_SPARE = 2
_PROBE_NAME = "probe"
_ASIDE_NAME = "aside"
_RESTRICTIONS = _sys.MOUNT_ATTR_NOSUID | _sys.MOUNT_ATTR_NODEV | _sys.MOUNT_ATTR_NOEXEC


class _Spare(NamedTuple):
    """A copy that nobody works on: what it is a copy of, top first, and what it holds.

    ``top_fd`` is the topmost branch, open so that no other directory gets its inode number.
    """

    active: Active
    inventory: Inventory
    top_fd: int
    others: tuple[Path, ...]

    def is_of(self, branches: Sequence[Path]) -> bool:
        """Whether it is what ``branches`` show."""
        return self.others == tuple(branches[1:]) and os.path.samestat(os.stat(branches[0]), os.fstat(self.top_fd))


class CopiedMount:
    """A copy as a mount that is attached nowhere, as `unionfs.client.DetachedMount`. `settle` must be called."""

    def __init__(self, copies: RootCopies, active: Active, inventory: Inventory, branches: Sequence[Path]) -> None:
        """A mount of the copy ``active`` of ``branches[1:]``. Raises OSError."""
        self._copies = copies
        self._active = active
        self._inventory = inventory
        self._branches = tuple(branches)
        self._furnishing: Furnishing | None = None
        self.fd = _detached(active.path) if copies.attachable else _directory(active.path)
        self.ended, self._tell = os.pipe2(os.O_CLOEXEC)

    def furnish(self, spec: SandboxSpec, stderr: Path | None = None) -> SandboxSpec:
        """What is left of ``spec`` for the sandbox: where nothing can be mounted its mounts lie in the copy now.

        The pipe at ``stderr`` is moved to /dev/stderr there: no /proc leads there.

        Raises:
            BuildError: something can't be shown, or the disk takes no more.
        """
        if self._copies.attachable:
            return spec
        from builder.rootcopies.surroundings import Makers, furnish

        aside = self._active.path.with_name(_ASIDE_NAME)
        try:
            # what the step before had laid aside is back
            remove_tree(aside)
            self._furnishing = Furnishing(self._active.path, aside)
            furnish(spec, self._furnishing, Makers(aside, self._active.path.parent.parent, stderr))
            self._furnishing.begin(self._inventory)
            await_tick(self._active.path.with_name(_PROBE_NAME), self._inventory.latest_ns)
        except OSError as error:
            message = f"the step can't be furnished: {describe_os_error(error)}"
            raise BuildError(message, hints=room_hints(error)) from error
        return spec._replace(binds=(), tmpfs=(), files=())

    def settle(self, *, take: bool) -> None:
        """The command has ended, nobody works in the copy any more; ``ended`` says how it went.

        ``take``: what was changed is in the topmost branch. Otherwise it is gone.
        """
        try:
            os.write(self._tell, json.dumps(self._taken() if take else self._dropped()).encode())
        finally:
            os.close(self._tell)

    def _taken(self) -> dict[str, str]:
        upper, *lower = self._branches
        furnishing = self._furnishing
        try:
            is_plain = furnishing is None or furnishing.take_out(self._inventory)
            with open_root(lower) as root:
                if root is None:
                    raise ValueError("a root has branches")
                left_out: frozenset[int] = frozenset() if furnishing is None else furnishing.inodes()
                after = take_changes(self._active.path, self._inventory, root, upper, left_out)
        except ReservedNameError as error:
            reason = str(error)
        except OSError as error:
            reason = f"what it changed can't be kept: {describe_os_error(error)}"
        else:
            if is_plain:
                self._copies.keep(self._active, after, self._branches)
                self._close()
            else:
                self._give_up()
            return {}
        self._give_up()
        return {"aborted": reason}

    def _dropped(self) -> dict[str, str]:
        self._give_up()
        return {}

    def _close(self) -> None:
        if self._furnishing is not None:
            self._furnishing.close()

    def _give_up(self) -> None:
        self._close()
        self._copies.give_up(self._active)


class RootCopies:
    """The copies of one build; calls may come from several threads."""

    def __init__(self, snapshotter: Snapshotter, why: str, *, attachable: bool = True) -> None:
        """``why`` FUSE can't be used; ``attachable`` says that something can be mounted."""
        self.why = why
        self.attachable = attachable
        self._snapshotter = snapshotter
        self._lock = threading.Lock()
        self._spare: list[_Spare] = []
        self._given_up: list[Active] = []

    def mount(self, branches: Sequence[Path]) -> CopiedMount:
        """What ``branches``, top first, show, to be changed; the topmost, empty, gets the changes.

        Raises:
            BuildError: the disk takes no copy, or programs can't be run there.
        """
        lower = branches[1:]
        try:
            spare, added = self._take_spare(lower)
            active = self._snapshotter.prepare("root", None) if spare is None else spare.active
            try:
                inventory = _filled(active, lower, added) if spare is None or added else spare.inventory
                await_tick(active.path.with_name(_PROBE_NAME), inventory.latest_ns)
                return CopiedMount(self, active, inventory, branches)
            except BaseException:
                self._snapshotter.remove(active)
                raise
        except OSError as error:
            message = f"the root of the step can't be copied: {describe_os_error(error)}"
            raise BuildError(message, hints=room_hints(error)) from error

    def keep(self, active: Active, inventory: Inventory, branches: Sequence[Path]) -> None:
        """The copy waits for a step on ``branches``, which it shows."""
        fd = os.open(branches[0], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with self._lock:
            self._spare.append(_Spare(active, inventory, fd, tuple(branches[1:])))
            old, self._spare = self._spare[:-_MOST_SPARE], self._spare[-_MOST_SPARE:]
        self._remove(old)

    def give_up(self, active: Active) -> None:
        """The copy is not used any more, and gone after `close`: a step that was killed may be dying in it still."""
        with self._lock:
            self._given_up.append(active)

    @staticmethod
    def describe_loss(report: bytes) -> str:
        """What a mount said (`CopiedMount.ended`) whose changes could not be kept."""
        return str(json.loads(report)["aborted"]) if report else "it was given up"

    def close(self) -> str:
        """No copy is left; nothing to say. Idempotent. To be called when no step runs any more."""
        with self._lock:
            old, self._spare = self._spare, []
            given_up, self._given_up = self._given_up, []
        self._remove(old)
        for active in given_up:
            self._snapshotter.remove(active)
        return ""

    def _take_spare(self, branches: Sequence[Path]) -> tuple[_Spare | None, Sequence[Path]]:
        """The copy of most of ``branches``, from the bottom up, that waits, and the branches it knows nothing of."""
        with self._lock:
            for number in range(len(branches)):
                for spare in self._spare:
                    if spare.is_of(branches[number:]):
                        self._spare.remove(spare)
                        os.close(spare.top_fd)
                        return spare, branches[:number]
        return None, branches

    def _remove(self, spares: Sequence[_Spare]) -> None:
        for spare in spares:
            os.close(spare.top_fd)
            self._snapshotter.remove(spare.active)


def _filled(active: Active, branches: Sequence[Path], added: Sequence[Path]) -> Inventory:
    """What the copy of ``branches`` holds, which is made: on top of what it is a copy of came ``added``."""
    with open_root(branches) as root:
        if root is not None and len(added) == len(branches):
            lay_out(root, active.path)
        elif root is not None:
            bring_forward(active.path, added, root)
    return take_inventory(active.path)


def _directory(path: Path) -> int:
    """The directory ``path``, where programs can be run and devices opened.

    Raises:
        OSError: EACCES where they can't.
    """
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    lacking = os.fstatvfs(fd).f_flag & (os.ST_NOEXEC | os.ST_NODEV)
    if lacking:
        os.close(fd)
        raise OSError(errno.EACCES, f"mounted with {'noexec' if lacking & os.ST_NOEXEC else 'nodev'}", os.fspath(path))
    return fd


def _detached(directory: Path) -> int:
    """A mount of ``directory``, attached nowhere, without what its file system forbids, as far as that may be lifted.

    Raises:
        OSError: EACCES where programs may not be run there; whatever else the kernel says.
    """
    fd = _sys.open_tree(os.fsencode(directory), recursive=False)
    try:
        try:
            _sys.mount_setattr(fd, 0, recursive=False, cleared=_RESTRICTIONS)
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
            # a plain user may not lift what root has laid upon the file system
            if os.fstatvfs(fd).f_flag & os.ST_NOEXEC:
                raise OSError(errno.EACCES, "mounted with noexec", os.fspath(directory)) from error
    except BaseException:
        os.close(fd)
        raise
    return fd
