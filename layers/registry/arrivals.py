"""Layers that are unpacked while they come: readers that follow the files that downloads write.

::

    download: write, write, … ─▶ compared, in the store        `Arrivals.begin`, `grown`, `whole`
                  │ read behind it, from the page cache
    unpacking:    └─▶ layer 1 ─▶ layer 2 (may be whole by now) ─▶ …

Invariants: what is read ahead of the comparison counts only when the unpacked layer has the diff ID of a configuration
that was verified (`layers.ensure`); a reader never waits for a download that has ended. Unpacking is one thread: a
layer needs those below it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from layers.descriptor import Descriptor
from layers.digest import ChainId, Digest, chain_id
from layers.ensure import unpack_layer
from layers.errors import ArchiveError, ContentMismatchError
from layers.registry.errors import TransferCancelledError
from layers.snapshotter import Snapshotter
from layers.store import Store

_LOOK_SECONDS = 0.1


class _Arrival:
    """One blob on its way: the file it is written to, how much of it is there, whether that is all."""

    def __init__(self) -> None:
        self.fd = -1
        self.turn = 0
        self.size = 0
        self.whole = False


class Arrivals:
    """What downloads have written so far. Safe for threads; a context manager, which closes what readers have open."""

    def __init__(self, store: Store, subject: str, stop: threading.Event) -> None:
        self._store = store
        self._subject = subject
        self._stop = stop
        self._changed = threading.Condition()
        self._blobs: dict[Digest, _Arrival] = {}
        self._left: list[int] = []

    def begin(self, blob: Digest, path: str) -> None:
        """The blob is being written to this file, from its beginning."""
        with self._changed:
            arrival = self._blobs.setdefault(blob, _Arrival())
            if arrival.fd >= 0:
                # somebody may be reading it
                self._left.append(arrival.fd)
            arrival.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            arrival.turn += 1
            arrival.size = 0
            self._changed.notify_all()

    def grown(self, blob: Digest, size: int) -> None:
        """So many bytes of it are in the file."""
        with self._changed:
            self._blobs[blob].size = size
            self._changed.notify_all()

    def whole(self, blob: Digest) -> None:
        """It is in the store."""
        with self._changed:
            self._blobs.setdefault(blob, _Arrival()).whole = True
            self._changed.notify_all()

    def close(self) -> None:
        """No file is open."""
        with self._changed:
            for fd in (*self._left, *(arrival.fd for arrival in self._blobs.values() if arrival.fd >= 0)):
                os.close(fd)
            self._left.clear()
            self._blobs.clear()

    def is_whole(self, blob: Digest) -> bool:
        """Whether it is in the store."""
        with self._changed:
            return self._blobs.setdefault(blob, _Arrival()).whole

    def wait_for(self, blob: Digest) -> None:
        """It is in the store. Raises TransferCancelledError when the download was stopped."""
        with self._changed:
            arrival = self._blobs.setdefault(blob, _Arrival())
            while not arrival.whole:
                self._check(arrival, 0)
                self._changed.wait(_LOOK_SECONDS)

    def read_at(self, blob: Digest, turn: int, offset: int, size: int) -> tuple[int, bytes]:
        """The turn that is read (0: whichever is there) and up to ``size`` bytes, none only when all were read.

        Waits for them.

        Raises:
            TransferCancelledError: the download was stopped.
            RestartedError: it began anew since that turn.
        """
        with self._changed:
            arrival = self._blobs.setdefault(blob, _Arrival())
            self._check(arrival, turn)
            while not arrival.whole and (arrival.fd < 0 or arrival.size <= offset):
                self._changed.wait(_LOOK_SECONDS)
                self._check(arrival, turn)
            if arrival.fd < 0:
                arrival.fd = os.open(self._store.blobs.path(blob), os.O_RDONLY | os.O_CLOEXEC)
            fd, there = arrival.fd, size if arrival.whole else arrival.size - offset
            turn = arrival.turn
        return turn, os.pread(fd, min(size, there), offset)

    def _check(self, arrival: _Arrival, turn: int) -> None:
        if self._stop.is_set():
            raise TransferCancelledError(self._subject, "cancelled")
        if turn and arrival.turn != turn:
            raise RestartedError


class RestartedError(Exception):
    """A download that was read began anew, from another host."""


class Follower:
    """Reads a blob while it is written."""

    def __init__(self, arrivals: Arrivals, blob: Digest) -> None:
        self._arrivals = arrivals
        self._blob = blob
        self._turn = 0
        self._offset = 0

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, none only at the end. Raises as `Arrivals.read_at`."""
        self._turn, data = self._arrivals.read_at(self._blob, self._turn, self._offset, size)
        self._offset += len(data)
        return data


def unpack_all(store: Store, arrivals: Arrivals, layers: Sequence[tuple[Descriptor, Digest]]) -> None:
    """The layers, given as (blob, diff ID) from the bottom, are unpacked as their blobs come.

    Raises: as `layers.ensure.ensure_unpacked`, and TransferCancelledError.
    """
    snapshots = Snapshotter(store)
    parent: ChainId | None = None
    for blob, diff_id in layers:
        chain = chain_id(parent, diff_id)
        while not snapshots.has(chain):
            if arrivals.is_whole(blob.digest):
                unpack_layer(store, blob, diff_id, parent)
                break
            try:
                unpack_layer(store, blob, diff_id, parent, Follower(arrivals, blob.digest))
            except (ArchiveError, ContentMismatchError, RestartedError):
                # whether it is wrong or only what came was, is known when it has been compared
                arrivals.wait_for(blob.digest)
        parent = chain
