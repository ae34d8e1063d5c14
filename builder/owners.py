"""Owners where only one user exists: a builder in a user namespace of one id (user_namespaces(7)).

Files of bases are root's there, whoever they belong to. What a Dockerfile gives to others fails, with a hint, or is
root's too where the build was told to ignore that.

Invariants: a build that ignores owners has keys of its own wherever a result may differ for it, so no other build gets
what lacks them.
"""

from __future__ import annotations

import errno

from builder.errors import StepFailed
from builder.graph import Copy, Graph, MakeDirectory, Operation
from unionfs.privileges import mapped_ids

ONE_OWNER_HINTS = (
    "only user 0 exists here: entries in /etc/subuid and /etc/subgid, with newuidmap, give more",
    "or let everything be root's: --ignore-chown-errors",
)
# what programs say that wanted another owner, user or group than exists
_REFUSALS = ("nvalid argument", "not permitted")


def has_one_owner() -> bool:
    """Whether files can belong to nobody but root here."""
    return mapped_ids() == 1


def give_all_to_root(graph: Graph) -> Graph:
    """``graph`` with no step but RUN that gives files to others, as if the Dockerfile had not asked for it."""
    return graph._replace(steps=tuple(step._replace(operation=_to_root(step.operation)) for step in graph.steps))


def owner_hints(error: BaseException | None) -> tuple[str, ...]:
    """What may help when an owner that does not exist here is behind ``error``; nothing when it is not."""
    while error is not None:
        refused = isinstance(error, OSError) and error.errno == errno.EINVAL
        if isinstance(error, StepFailed):
            refused = any(word in line for line in (*error.output, error.message) for word in _REFUSALS)
        if refused and has_one_owner():
            return ONE_OWNER_HINTS
        error = error.__cause__
    return ()


def _to_root(operation: Operation) -> Operation:
    if isinstance(operation, Copy):
        return operation._replace(chown="")
    if isinstance(operation, MakeDirectory):
        return operation._replace(user="")
    return operation
