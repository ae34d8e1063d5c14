"""The root of a step, and who users are in it.

Invariants: layers below a step never change, so what was found in them holds for the whole build; what was found below
holds on top of a further layer that neither has an ``/etc`` nor hides one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Sequence
from pathlib import Path

from builder.errors import BuildError
from builder.identities import UnknownIdentityError
from builder.rootfs import GROUP, PASSWD, RootFs
from builder.sandbox.spec import User
from unionfs.branch import Branch, BranchStack
from unionfs.namedtuple import NamedTuple
from unionfs.types import Access
from unionfs.union import Union
from unionfs.whiteout import carries_opaque_xattr, is_reserved

_ETC = os.path.dirname(PASSWD)


class Root(NamedTuple):
    """The branches of a step's root: ``upper`` is written, ``lower`` are the parent's layers, top first."""

    upper: Path
    lower: tuple[Path, ...]


@contextlib.contextmanager
def opened(root: Root) -> Generator[RootFs]:
    """The files of the root, read in this process."""
    branches = (Branch(os.fsencode(path), Access.RO) for path in root.lower)
    with contextlib.closing(Union(BranchStack((Branch(os.fsencode(root.upper), Access.RW), *branches)))) as union:
        yield RootFs(union)


def resolve_user(user: str, root: Root) -> tuple[User, str]:
    """Who ``user`` is in the image, and that one's home directory.

    Raises:
        BuildError: the image does not know the name.
    """
    with opened(root) as files:
        return _resolve(user, files)


class _Known(NamedTuple):
    """Who a user is in the layers ``lower``."""

    lower: tuple[Path, ...]
    user: User
    home: str


class KnownUsers:
    """Who users are in the roots of one build: a step that stands on another hardly ever has others.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, Path | None], _Known] = {}

    def resolve(self, user: str, root: Root) -> tuple[User, str]:
        """As `resolve_user`."""
        place = user, root.lower[-1] if root.lower else None
        known = self._known.get(place)
        if known is not None and _holds_still(known, root):
            self._known[place] = known._replace(lower=root.lower)
            return known.user, known.home
        with opened(root) as files:
            found, home = _resolve(user, files)
            leads_away = any(files.resolve(path) != path for path in (PASSWD, GROUP))
        if leads_away or _touches_etc((root.upper,)):
            self._known.pop(place, None)
        else:
            self._known[place] = _Known(root.lower, found, home)
        return found, home


def _resolve(user: str, files: RootFs) -> tuple[User, str]:
    try:
        found = files.resolve_user(user)
    except UnknownIdentityError as error:
        raise BuildError(f"USER {user}: {error}") from error
    return User(found.uid, found.gid, found.groups), found.home


def _holds_still(known: _Known, root: Root) -> bool:
    """Whether the root has the known layers at its bottom, and nothing on top of them that changes their ``/etc``."""
    above = len(root.lower) - len(known.lower)
    if above < 0 or root.lower[above:] != known.lower:
        return False
    return not _touches_etc((root.upper, *root.lower[:above]))


def _touches_etc(layers: Sequence[Path]) -> bool:
    """Whether one of the directories has an ``etc``, or marks at its root, whatever they hide."""
    for layer in map(os.fsencode, layers):
        if any(name == _ETC or is_reserved(name) for name in os.listdir(layer)) or carries_opaque_xattr(layer):
            return True
    return False
