"""Failures of the build cache.

    CacheError
    ├── DatabaseUnusableError   the index can't be read or written; the build goes on without it
    └── LockCancelledError      the wait for another build of the same step was given up

Nothing here stops a build: a caller that meets one of these works without the cache, except for a cancelled wait,
which ends because the build itself ends.
"""

from __future__ import annotations


class CacheError(Exception):
    """Root of the tree."""


class DatabaseUnusableError(CacheError):
    """The index file is damaged, of another version or not writable."""


class LockCancelledError(CacheError):
    """The caller's ``cancelled`` became true while the lock was held by another process."""
