"""A change of branches while the union is in use: the old stack and the new one, with nothing between.

Invariants: everything is checked before anything is changed; a branch that stays keeps its descriptor; an open file
stays open on its branch, its name may lead elsewhere afterwards; a branch with open files is not removed, one with
files open for writing is not made read-only (``BranchBusyError``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from unionfs.branch import Branch, BranchStack, OpenBranch, check_distinct
from unionfs.errors import BranchBusyError, BranchSyntaxError
from unionfs.handles import Handle, Handles
from unionfs.inodes import FileNode
from unionfs.namedtuple import NamedTuple
from unionfs.takeback import recover
from unionfs.tree import Tree
from unionfs.types import Access

_WRITING = os.O_WRONLY | os.O_RDWR


class Wanted(NamedTuple):
    """A branch of a new stack; ``opened`` says which open branch it is when its path does not."""

    branch: Branch
    opened: OpenBranch | None = None


def change_stack(
    tree: Tree,
    handles: Handles,
    stack: Sequence[Wanted],
    *,
    read_only: bool,
    commit: Callable[[], None] | None = None,
) -> BranchStack:
    """The tree is that of ``stack``, top first; the new stack, of the next generation.

    ``commit`` is called between the checks and the change; what it raises leaves the old stack. Who gives one answers
    for the branches being distinct. A branch given as ``opened`` is taken over when the change is made.

    Raises:
        BranchBusyError: open files forbid it.
        BranchMissingError, BranchTwiceError: a branch cannot be had.
    """
    if not stack:
        raise BranchSyntaxError("dirs: expected at least one branch")
    current = {branch.branch.path: branch for branch in tree.branches}
    opened: list[OpenBranch] = []
    try:
        wanted: list[OpenBranch] = []
        for branch, known in stack:
            one = known if known is not None else current.get(branch.path)
            if one is None:
                one = OpenBranch(branch, len(wanted), read_only=read_only)
                opened.append(one)
            wanted.append(one)
        if commit is None:
            check_distinct(tuple(wanted))
        removed = [branch for branch in tree.branches if branch not in wanted]
        branches = tuple(one.branch for one in stack)
        _check_idle(tree, handles.files(), removed, wanted, branches)
        if commit is not None:
            commit()
    except BaseException:
        for one in opened:
            one.close()
        raise
    for position, (one, branch) in enumerate(zip(wanted, branches, strict=True)):
        one.assume(branch, position, read_only=read_only)
    changed = BranchStack(branches, tree.stack.generation + 1)
    _put(tree, changed, tuple(wanted))
    for one in removed:
        one.close()
    return changed


def _put(tree: Tree, stack: BranchStack, branches: tuple[OpenBranch, ...]) -> None:
    """The tree is that of the branches; its root keeps its number."""
    shown = tree.shown_ino(tree.stat(tree.root))
    tree.set_branches(stack, branches)
    tree.reload(tree.root, keep_handles=False)
    if tree.shown_ino(tree.stat(tree.root)) != shown:
        tree.origins[tree.identity(tree.stat(tree.root))] = shown
    recover(tree)


def _check_idle(
    tree: Tree,
    handles: Sequence[Handle],
    removed: Sequence[OpenBranch],
    wanted: Sequence[OpenBranch],
    branches: Sequence[Branch],
) -> None:
    for one in removed:
        _refuse_open(tree, one, [handle for handle in handles if handle.node.branch is one], "removed", "are on it")
    for one, branch in zip(wanted, branches, strict=True):
        if one.writable and branch.access is not Access.RW:
            writers = [handle for handle in handles if handle.node.branch is one and handle.flags & _WRITING]
            _refuse_open(tree, one, writers, f"made {branch.access.value}", "are written to")
            _refuse_kept(tree, one)


def _refuse_open(tree: Tree, branch: OpenBranch, handles: Sequence[Handle], what: str, why: str) -> None:
    if handles:
        nodes = {handle.node.ino: handle.node for handle in handles}
        inos = tuple(tree.node_attr(node).visible_ino for node in nodes.values())
        message = f"cannot be {what}, {len(handles)} open files {why}"
        raise BranchBusyError(branch.branch.path, message, inos, tuple(nodes))


def _refuse_kept(tree: Tree, branch: OpenBranch) -> None:
    kept = sum(1 for node in tree.table.values() if isinstance(node, FileNode) and node.kept and node.branch is branch)
    if kept:
        raise BranchBusyError(
            branch.branch.path,
            f"cannot be made ro, it keeps {kept} changed files for hard links that are not copied up yet",
        )
