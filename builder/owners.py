"""Owners where only one user exists: a builder in a user namespace of one id (user_namespaces(7)).

Files of bases are root's there, whoever they belong to. What a Dockerfile gives to others fails, with a hint, or is
root's too where the build was told to ignore that.

Invariants: a build that ignores owners has keys of its own wherever a result may differ for it, so no other build gets
what lacks them.
"""

from __future__ import annotations

import errno

from builder.errors import StepFailed
from builder.graph import CacheMount, Copy, Graph, MakeDirectory, Mount, Operation, Run, SecretMount, SshMount
from unionfs.privileges import mapped_ids

MORE_OWNERS_HINT = "only user 0 exists here: entries in /etc/subuid and /etc/subgid, with newuidmap, give more"
IGNORE_HINT = "or let everything be root's: --ignore-chown-errors"
APT_HINT = "apt-get does without another user with -o APT::Sandbox::User=root"
# what programs say that wanted another owner, user or group than exists
_REFUSALS = ("nvalid argument", "not permitted")
# what apt-get says where it cannot become its own user; no option of the builder makes that work
_APT = "E: seteuid "


def has_one_owner() -> bool:
    """Whether files can belong to nobody but root here."""
    return mapped_ids() == 1


def give_all_to_root(graph: Graph) -> Graph:
    """``graph`` with nothing but commands that gives files to others, as if the Dockerfile had not asked for it."""
    return graph._replace(steps=tuple(step._replace(operation=_to_root(step.operation)) for step in graph.steps))


def owner_hints(error: BaseException | None, *, ignored: bool) -> tuple[str, ...]:
    """What may help when an owner that does not exist here is behind ``error``; nothing when it is not.

    ``ignored``: the build gives all files to root already.
    """
    while error is not None:
        said = (*error.output, error.message) if isinstance(error, StepFailed) else ()
        refused = isinstance(error, OSError) and error.errno == errno.EINVAL
        if (refused or any(word in line for line in said for word in _REFUSALS)) and has_one_owner():
            by_apt = any(line.startswith(_APT) for line in said)
            return (MORE_OWNERS_HINT, *([APT_HINT] if by_apt else []), *([] if ignored else [IGNORE_HINT]))
        error = error.__cause__
    return ()


def _to_root(operation: Operation) -> Operation:
    if isinstance(operation, Copy):
        # members of an archive have owners of their own
        return operation._replace(chown="0:0" if operation.unpack or operation.unpack_remote else "")
    if isinstance(operation, MakeDirectory):
        return operation._replace(user="")
    if isinstance(operation, Run):
        return operation._replace(mounts=tuple(map(_mount_of_root, operation.mounts)))
    return operation


def _mount_of_root(mount: Mount) -> Mount:
    """The mount with root as owner. A cache keeps its id, which tells of the owner that was asked for."""
    return mount._replace(uid=0, gid=0) if isinstance(mount, CacheMount | SecretMount | SshMount) else mount
