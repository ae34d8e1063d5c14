"""What may help when the store, its disk or a registry refuses. Only who has an error comes here."""

from __future__ import annotations

import errno

from builder.errors import room_hints
from layers.errors import DamagedBlobError, ImageNotFoundError, StoreError
from layers.registry.errors import DeniedError, UnauthorizedError

_ELSEWHERE = frozenset((errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR))


def hints_for(error: BaseException) -> tuple[str, ...]:
    """Hints for whoever sees ``error``; none where nothing is known."""
    if isinstance(error, ImageNotFoundError):
        return ("pybuild images lists what is there",)
    if isinstance(error, DamagedBlobError):
        return ("pull, load or build it again: what comes takes the place of what is damaged",)
    if isinstance(error, UnauthorizedError | DeniedError):
        registry, slash, _ = error.subject.partition("/")
        # without an image it was the registry itself that was asked, by login
        return (f"pybuild login {registry} keeps credentials",) if slash else ()
    cause = error.__cause__
    if isinstance(error, StoreError) and isinstance(cause, OSError) and cause.errno in _ELSEWHERE:
        return ("--root DIR puts the store elsewhere, and so does XDG_DATA_HOME",)
    return room_hints(error)
