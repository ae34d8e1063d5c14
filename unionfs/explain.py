"""Why a union shows what it shows of one path, branch by branch."""

from __future__ import annotations

import os
from collections.abc import Sequence

from unionfs.branch import Branch, OpenBranch
from unionfs.listing import probe, probe_one
from unionfs.namedtuple import NamedTuple
from unionfs.policy import plan_copyup
from unionfs.resolve import Kind, Probe, resolve


class Saying(NamedTuple):
    """What one branch says about the path, and what becomes of it."""

    branch: Branch
    says: str


class Explanation(NamedTuple):
    """``shown``: the position of the instance that shows, None when nothing does. ``change``: where a change goes."""

    shown: int | None
    change: str
    sayings: tuple[Saying, ...]


def explain(branches: Sequence[OpenBranch], path: bytes) -> Explanation:
    """What each branch, top first, says about ``path`` (relative, ``b""`` is the root)."""
    says: dict[int, str] = {}
    names = path.split(b"/") if path else []
    shown: int | None = None if names else 0
    prefix = b""
    for depth, name in enumerate(names):
        last = depth == len(names) - 1
        shown = _level([one for one in branches if one.position not in says], prefix, name, says, last=last)
        prefix += name + b"/"
    sayings = tuple(Saying(one.branch, says.get(one.position, "directory, merged")) for one in branches)
    return Explanation(shown, _change(branches, shown), sayings)


def holders(branches: Sequence[OpenBranch], path: bytes) -> tuple[OpenBranch, ...]:
    """The branches, of ``branches`` (top first), that hold what is shown at ``path``; none where nothing is.

    One of a file, all that it is merged from of a directory. No link is followed.
    """
    names = path.split(b"/") if path else []
    prefix = b""
    for depth, name in enumerate(names):
        found = resolve(tuple(probe(branches, prefix, name)), 0)
        if found.kind is Kind.FILE and depth < len(names) - 1:
            return ()
        branches = [branch for branch in branches if branch.position in found.positions]
        prefix += name + b"/"
    return tuple(branches)


def _level(
    branches: Sequence[OpenBranch], prefix: bytes, name: bytes, says: dict[int, str], *, last: bool
) -> int | None:
    """Adds to ``says`` what is decided at this name; the position of the top instance shown."""
    place = os.fsdecode(prefix + name)
    shown: int | None = None
    ended = ""
    for branch in branches:
        probe = probe_one(branch, prefix, name)
        what = _words(probe)
        if not last:
            what = f"{what} {place!r}"
        if probe.kind is Kind.ABSENT:
            says[branch.position] = what
            continue
        if ended:
            says[branch.position] = f"{what}, hidden by {ended}"
            continue
        if probe.kind is not Kind.DIRECTORY:
            says[branch.position] = what if probe.kind is Kind.WHITEOUT else f"{what}, shown"
            if shown is not None and probe.kind is Kind.FILE:
                says[branch.position] = f"{what}, hidden by the directory above"
        elif last:
            says[branch.position] = f"{what}, {'shown' if shown is None else 'merged'}"
        if shown is None and probe.kind is not Kind.WHITEOUT:
            shown = branch.position
        if probe.kind is not Kind.DIRECTORY or probe.opaque:
            ended = f"the {_words(probe)} in {os.fsdecode(branch.branch.path)!r}"
    return shown


def _words(probe: Probe) -> str:
    if probe.kind is Kind.ABSENT:
        return "nothing"
    if probe.kind is Kind.DIRECTORY and probe.opaque:
        return "opaque directory"
    return probe.kind.name.lower()


def _change(branches: Sequence[OpenBranch], shown: int | None) -> str:
    if shown is None:
        return "nothing is shown"
    if branches[shown].writable:
        return "changed in place"
    try:
        position = plan_copyup([one.position for one in branches if one.writable], shown, shown)
    except OSError:
        return "cannot be changed"
    return f"copied up to {os.fsdecode(branches[position].branch.path)!r} when changed"
