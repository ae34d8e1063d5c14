"""What the root directory takes on disk."""

from __future__ import annotations

import os

from builder.cachemounts import CACHE_MOUNTS
from unionfs.namedtuple import NamedTuple

BLOCK_BYTES = 512
"""Unit of ``st_blocks``, stat(2)."""


class DiskUse(NamedTuple):
    """Bytes on disk below the root directory, by what they are for; all but the last make the last."""

    blobs: int
    layers: int
    cache_mounts: int
    downloads: int
    other: int
    total: int


def disk_use(root: str) -> DiskUse:
    """What the parts of the root directory take."""

    def used(*names: str) -> int:
        return sum(tree_bytes(os.path.join(root, name)) for name in names)

    blobs, layers, mounts, downloads = used("blobs"), used("layers"), used(CACHE_MOUNTS), used("downloads", "git")
    total = used("")
    return DiskUse(blobs, layers, mounts, downloads, total - blobs - layers - mounts - downloads, total)


def tree_bytes(directory: str) -> int:
    """Bytes on disk of a tree, itself included, as du(1) counts them; files with several names count once."""
    try:
        total = os.lstat(directory).st_blocks * BLOCK_BYTES
    except FileNotFoundError:
        return 0
    seen: set[int] = set()
    todo = [directory]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                elif status.st_nlink > 1:
                    if status.st_ino in seen:
                        continue
                    seen.add(status.st_ino)
                total += status.st_blocks * BLOCK_BYTES
    return total
