"""Builds of who may not mount: the process becomes root of a user namespace of its own before it touches layers.

Layers hold files of many owners, so everything that unpacks, writes, packs or removes them happens there, as in the
sandboxes; files of other owners than root belong to a plain user's subordinate ids outside (subuid(5)). Root without
CAP_SYS_ADMIN, as in most containers, keeps its ids there.
Invariants: entered once and before the first thread; a process that is root and may mount is left alone, unless it asks
for the isolation ``rootless``.
"""

from __future__ import annotations

import os

from builder.errors import BuildError
from unionfs.privileges import is_machine_root, may_mount


def become_root(isolation: str = "auto") -> bool:
    """This process is root, of the machine or of a user namespace of its own; whether it entered one now.

    ``isolation`` is what steps are to be run with (`builder.sandbox.isolation`).

    Raises:
        BuildError: user namespaces are not to be had here.
    """
    is_root = os.geteuid() == 0
    asked = isolation == "rootless" and is_machine_root()
    if is_root and may_mount() and not asked:
        return False
    from builder.sandbox import idmap

    try:
        idmap.enter()
    except OSError as error:
        if is_root and not asked:
            # what needs no steps works; a step says what is missing
            return False
        reason = os.strerror(error.errno or 0).lower()
        if asked:
            raise BuildError(f"isolation rootless can't be had here: user namespaces are refused ({reason})") from error
        raise BuildError(
            f"a plain user cannot build here: user namespaces are refused ({reason})",
            hints=(
                "as root, sysctl kernel.unprivileged_userns_clone=1 and user.max_user_namespaces above 0 allow them",
                "or build as root",
            ),
        ) from error
    return True
