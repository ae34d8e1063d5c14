"""Room for groups below a version 2 group that was delegated to us, as systemd does with Delegate=yes.

::

    DELEGATED/                     gives its controllers on, so it may have no members (cgroup-v2.rst, "No Internal
        pybuild-members/           Process Constraint"): those it had are here meanwhile
        pybuild-…-…-…/<n>/         the steps of one sandbox server

Invariants: nothing is moved where a group needs it not; the last server to end gives the members back and takes the
controllers away again, also in the place of one that was killed (`give_back` is part of `cgroup.sweep`).
"""

from __future__ import annotations

import os

from builder.sandbox.controlfiles import children_of, make, read, remove, write

MEMBERS = "pybuild-members"
_OURS = "pybuild-"
_ROUNDS = 100


def vacate(path: str) -> bool:
    """The group at ``path`` has no members: they are in a group below it; False where that can't be."""
    if not os.access(f"{path}/cgroup.subtree_control", os.W_OK) or not make(f"{path}/{MEMBERS}"):
        return False
    if _move(path, f"{path}/{MEMBERS}"):
        return True
    give_back(path)
    return False


def give_back(path: str) -> None:
    """The group at ``path`` is as it was before `vacate`, unless groups of steps are still below it."""
    members = f"{path}/{MEMBERS}"
    if not os.path.isdir(members) or any(name.startswith(_OURS) and name != MEMBERS for name in children_of(path)):
        return
    control = f"{path}/cgroup.subtree_control"
    for controller in read(control).split():
        write(control, f"-{controller}")
    if _move(members, path):
        remove(members)


def _move(source: str, target: str) -> bool:
    """Every member of ``source`` is one of ``target``, those that are born meanwhile too."""
    for _ in range(_ROUNDS):
        pids = read(f"{source}/cgroup.procs").split()
        if not pids:
            return True
        moved = [pid for pid in pids if write(f"{target}/cgroup.procs", pid)]
        if not moved:
            # what can't be moved has ended, or is not ours
            return not read(f"{source}/cgroup.procs").split()
    return False
