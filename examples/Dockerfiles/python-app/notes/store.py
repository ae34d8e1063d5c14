"""Where notes are kept: one SQLite file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import NamedTuple


class Note(NamedTuple):
    """One note, as it is stored."""

    number: int
    text: str


class Store:
    """Notes in the file ``path``, which is made when it is not there."""

    def __init__(self, path: str) -> None:
        self._path = path
        with closing(self._connect()) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS note (number INTEGER PRIMARY KEY, text TEXT NOT NULL)")

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path)

    def add(self, text: str) -> Note:
        """The note is stored; its number is the next free one."""
        with closing(self._connect()) as connection, connection:
            cursor = connection.execute("INSERT INTO note (text) VALUES (?)", (text,))
        return Note(int(cursor.lastrowid or 0), text)

    def all(self) -> list[Note]:
        """Every note, oldest first."""
        with closing(self._connect()) as connection:
            return [Note(*row) for row in connection.execute("SELECT number, text FROM note ORDER BY number")]
