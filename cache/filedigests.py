"""What files of this machine were found to hold, so that unchanged ones are not read again.

Invariants: an answer is given only for exactly the state it was learned in (device, inode, size, mtime, ctime); a
file that changed less than two seconds before it was read is not learned, since a further change within the same
tick of the file system's clock would leave no trace (git's "racy" entries). The time of learning would not do: a large
file, or the thousand around a small one, may take longer to read than that.
"""

from __future__ import annotations

import time

from cache.contenthash import FileState, KnownFile
from cache.database import Database

RACY_NS = 2_000_000_000
_QUESTIONS = 500


class FileDigests:
    """The table of one cache (``cache.contenthash.FileMemory``)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def recall(self, states: list[FileState]) -> dict[FileState, KnownFile]:
        """What is known of files that are still in the given state."""
        wanted: dict[int, list[FileState]] = {}
        for state in states:
            wanted.setdefault(state.device, []).append(state)
        found: dict[FileState, KnownFile] = {}
        for device, members in wanted.items():
            for start in range(0, len(members), _QUESTIONS):
                chunk = members[start : start + _QUESTIONS]
                found.update(self._ask(device, chunk))
        return found

    def learn(self, found: dict[FileState, KnownFile], read_since_ns: int) -> None:
        """The given files are known, except those that changed just before they were read."""
        now_ns = time.time_ns()
        before_ns = min(now_ns, read_since_ns) - RACY_NS
        rows = [
            (*_signed(state), known.sha256, known.xattrs, now_ns)
            for state, known in found.items()
            if state.mtime_ns < before_ns and state.ctime_ns < before_ns
        ]
        if rows:
            self._database.change_many("INSERT OR REPLACE INTO file_digest VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def forget_older(self, before_ns: int) -> None:
        """What was learned before ``before_ns`` is forgotten."""
        self._database.change([("DELETE FROM file_digest WHERE learned_ns < ?", (before_ns,))])

    def _ask(self, device: int, states: list[FileState]) -> dict[FileState, KnownFile]:
        """Answers for files of one device."""
        marks = ",".join("?" * len(states))
        rows = self._database.query(
            "SELECT inode, size, mtime_ns, ctime_ns, sha256, xattrs FROM file_digest"  # noqa: S608 - only marks vary
            f" WHERE device = ? AND inode IN ({marks})",
            [_as_signed(device), *(_as_signed(state.inode) for state in states)],
        )
        by_inode = {row[0]: row for row in rows}
        found: dict[FileState, KnownFile] = {}
        for state in states:
            row = by_inode.get(_as_signed(state.inode))
            if row is not None and row[1:4] == state[2:]:
                found[state] = KnownFile(row[4], row[5])
        return found


def _signed(state: FileState) -> tuple[int, ...]:
    """``state`` as SQLite's integers."""
    return (_as_signed(state.device), _as_signed(state.inode), *state[2:])


def _as_signed(number: int) -> int:
    """SQLite's integers are signed and of 64 bits, the kernel's numbers are unsigned."""
    return number - (1 << 64) if number >= 1 << 63 else number
