"""Builds of who may not mount: the process becomes root of a user namespace of its own before it touches layers.

Layers hold files of many owners, so everything that unpacks, writes, packs or removes them happens there, as in the
sandboxes; files of other owners than root belong to a plain user's subordinate ids outside (subuid(5)). Root without
CAP_SYS_ADMIN, as in most containers, keeps its ids there.
Invariants: entered once and before the first thread; a process that is root and may mount is left alone, unless it asks
for the isolation ``rootless``; one that is root and is to do without namespaces is left alone as well.
"""

from __future__ import annotations

import os

from builder.errors import BuildError
from unionfs.privileges import is_in_container, is_machine_root, may_mount

_AS_ROOT = ("or build as root",)


def become_root(isolation: str = "auto") -> bool:
    """This process is root, of the machine or of a user namespace of its own; whether it entered one now.

    ``isolation`` is what steps are to be run with (`builder.sandbox.isolation`).

    Raises:
        BuildError: user namespaces are not to be had here.
    """
    is_root = os.geteuid() == 0
    asked = isolation == "rootless" and is_machine_root()
    if is_root and ((may_mount() and not asked) or isolation == "no-namespaces"):
        return False
    from builder.sandbox import idmap

    try:
        idmap.enter()
    except OSError as error:
        if is_root and not asked:
            # what needs no steps works; a step says what is missing
            return False
        from builder.sandbox.isolation import hint_on_namespaces

        reason = os.strerror(error.errno or 0).lower()
        who = "isolation rootless can't be had" if is_root else "a plain user cannot build"
        in_container = is_in_container()
        # as root of a container nothing more is allowed than here
        hints = (hint_on_namespaces(in_container=in_container), *(() if is_root or in_container else _AS_ROOT))
        raise BuildError(f"{who} here: user namespaces are refused ({reason})", hints=hints) from error
    return True
