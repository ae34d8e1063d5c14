"""What a thread, and whatever it starts, may be at most: it comes down to that in two steps.

Invariants: privileges fall in one order: before the step is known session keyring, filter (needs CAP_SYS_ADMIN, since
no_new_privs stays off for setuid programs) and bounding set, then groups, ids, capabilities; what is done after the
filter is in place is allowed by it; no other thread of the process changes.
"""

from __future__ import annotations

import errno

from builder.sandbox import _sys, caps
from builder.sandbox.furnish import Stage
from builder.sandbox.spec import User
from unionfs.namedtuple import NamedTuple


class Confinement(NamedTuple):
    """What a command may be at most; ``last_capability`` is the kernel's highest.

    ``sets_groups``: supplementary groups can be set here.
    """

    capabilities: int
    last_capability: int
    seccomp: _sys.SeccompFilter | None
    sets_groups: bool


def confine(confinement: Confinement) -> None:
    """Nothing this thread starts can get more than ``confinement``; it keeps its own capabilities for now."""
    with Stage("making", "session keyring"):
        _new_keyring()
    if confinement.seccomp is not None:
        with Stage("installing", "seccomp filter"):
            confinement.seccomp.install()
    with Stage("dropping", "capabilities"):
        caps.limit_bounding_set(confinement.capabilities, confinement.last_capability)


def take_identity(user: User, confinement: Confinement) -> None:
    """From here on the thread is what the step may be."""
    uid, gid, groups = user
    with Stage("changing to", f"user {uid}:{gid}"):
        # one that is mapped alone can't set groups, and has none to lose
        if groups or confinement.sets_groups:
            _sys.setgroups(user.every_group)
        _sys.setresgid(gid)
        _sys.setresuid(uid)
    with Stage("setting", "capabilities"):
        held = confinement.capabilities if uid == 0 else 0
        _sys.capset(held, held, 0)


def _new_keyring() -> None:
    try:
        _sys.join_new_session_keyring()
    except OSError as error:
        # a kernel without keys, too many keys, an outer container's filter: keyctl is refused to the step in any case
        if error.errno not in {errno.ENOSYS, errno.EDQUOT, errno.EPERM}:
            raise
