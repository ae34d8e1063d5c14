"""Files that are named by their digest, read: what is not what its name says is an error, and set aside.

A damaged file loses all permissions (mode 0000), by the descriptor that was read. So it is not there any more for who
asks, whoever brings its content again replaces it, and a right file that has taken its place meanwhile stays as it is.
Invariants: nothing is removed and nothing written; where the mode cannot be changed the error is the same.
"""

from __future__ import annotations

import io
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from layers.digest import Digest, sha256
from layers.errors import DamagedBlobError

if TYPE_CHECKING:
    from layers.smallhash import RunningHash


def is_set_aside(status: os.stat_result) -> bool:
    """Whether the file was found damaged."""
    return not stat.S_IMODE(status.st_mode)


def new_hash() -> RunningHash:
    """SHA-256 of what may be large."""
    # a cached build hashes nothing large (layers.smallhash)
    import hashlib

    return hashlib.sha256()


def set_aside(raw: io.FileIO, found: str) -> DamagedBlobError:
    """The file is known to be damaged; the error to raise. ``found`` is the digest that its content has."""
    with suppress(OSError):
        os.fchmod(raw.fileno(), 0)
    return DamagedBlobError(f'blob "{raw.name}" is damaged: its content has the digest {found}')


def known_damage(path: str) -> DamagedBlobError:
    """The error to raise for a file that was set aside before."""
    return DamagedBlobError(f'blob "{path}" is damaged, as was found before')


def read_verified(raw: io.FileIO, digest: Digest, *, mark: bool) -> bytes:
    """The whole content. Raises DamagedBlobError, with ``mark`` the file is set aside too."""
    content = raw.readall()
    found = sha256(content)
    if found == digest:
        return content
    if mark:
        raise set_aside(raw, found)
    raise DamagedBlobError(f'blob "{raw.name}" is damaged: its content has the digest {found}')


class VerifyingReader(io.RawIOBase):
    """Reads through to a file and compares the digest when its end is reached.

    Raises DamagedBlobError from the read that finds the end, so that whoever reads to the end has seen only content
    that is right or an exception; with ``mark`` the file is set aside too.
    """

    def __init__(self, raw: io.FileIO, digest: Digest, *, mark: bool) -> None:
        super().__init__()
        self._raw = raw
        self._expected = digest
        self._mark = mark
        self._hash = new_hash()

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is what io passes
        """As ``io.RawIOBase.readinto``."""
        count = self._raw.readinto(buffer)
        if count:
            self._hash.update(memoryview(buffer)[:count])
        elif len(buffer) and self._hash.hexdigest() != self._expected.hex:
            found = f"sha256:{self._hash.hexdigest()}"
            if self._mark:
                raise set_aside(self._raw, found)
            raise DamagedBlobError(f'blob "{self._raw.name}" is damaged: its content has the digest {found}')
        return count or 0

    def close(self) -> None:
        """The file is closed."""
        self._raw.close()
        super().close()
