"""The SQLite file behind the cache: opened, checked, replaced when it can't be used.

Invariants: what is answered comes from an undamaged file of this version; a file that is not is moved aside with a
warning and never deleted; whoever can't have a file at all gets None for every question and loses every statement.
A connection serves several threads, one transaction at a time. WAL: readers never wait, writers of several
processes wait for each other up to the busy timeout (https://sqlite.org/wal.html).
"""

from __future__ import annotations

import os
import sqlite3
import time
from _thread import RLock  # threading itself takes as long to load as five modules of ours
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cache.errors import DatabaseUnusableError

SCHEMA_VERSION = 1
APPLICATION_ID = 0x70794263  # "pyBc"
BUSY_SECONDS = 10.0
_PAUSE_SECONDS = 0.005
_ASIDE = ".unusable-"

Warn = Callable[[str], None]

_SCHEMA = """
CREATE TABLE record (
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, chain_id TEXT NOT NULL, parent_chain_id TEXT NOT NULL,
    diff_id TEXT NOT NULL, media_type TEXT NOT NULL, digest TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    created TEXT NOT NULL, created_ns INTEGER NOT NULL, duration_ns INTEGER NOT NULL,
    identity TEXT NOT NULL, description TEXT NOT NULL, parts TEXT NOT NULL,
    last_used_ns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX record_identity ON record (identity, created_ns);
CREATE INDEX record_chain ON record (chain_id);
CREATE TABLE file_digest (
    device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL, sha256 BLOB NOT NULL, xattrs BLOB NOT NULL, learned_ns INTEGER NOT NULL,
    PRIMARY KEY (device, inode)
) WITHOUT ROWID;
"""


class Database:
    """One connection to the file at ``path``, made when it is first needed. ``close`` is idempotent."""

    def __init__(self, path: str, warn: Warn) -> None:
        self.path = path
        self._warn = warn
        self._lock = RLock()
        self._connection: sqlite3.Connection | None = None
        self._given_up = False

    def query(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Rows of a SELECT; none when the file can't be used."""
        return self._attempt(lambda connection: connection.execute(statement, values).fetchall()) or []

    def change(self, statements: Iterable[tuple[str, Sequence[object]]]) -> int:
        """Number of rows changed by ``statements``, which were carried out as one transaction or not at all."""
        todo = list(statements)

        def carry_out(connection: sqlite3.Connection) -> int:
            connection.execute("BEGIN IMMEDIATE")
            try:
                changed = sum(connection.execute(statement, values).rowcount for statement, values in todo)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            return changed

        return self._attempt(carry_out) or 0

    def change_many(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """``statement`` is carried out for every row, as one transaction or not at all."""
        todo = list(rows)

        def carry_out(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany(statement, todo)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

        self._attempt(carry_out)

    def close(self) -> None:
        """The file is closed; the next question would open it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _attempt(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """What ``work`` returns; a damaged file is replaced and asked once more, an unusable one yields None."""
        with self._lock:
            for last in (False, True):
                if self._given_up:
                    return None
                try:
                    if self._connection is None:
                        self._connection = _open(self.path)
                    return work(self._connection)
                except (sqlite3.Error, DatabaseUnusableError, OSError) as error:
                    self._recover(error, last=last)
            return None

    def _recover(self, error: Exception, *, last: bool) -> None:
        """The damaged file is out of the way; or, where that is no cure, the cache is given up for this process."""
        self.close()
        if last or not _is_damage(error):
            self._given_up = True
            self._warn(f"build cache {self.path!r} is not used: {error}")
            return
        try:
            aside = _move_aside(self.path)
        except OSError as failure:
            self._given_up = True
            self._warn(f"build cache {self.path!r} is not used: {error}; it could not be moved aside: {failure}")
            return
        self._warn(f"build cache {self.path!r} starts empty: {error}; the old file is kept as {aside!r}")


def _open(path: str) -> sqlite3.Connection:
    """A connection to a file of this version; the file is made when there is none."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            _create(connection)
        elif version != SCHEMA_VERSION:
            raise DatabaseUnusableError(f"index has version {version}, expected {SCHEMA_VERSION}")
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def _create(connection: sqlite3.Connection) -> None:
    """The tables exist; another process may have made them at the same moment."""
    _write_ahead(connection)
    connection.execute("BEGIN EXCLUSIVE")
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            connection.execute("ROLLBACK")
            raise DatabaseUnusableError("index holds tables of something else")
        for statement in filter(str.strip, _SCHEMA.split(";")):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """The file is in WAL mode. Unlike all else the change does not wait for who reads or makes the same one."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _is_damage(error: Exception) -> bool:
    """Whether a new file would help: the file is no database, is torn, lacks tables or has another version."""
    if isinstance(error, DatabaseUnusableError):
        return True
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if isinstance(code, int) else None
    return primary in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH}


def _move_aside(path: str) -> str:
    """The name under which the file and its companions (WAL, shared memory) lie now. Raises OSError."""
    number = 1
    while os.path.exists(aside := f"{path}{_ASIDE}{number}"):
        number += 1
    os.rename(path, aside)
    for suffix in ("-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.rename(path + suffix, aside + suffix)
    return aside


def set_aside(path: str) -> list[str]:
    """The files that were put aside because they could not be used as the index at ``path``."""
    directory, name = os.path.split(path)
    return sorted(os.path.join(directory, one) for one in os.listdir(directory) if one.startswith(f"{name}{_ASIDE}"))
