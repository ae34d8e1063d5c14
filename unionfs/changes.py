"""Changes of a stack of branches, as ``unionctl`` asks for them; pure.

A branch is named by its path or by its position, counted from 0 at the top.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from unionfs.branch import Branch
from unionfs.errors import BranchUnknownError, UnionError
from unionfs.namedtuple import NamedTuple
from unionfs.types import Access
from unionfs.wire import Message


class Add(NamedTuple):
    """``branch`` joins, just above or below another; at the top when neither is named."""

    branch: Branch
    before: bytes | int | None = None
    after: bytes | int | None = None


class Remove(NamedTuple):
    """A branch leaves."""

    which: bytes | int


class SetAccess(NamedTuple):
    """A branch may be treated differently from now on."""

    which: bytes | int
    access: Access


Change = Add | Remove | SetAccess


def plan_branches(branches: Sequence[Branch], changes: Sequence[Change]) -> tuple[Branch, ...]:
    """``branches`` after all ``changes``, in their order.

    Raises:
        BranchUnknownError: a branch that is named is not there.
        UnionError: the last branch would leave.
    """
    planned = list(branches)
    for change in changes:
        if isinstance(change, Add):
            planned.insert(_place(planned, change), change.branch)
        elif isinstance(change, Remove):
            del planned[_find(planned, change.which)]
        else:
            at = _find(planned, change.which)
            planned[at] = planned[at]._replace(access=change.access)
    if not planned:
        raise UnionError("union: the last branch cannot be removed")
    return tuple(planned)


def encode_change(change: Change) -> Message:
    """``change`` as JSON."""
    if isinstance(change, Add):
        return {
            "add": os.fsdecode(change.branch.path),
            "access": change.branch.access.value,
            "before": _encode_name(change.before),
            "after": _encode_name(change.after),
        }
    if isinstance(change, Remove):
        return {"remove": _encode_name(change.which)}
    return {"set": _encode_name(change.which), "access": change.access.value}


def decode_change(message: Message) -> Change:
    """The change that `encode_change` wrote.

    Raises:
        KeyError, TypeError, ValueError: the message is none.
    """
    if "add" in message:
        branch = Branch(os.fsencode(message["add"]), Access(message["access"]))
        return Add(branch, _decode_name(message["before"]), _decode_name(message["after"]))
    if "remove" in message:
        return Remove(_needed(message["remove"]))
    return SetAccess(_needed(message["set"]), Access(message["access"]))


def _place(branches: Sequence[Branch], change: Add) -> int:
    if change.before is not None:
        return _find(branches, change.before)
    if change.after is not None:
        return _find(branches, change.after) + 1
    return 0


def _find(branches: Sequence[Branch], which: bytes | int) -> int:
    if isinstance(which, int):
        if 0 <= which < len(branches):
            return which
        raise BranchUnknownError(b"%d" % which, f"the union has {len(branches)} branches, counted from 0")
    for position, branch in enumerate(branches):
        if branch.path == which:
            return position
    raise BranchUnknownError(which, "is no branch of the union")


def _encode_name(which: bytes | int | None) -> str | int | None:
    return os.fsdecode(which) if isinstance(which, bytes) else which


def _decode_name(value: str | int | None) -> bytes | int | None:
    return os.fsencode(value) if isinstance(value, str) else value


def _needed(value: str | int) -> bytes | int:
    which = _decode_name(value)
    if which is None:
        raise TypeError("expected a branch, got none")
    return which
