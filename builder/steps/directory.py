"""WORKDIR: a directory is made, with the parents that are missing."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from builder import identities, paths
from builder.graph import MakeDirectory
from builder.refusals import explained
from builder.rootfs import RootFs, open_root
from builder.trail import Attributes
from builder.upper import Upper

_MODE = 0o755


def apply(operation: MakeDirectory, branches: Sequence[Path], upper: Path) -> None:
    """The directory and its parents exist in the root of ``branches`` (top first) with ``upper`` on top.

    New ones have mode 0755 and belong to the operation's user; links on the way are followed inside the root. Where the
    directory is there, nothing is written.
    Raises BuildError: something that is no directory is in the way, the user is unknown, the disk refuses.
    """
    with explained(f"WORKDIR {operation.path!r} can't be made", f"WORKDIR {operation.path!r}"):
        _make(operation, branches, upper)


def _make(operation: MakeDirectory, branches: Sequence[Path], upper: Path) -> None:
    with open_root(branches) as root:
        owner = resolve_owner(operation.user, root)
        place = paths.clean(operation.path) if root is None else root.resolve(operation.path)
        there = None if root is None else root.lstat(place)
        if there is not None and stat.S_ISDIR(there.mode):
            return
        with Upper(upper, root) as layer:
            layer.directory(place, Attributes(_MODE, *owner))


def resolve_owner(text: str, root: RootFs | None) -> tuple[int, int]:
    """User and group that ``text`` means in ``root``, whose files name nobody when it is None (scratch).

    Raises UnknownIdentityError.
    """
    return identities.resolve_owner(text, (), ()) if root is None else root.resolve_owner(text)
