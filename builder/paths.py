"""Paths inside a root that no link leads out of: the image's root, the build context.

A path is ``bytes``, relative to the root, cleaned and without leading slash; the root is empty. ``..`` at the root
stays there, as the kernel has it for ``/``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

_MOST_LINKS = 40
"""As many as Linux follows in one path (path_resolution(7))."""

Probe = Callable[[bytes], bytes | None]
"""The target of the symbolic link at a path; None for anything else and for nothing."""


def clean(path: str | bytes) -> bytes:
    """``path`` as a cleaned path in the root; what would lead above the root is left out."""
    kept: list[bytes] = []
    for part in os.fsencode(path).split(b"/"):
        if part == b"..":
            if kept:
                kept.pop()
        elif part not in {b"", b"."}:
            kept.append(part)
    return b"/".join(kept)


def follow(path: bytes, probe: Probe, *, last: bool = True) -> bytes:
    """The place ``path`` leads to when the links on the way, and with ``last`` the final one, are followed.

    What doesn't exist stays as it is. Absolute targets begin at the root. Raises OSError(ELOOP).
    """
    pending = path.split(b"/")[::-1]
    reached: list[bytes] = []
    links = 0
    while pending:
        part = pending.pop()
        if part in {b"", b"."}:
            continue
        if part == b"..":
            if reached:
                reached.pop()
            continue
        reached.append(part)
        if not pending and not last:
            break
        target = probe(b"/".join(reached))
        if target is None:
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), "/" + os.fsdecode(path.strip(b"/")))
        reached = [] if target.startswith(b"/") else reached[:-1]
        pending += target.split(b"/")[::-1]
    return b"/".join(reached)


def join(directory: bytes, name: bytes) -> bytes:
    """``name`` in ``directory``."""
    return directory + b"/" + name if directory and name else directory or name


def shown(path: bytes) -> str:
    """``path`` for messages, absolute in its root."""
    return "/" + path.decode("utf-8", "backslashreplace")


def host_path_inside(directory: str, name: str) -> str:
    """The path of ``name`` in a directory of this machine, links followed inside of that."""
    base = os.fsencode(directory)

    def target(path: bytes) -> bytes | None:
        try:
            return os.readlink(os.path.join(base, path))
        except OSError:
            return None

    return os.fsdecode(os.path.join(base, follow(clean(name), target)))
