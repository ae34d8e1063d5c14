"""The index of what was built: key to result, for several processes at once.

Invariants: a record is written when its layer is stored, so a hit always had a layer (the caller asks the store
whether it is still there); the last result of a key counts; a cache that can't be read or written is an empty one
and says so once, through the ``warn`` given at the start. Nothing here raises for the state of the cache.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Self

from cache.database import Database
from cache.filedigests import FileDigests
from cache.keys import CacheKey, Part
from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from cache.prune import Filter, PrunePlan, Result

FILE_NAME = "cache.db"
LOCK_DIRECTORY = "locks"
_TOUCH_NS = 300 * 1_000_000_000
"""Uses closer together than this are one use: a cached build needn't write."""
_FILES_NS = 90 * 24 * 3600 * 1_000_000_000
"""What was learned of files this long ago is forgotten when the cache is pruned; they are read once more then."""
_NEAREST = 50

_COLUMNS = (
    "key, kind, chain_id, parent_chain_id, diff_id, media_type, digest, size_bytes, created, created_ns,"
    " duration_ns, identity, description, parts, last_used_ns"
)


class CacheRecord(NamedTuple):
    """What one step gave.

    ``key`` is the digest of the key and ``kind`` its domain. ``chain_id`` names the files after the step,
    ``parent_chain_id`` the files before it; ``diff_id``, ``media_type``, ``digest`` and ``size_bytes`` are the layer.
    ``created`` (RFC 3339, the end of the step) is what the history of an image says, so that a cached build gives the
    same image. ``identity`` is the same for all versions of one step of one Dockerfile. ``parts`` are the key's.
    """

    key: str
    kind: str
    chain_id: str
    parent_chain_id: str
    diff_id: str
    media_type: str
    digest: str
    size_bytes: int
    created: str
    created_ns: int
    duration_ns: int
    identity: str
    description: str
    parts: tuple[Part, ...]
    last_used_ns: int = 0


class Difference(NamedTuple):
    """Why a key missed: the first part that differs from an earlier record; None where one of them lacks the part."""

    part: str
    old: str | None
    new: str | None
    record: CacheRecord


class Usage(NamedTuple):
    """What the records hold on to."""

    results: tuple[Result, ...]
    total_bytes: int


def _warn_on_stderr(message: str) -> None:
    sys.stderr.write(f"warning: {message}\n")


