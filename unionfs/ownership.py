"""Owners and modes as a union shows them, and as its branches store them; pure.

::

    branch ── permissions= (an attribute instead of the inode) ── uidmapping=, gidmapping= ── squash_to_… ──→ shown
    branch ←─ permissions= ──────────────────────────────────────  uidmapping=, gidmapping= ←───────────────── asked for

The options and the form of the attribute are those of fuse-overlayfs, so that either reads what the other wrote.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence

from unionfs.namedtuple import NamedTuple
from unionfs.types import Attr, Caller, IdRange, PermissionStore, SetAttr, UnionOptions

OVERFLOW_ID = 65534
"""What an id without a place in the map becomes, ``user_namespaces(7)``."""

STORES = {
    PermissionStore.PRIVILEGED: b"security.fuseoverlayfs.override_stat",
    PermissionStore.CONTAINERS: b"user.containers.override_stat",
}
"""The attribute that holds owner and mode."""

_PERMISSIONS = 0o7777
_TYPE = 0o170000


class Stored(NamedTuple):
    """Owner and mode of a file as an attribute keeps them; ``mode`` holds permission bits only."""

    uid: int
    gid: int
    mode: int


class Owners:
    """The ids of one mount."""

    def __init__(self, options: UnionOptions) -> None:
        self._uids, self._gids = options.uid_map, options.gid_map
        self._squash_uid, self._squash_gid = options.squash_uid, options.squash_gid

    def shown(self, attr: Attr) -> Attr:
        """``attr``, as stored, with the owner that is shown."""
        uid = show_id(attr.uid, self._uids) if self._squash_uid is None else self._squash_uid
        gid = show_id(attr.gid, self._gids) if self._squash_gid is None else self._squash_gid
        return attr._replace(uid=uid, gid=gid)

    def caller(self, caller: Caller) -> Caller:
        """``caller`` with the ids that what it makes is stored with."""
        return caller._replace(uid=store_id(caller.uid, self._uids), gid=store_id(caller.gid, self._gids))

    def changes(self, changes: SetAttr) -> SetAttr:
        """``changes`` with the ids to store."""
        uid = None if changes.uid is None else store_id(changes.uid, self._uids)
        gid = None if changes.gid is None else store_id(changes.gid, self._gids)
        return changes._replace(uid=uid, gid=gid)


def parse_id_map(text: str) -> tuple[IdRange, ...]:
    """The ranges of ``STORED:SHOWN:LENGTH[:STORED:SHOWN:LENGTH…]``.

    Raises:
        ValueError: it is not of that form.
    """
    numbers = [int(word) for word in text.split(":") if word]
    if not numbers or len(numbers) % 3 or min(numbers) < 0:
        raise ValueError(f"expected STORED:SHOWN:LENGTH, got {text!r}")
    return tuple(IdRange(*numbers[at : at + 3]) for at in range(0, len(numbers), 3))


def show_id(stored: int, ranges: Sequence[IdRange]) -> int:
    """The id that is shown for a stored one; without ranges the same."""
    for one in ranges:
        if one.stored <= stored < one.stored + one.length:
            return one.shown + stored - one.stored
    return OVERFLOW_ID if ranges else stored


def store_id(shown: int, ranges: Sequence[IdRange]) -> int:
    """The id to store for one that was asked for; without ranges the same."""
    for one in ranges:
        if one.shown <= shown < one.shown + one.length:
            return one.stored + shown - one.shown
    return OVERFLOW_ID if ranges else shown


def can_carry(mode: int) -> bool:
    """Whether a file of this type can have the attribute; ``xattr(7)`` has it for these alone."""
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def encode_stored(stored: Stored) -> bytes:
    """The value of the attribute."""
    return b"%d:%d:%o" % stored


def decode_stored(value: bytes) -> Stored | None:
    """What the attribute says, or None when it is none of this form; a type after the mode is left alone."""
    words = value.split(b":")
    try:
        return Stored(int(words[0]), int(words[1]), int(words[2], 8) & _PERMISSIONS)
    except (IndexError, ValueError):
        return None


def apply_stored(attr: Attr, value: bytes) -> Attr:
    """``attr`` with the owner and mode that the attribute's ``value`` says."""
    stored = decode_stored(value)
    if stored is None:
        return attr
    return attr._replace(uid=stored.uid, gid=stored.gid, mode=attr.mode & _TYPE | stored.mode)


def inode_mode(mode: int) -> int:
    """Permission bits for the inode of a file whose mode is kept elsewhere: its owner can always work with it."""
    return mode & 0o777 | (0o700 if stat.S_ISDIR(mode) else 0o600)
