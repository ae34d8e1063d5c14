"""A whole store, read: which blobs are not what their names say, and which images that concerns.

Invariants: what is found damaged is set aside by who reads it (`layers.verifying`), so that bringing it again repairs
the store; nothing else changes. Of an index the images that were never brought here are no loss.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from layers.archive import closure
from layers.descriptor import REF_NAME
from layers.digest import Digest
from layers.errors import BlobNotFoundError, DamagedBlobError, LayersError
from layers.registry.compress import usable_threads
from layers.store import Store
from unionfs.namedtuple import NamedTuple


class Checkup(NamedTuple):
    """How much was read, what is damaged, and for each image concerned (a name or digest) why it is not whole."""

    blobs: int
    read_bytes: int
    damaged: tuple[Digest, ...]
    images: dict[str, str]

    @property
    def is_sound(self) -> bool:
        """Whether everything is as it should be."""
        return not self.damaged and not self.images


def check_up(store: Store, check: Callable[[], None] = lambda: None) -> Checkup:
    """Every blob has been read and compared with its name; ``check`` may raise to stop.

    Raises:
        StoreError: the store cannot be read.
    """
    lock, damaged, read = threading.Lock(), set[Digest](), [0, 0]

    def verify(digest: Digest) -> None:
        check()
        size = store.blobs.size(digest) or 0
        problem = False
        try:
            store.blobs.verify(digest)
        except BlobNotFoundError:
            # it was collected meanwhile
            return
        except DamagedBlobError:
            problem = True
        with lock:
            read[0] += 1
            read[1] += size
            if problem:
                damaged.add(digest)

    with ThreadPoolExecutor(usable_threads(), thread_name_prefix="verify") as pool:
        for _ in pool.map(verify, list(store.blobs)):
            pass
    return Checkup(read[0], read[1], tuple(sorted(damaged)), _concerned(store))


def _concerned(store: Store) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in store.entries():
        try:
            for part in closure(store, entry):
                store.blobs.require(part)
        except LayersError as error:
            found[entry.annotations.get(REF_NAME, entry.digest)] = str(error)
    return found