class BuildCache:
    """The cache in the store directory ``root``; its file is opened when first asked. ``close`` it at the end.

    All methods may be called from several threads.
    """

    def __init__(self, root: str | os.PathLike[str], warn: Callable[[str], None] = _warn_on_stderr) -> None:
        self._root = os.fspath(root)
        self._warn = warn
        self._database = Database(os.path.join(self._root, FILE_NAME), warn)
        self.files = FileDigests(self._database)
        """What files of this machine hold; for ``cache.contenthash.fingerprint``."""

    def set_aside(self) -> list[str]:
        """The files of earlier indexes that were damaged or of another version."""
        from cache.database import set_aside

        return set_aside(os.path.join(self._root, FILE_NAME))

    def close(self) -> None:
        """The file is closed. Idempotent."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def find(self, key: CacheKey | str) -> CacheRecord | None:
        """The last result of ``key``."""
        rows = self._database.query(f"SELECT {_COLUMNS} FROM record WHERE key = ?", (str(key),))  # noqa: S608 - constant
        return _record(rows[0]) if rows else None

    def add(self, *records: CacheRecord) -> None:
        """``records`` are in the index, all or none; earlier ones of the same keys are not."""
        marks = ", ".join("?" * len(CacheRecord._fields))
        self._database.change_many(
            f"INSERT OR REPLACE INTO record ({_COLUMNS}) VALUES ({marks})",  # noqa: S608 - constants
            [_row(record) for record in records],
        )

    def touch(self, records: Iterable[CacheRecord], now_ns: int | None = None) -> None:
        """``records`` count as used now (to within five minutes), so that pruning takes others first."""
        now = time.time_ns() if now_ns is None else now_ns
        stale = [(now, record.key) for record in records if record.last_used_ns < now - _TOUCH_NS]
        if stale:
            self._database.change_many("UPDATE record SET last_used_ns = ? WHERE key = ?", stale)

    def remove(self, keys: Iterable[CacheKey | str]) -> None:
        """There is no record of ``keys``, for instance because a layer turned out to be gone."""
        self._database.change_many("DELETE FROM record WHERE key = ?", [(str(key),) for key in keys])

    def lock(
        self,
        key: CacheKey | str,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        waiting: Callable[[], None] | None = None,
    ) -> AbstractContextManager[bool]:
        """No other process builds ``key`` inside the block; the value tells whether one did before.

        Blocks its thread; ``cancelled`` is asked at least every 0.1 s. Whoever waited should look for the record
        again. Without a writable directory nothing is locked, with a warning. Raises LockCancelledError.
        """
        from cache import locks

        directory = os.path.join(self._root, LOCK_DIRECTORY)
        try:
            os.makedirs(directory, exist_ok=True)
            writable = os.access(directory, os.W_OK)
            reason = f"directory {directory!r} can't be written"
        except OSError as error:
            writable, reason = False, str(error)
        if not writable:
            self._warn(f"steps are not locked against other builds: {reason}")
            return nullcontext(False)
        return locks.hold(directory, str(key), cancelled=cancelled, waiting=waiting)

    def sweep_locks(self) -> None:
        """What killed processes had locked is free, and nothing of it is left."""
        from cache import locks

        locks.sweep(os.path.join(self._root, LOCK_DIRECTORY))

    def nearest(self, identity: str, key: CacheKey) -> CacheRecord | None:
        """The earlier record of the same step that has most parts in common with ``key``; the latest of equals."""
        digests = {part.name: part.digest for part in key.parts}

        def common(record: CacheRecord) -> int:
            return sum(digests.get(part.name) == part.digest for part in record.parts)

        return max(self._latest(identity, key.domain), key=common, default=None)

    def has_similar(self, identity: str, key: CacheKey, without: Container[str]) -> bool:
        """Whether one of the latest records of the same step has all parts of ``key``, those ``without`` left out."""
        parts = {part for part in key.parts if part.name not in without}
        return any(
            parts == {part for part in record.parts if part.name not in without}
            for record in self._latest(identity, key.domain)
        )

    def _latest(self, identity: str, kind: str) -> Iterator[CacheRecord]:
        """The latest records of the same step, the last one first."""
        rows = self._database.query(
            f"SELECT {_COLUMNS} FROM record WHERE identity = ? AND kind = ? ORDER BY created_ns DESC LIMIT {_NEAREST}",  # noqa: S608 - constants
            (_plain(identity), kind),
        )
        return map(_record, rows)

    def explain(self, identity: str, key: CacheKey) -> Difference | None:
        """Why ``key`` missed, seen from the nearest earlier record; None when there is none or nothing differs."""
        record = self.nearest(identity, key)
        return None if record is None else first_difference(record, key)

    def records(self) -> tuple[CacheRecord, ...]:
        """All records, the oldest first."""
        rows = self._database.query(f"SELECT {_COLUMNS} FROM record ORDER BY created_ns, key")  # noqa: S608 - constant
        return tuple(map(_record, rows))

    def results(self) -> tuple[Result, ...]:
        """One entry for each result that has a record."""
        from cache.prune import Result

        rows = self._database.query(
            "SELECT chain_id, max(parent_chain_id), max(digest), max(size_bytes), max(created_ns), max(last_used_ns),"
            " max(description) FROM record GROUP BY chain_id ORDER BY chain_id"
        )
        return tuple(Result(*row) for row in rows)

    def du(self) -> Usage:
        """What the records hold on to, each layer counted once."""
        results = self.results()
        return Usage(results, sum(result.size_bytes for result in results))

    def prune(
        self,
        *,
        in_use: Collection[str] = (),
        unused_since_ns: int | None = None,
        keep_bytes: int | None = None,
        everything: bool = False,
        only: Filter | None = None,
        dry_run: bool = False,
    ) -> PrunePlan:
        """The records of the plan (``cache.prune.plan_prune``) are gone; the caller removes layers nobody names.

        What was learned of files long ago is forgotten, or all of it with ``everything``.
        """
        from cache.prune import EVERY, plan_prune

        plan = plan_prune(
            self.results(),
            in_use=in_use,
            unused_since_ns=unused_since_ns,
            keep_bytes=keep_bytes,
            everything=everything,
            only=only or EVERY,
        )
        if not dry_run and plan.chain_ids:
            rows = [(chain_id,) for chain_id in plan.chain_ids]
            self._database.change_many("DELETE FROM record WHERE chain_id = ?", rows)
        if not dry_run:
            now_ns = time.time_ns()
            self.files.forget_older(now_ns if everything and only is None else now_ns - _FILES_NS)
        return plan


def first_difference(record: CacheRecord, key: CacheKey) -> Difference | None:
    """The first part, in the order of the new key, that ``record`` has otherwise or one of the two lacks."""
    old = {part.name: part for part in record.parts}
    for part in key.parts:
        before = old.pop(part.name, None)
        if before is None or before.digest != part.digest:
            return Difference(part.name, before and before.text, part.text, record)
    for left in old.values():
        return Difference(left.name, left.text, None, record)
    return None


def _record(row: tuple[object, ...]) -> CacheRecord:
    """The record of a row of ``_COLUMNS``."""
    record = CacheRecord(*row)  # type: ignore[arg-type] # SQLite's column types are those of the schema
    parts: list[list[str]] = json.loads(str(row[13]))
    return record._replace(parts=tuple(Part(*part) for part in parts))


def _row(record: CacheRecord) -> tuple[object, ...]:
    """``record`` as a row of ``_COLUMNS``; a new one counts as used when it was created."""
    used_ns = record.last_used_ns or record.created_ns
    identity, description = _plain(record.identity), _plain(record.description)
    return (*record[:11], identity, description, json.dumps(record.parts, ensure_ascii=True), used_ns)


def _plain(text: str) -> str:
    """``text`` without lone surrogates, which SQLite can't hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
