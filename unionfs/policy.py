"""Where to create, copy up, hide and remove: decisions as data, made from values alone.

Positions count from the top, 0 first. Every function refuses with ``OSError(EROFS)`` when no writable branch can do
what is asked, before anything is done. docs/semantics.md shows these decisions as tables; the tests are those tables.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Sequence
from typing import Final

from unionfs.resolve import Kind, Probe
from unionfs.types import CreatePolicy, DeleteMode


class _Placed:
    """What is done at ``position``; equal to the same at the same place.

    Written out: a union is mounted in a process of its own, and dataclasses would take a fifth of its start.
    """

    __slots__ = ("position",)

    def __init__(self, position: int) -> None:
        self.position: Final = position

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Placed) and type(other) is type(self) and other.position == self.position

    def __hash__(self) -> int:
        return hash((type(self), self.position))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.position})"


class Remove(_Placed):
    """The instance at ``position`` goes."""

    __slots__ = ()


class Hide(_Placed):
    """A whiteout in the branch at ``position`` hides the name there and below."""

    __slots__ = ()


Action = Remove | Hide


_TOPMOST = (CreatePolicy.PARENT, CreatePolicy.TOP)
"""Policies that take the topmost writable branch where it holds the parent: nearly always, so it is decided first."""


def read_only_error(name: bytes = b"") -> OSError:
    """EROFS, naming the entry."""
    return OSError(errno.EROFS, os.strerror(errno.EROFS), name)


def plan_create(
    writable: Sequence[int],
    holders: Sequence[int],
    lowest: int,
    policy: CreatePolicy,
    free_bytes: Callable[[int], int],
    turn: int,
) -> tuple[int, ...]:
    """Positions that may get a new entry, the best first; a position that answers EROFS makes way for the next.

    ``holders`` hold the parent directory; ``lowest`` is the lowest position at which the entry would be seen (the
    parent's floor, or the whiteout of the name). Raises EROFS when there is none.
    """
    if policy in _TOPMOST and writable and writable[0] <= lowest and writable[0] in holders:
        return (writable[0],)
    candidates = [position for position in writable if position <= lowest]
    if not candidates:
        raise read_only_error()
    if policy is CreatePolicy.TOP:
        chosen = candidates[0]
    elif policy is CreatePolicy.MFS:
        chosen = max(candidates, key=lambda position: (free_bytes(position), -position))
    elif policy is CreatePolicy.RR:
        chosen = candidates[turn % len(candidates)]
    else:
        chosen = _beside_parent(candidates, holders)
    return (chosen, *(position for position in reversed(candidates) if position < chosen))


def _beside_parent(candidates: Sequence[int], holders: Sequence[int]) -> int:
    """The topmost candidate that holds the parent, else the nearest one above a holder."""
    for position in candidates:
        if position in holders:
            return position
    above = [position for position in candidates if not holders or position < max(holders)]
    return above[-1] if above else candidates[-1]


def plan_copyup(writable: Sequence[int], source: int, lowest: int) -> int:
    """Position a copy-up from ``source`` goes to: the nearest writable branch above, not below ``lowest``."""
    for position in reversed(writable):
        if position < source and position <= lowest:
            return position
    raise read_only_error()


def plan_removal(
    instances: Sequence[int], writable: Sequence[int], mode: DeleteMode, kept: Collection[int] = ()
) -> tuple[Action, ...]:
    """What unlink or rmdir does, in order, to a name with instances at these positions, top first.

    Up to the last action the union shows the name as before, from then on as the mode says. An instance at a position
    of ``kept`` holds things of its own that are hidden; below the top it is hidden, not removed. Raises EROFS.
    """
    top = instances[0]
    if mode is DeleteMode.FIRST:
        if top not in writable:
            raise read_only_error()
        return (Remove(top),)
    if mode is DeleteMode.ALL:
        return _plan_remove_all(instances, writable, kept)
    if top not in writable:
        return (Hide(plan_copyup(writable, top, top)),)
    if len(instances) > 1:
        return (Hide(top), Remove(top))
    return (Remove(top),)


def _plan_remove_all(instances: Sequence[int], writable: Sequence[int], kept: Collection[int]) -> tuple[Action, ...]:
    """Bottom first, so that a failure midway leaves what the user sees as it was."""
    # a mark in overlay form would take the place of an instance that is kept
    hiding = [position for position in writable if position not in kept]
    hides: set[int] = set()
    removes: set[int] = set()
    for position in instances:
        if position in writable and (position == instances[0] or position not in kept):
            removes.add(position)
        else:
            hides.add(plan_copyup(hiding, position, position))
    actions: list[Action] = []
    for position in sorted(hides | removes, reverse=True):
        # the mark first: it hides the instance beside it, which then can go
        if position in hides:
            actions.append(Hide(position))
        if position in removes:
            actions.append(Remove(position))
    return tuple(actions)


def plan_rename_branch(writable: Sequence[int], source: int, claims: Sequence[Probe], floor: int) -> int:
    """Position at which a rename takes place: that of the source when nothing above hides the new name there.

    ``claims`` is what the branches say about the new name, ``floor`` that of its directory. Raises EROFS.
    """
    lowest = floor
    for claim in claims:
        if claim.kind is not Kind.ABSENT:
            lowest = min(lowest, claim.position)
            break
    if source in writable and source <= lowest:
        return source
    return plan_copyup(writable, source, lowest)
