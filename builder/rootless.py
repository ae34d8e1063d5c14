"""Builds of a plain user: the process becomes root of a user namespace of its own before it touches layers.

Layers hold files of many owners, so everything that unpacks, writes, packs or removes them happens there, as in the
sandboxes; files of other owners than root belong to the user's subordinate ids outside (subuid(5)).
Invariants: entered once and before the first thread; a process that is root already is left alone.
"""

from __future__ import annotations

import os

from builder.errors import BuildError


def become_root() -> bool:
    """This process is root, of the machine or of a user namespace of its own; whether it entered one now.

    Raises:
        BuildError: user namespaces are not to be had here.
    """
    if os.geteuid() == 0:
        return False
    from builder.sandbox import idmap

    try:
        idmap.enter()
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise BuildError(
            f"a plain user cannot build here: user namespaces are refused ({reason})",
            hints=(
                "as root, sysctl kernel.unprivileged_userns_clone=1 and user.max_user_namespaces above 0 allow them",
                "or build as root",
            ),
        ) from error
    return True
