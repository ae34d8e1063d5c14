"""A change of branches while the union is in use: the old stack and the new one, with nothing between.

Invariants: everything is checked before anything is changed; a branch that stays keeps its descriptor; an open file
stays open on its branch, its name may lead elsewhere afterwards; a branch with open files is not removed, one with
files open for writing is not made read-only (``BranchBusyError``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from unionfs.branch import Branch, BranchStack, OpenBranch, check_distinct
from unionfs.errors import BranchBusyError, BranchSyntaxError
from unionfs.handles import Handle, Handles
from unionfs.tree import Tree
from unionfs.types import Access

_WRITING = os.O_WRONLY | os.O_RDWR


def change_stack(tree: Tree, handles: Handles, branches: Sequence[Branch], *, read_only: bool) -> BranchStack:
    """The tree is that of ``branches``, top first; the new stack, of the next generation.

    Raises:
        BranchBusyError: open files forbid it.
        BranchMissingError, BranchTwiceError: a branch cannot be had.
    """
    if not branches:
        raise BranchSyntaxError("dirs: expected at least one branch")
    current = {branch.branch.path: branch for branch in tree.branches}
    opened: list[OpenBranch] = []
    try:
        wanted: list[OpenBranch] = []
        for branch in branches:
            known = current.get(branch.path)
            if known is None:
                known = OpenBranch(branch, len(wanted), read_only=read_only)
                opened.append(known)
            wanted.append(known)
        check_distinct(tuple(wanted))
        removed = [branch for branch in tree.branches if branch not in wanted]
        _check_idle(handles.files(), removed, wanted, branches)
    except BaseException:
        for one in opened:
            one.close()
        raise
    for position, (one, branch) in enumerate(zip(wanted, branches, strict=True)):
        one.assume(branch, position, read_only=read_only)
    stack = BranchStack(tuple(branches), tree.stack.generation + 1)
    tree.set_branches(stack, tuple(wanted))
    tree.reload(tree.root, keep_handles=False)
    for one in removed:
        one.close()
    return stack


def _check_idle(
    handles: Sequence[Handle], removed: Sequence[OpenBranch], wanted: Sequence[OpenBranch], branches: Sequence[Branch]
) -> None:
    for one in removed:
        count = sum(1 for handle in handles if handle.node.branch is one)
        if count:
            raise BranchBusyError(one.branch.path, f"cannot be removed, {count} open files are on it")
    for one, branch in zip(wanted, branches, strict=True):
        if one.writable and branch.access is not Access.RW:
            count = sum(1 for handle in handles if handle.node.branch is one and handle.flags & _WRITING)
            if count:
                raise BranchBusyError(
                    branch.path, f"cannot be made {branch.access.value}, {count} files are written to"
                )
