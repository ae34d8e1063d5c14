"""Files of another step as RUN --mount=type=bind shows them: its layers themselves, merged where they lie.

::

    layers of the other step, top first          what is shown at the source        what is mounted
      sha256:c…/fs  srv/app/  (opaque)             c…/fs/srv/app                      a union of these directories,
      sha256:b…/fs  srv/app/                                                          below a branch that is thrown away
      sha256:a…/fs  srv/       ...                                                    where the mount may be written

Invariants: nothing is copied; nothing is written to a layer; what was mounted has ended, and its branch is gone, with
the stack it was made on.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from builder.rootfs import open_root
from builder.session import Session
from unionfs.branch import Branch, open_branches
from unionfs.explain import holders
from unionfs.types import Access, UnionOptions


def locate(layers: Sequence[Path], source: str) -> tuple[Path, ...]:
    """Where what ``source`` leads to in the root that ``layers`` (top first) make lies, top first; none: nowhere.

    Of a directory these are all that it is merged from.
    """
    with open_root(layers) as root:
        if root is None:
            return ()
        place = root.resolve(source)
    with ExitStack() as stack:
        opened = open_branches(tuple(Branch(os.fsencode(layer), Access.RO) for layer in layers))
        for branch in opened:
            stack.enter_context(closing(branch))
        return tuple(Path(os.fsdecode(one.branch.path), os.fsdecode(place)) for one in holders(opened, place))


def mount(session: Session, directories: Sequence[Path], stack: ExitStack, *, writable: bool, passthrough: str) -> int:
    """A detached union of ``directories``, top first; closed, ended, and what was written to it gone with ``stack``.

    Raises:
        UnionError: nothing can be mounted.
    """
    branches = [Branch(os.fsencode(directory), Access.RO) for directory in directories]
    if writable:
        branches.insert(0, Branch(os.fsencode(_fresh_branch(session, directories[0], stack))))
    mounted = session.servers.mount(branches, UnionOptions(volatile=True), passthrough=passthrough)
    stack.callback(_await_end, mounted.ended)
    stack.callback(mounted.settle, take=False)
    stack.callback(os.close, mounted.fd)
    return mounted.fd


def _fresh_branch(session: Session, like: Path, stack: ExitStack) -> Path:
    """An empty directory with the attributes of ``like``, which the root of a union has of its top branch."""
    active = session.snapshotter.prepare("mount", None)
    stack.callback(session.snapshotter.remove, active)
    status = like.stat()
    os.chown(active.path, status.st_uid, status.st_gid)
    active.path.chmod(stat.S_IMODE(status.st_mode))
    for name in os.listxattr(like):
        if name.startswith("user."):
            os.setxattr(active.path, name, os.getxattr(like, name))
    os.utime(active.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return active.path


def _await_end(ended: int) -> None:
    with open(ended, "rb") as file:
        file.read()
