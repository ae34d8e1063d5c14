"""Errors of managing a union; errors of a file operation are plain ``OSError``.

::

    UnionError
    ├── BranchError             a branch, named by ``path``
    │   ├── BranchMissingError      it is no directory
    │   ├── BranchTwiceError        it is already in the stack, or lies inside another
    │   ├── BranchInsideError       it lies inside the union itself
    │   ├── BranchUnknownError      the stack does not hold it
    │   └── BranchBusyError         files on it are open
    ├── SnapshotError           a snapshot cannot be made, found or dropped
    ├── BranchSyntaxError       the text of ``dirs=`` cannot be read
    └── MergeError              snapmerge cannot do what was asked
"""

from __future__ import annotations

import os


class UnionError(Exception):
    """Anything that keeps a union from being made or changed; one line that names the branch or option."""

    hint = ""
    """What would help, when that can be said."""


def reason(error: OSError) -> str:
    """Why a system call failed, without its subject."""
    return (error.strerror or str(error)).lower()


def one_line(error: Exception) -> str:
    """What went wrong, subject first: the path of a system call that failed, then the reason."""
    if not isinstance(error, OSError):
        return str(error)
    if isinstance(error.filename, str | bytes):
        return f"{os.fsdecode(error.filename)!r}: {reason(error)}"
    return reason(error)


class BranchError(UnionError):
    """Something is wrong with one branch."""

    def __init__(self, path: bytes, message: str) -> None:
        super().__init__(f"branch {os.fsdecode(path)!r}: {message}")
        self.path = path


class BranchMissingError(BranchError):
    """The branch is not there or is no directory."""


class BranchTwiceError(BranchError):
    """The branch is a second time in the stack, or lies inside another branch."""


class BranchInsideError(BranchError):
    """The branch lies inside the union it shall be part of."""


class BranchUnknownError(BranchError):
    """The stack does not hold the branch."""


class BranchBusyError(BranchError):
    """Files on the branch are open in a way that forbids the change.

    ``inos`` are the numbers they show, ``nodes`` those the transport knows them by.
    """

    def __init__(self, path: bytes, message: str, inos: tuple[int, ...] = (), nodes: tuple[int, ...] = ()) -> None:
        super().__init__(path, message)
        self.inos = inos
        self.nodes = nodes


class BranchSyntaxError(UnionError):
    """The text of ``dirs=`` cannot be read."""


class SnapshotError(UnionError):
    """A snapshot cannot be made, found, gone back to or dropped."""


class MergeError(UnionError):
    """A merge of snapshots cannot begin."""
