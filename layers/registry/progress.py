"""What a transfer tells its caller while it runs.

Invariants: the callback is never entered twice at a time, whatever number of threads work; after an upload started
over, ``done_bytes`` may be smaller than before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

from layers.descriptor import Descriptor
from layers.digest import Digest
from unionfs.namedtuple import NamedTuple

Direction = Literal["pull", "push"]
State = Literal["waiting", "compressing", "transferring", "exists", "mounted", "done"]


class TransferProgress(NamedTuple):
    """How far one blob is. ``exists``: nothing had to travel; ``mounted``: the registry had it elsewhere.

    ``digest`` is the blob's in the image that was named, the same from ``waiting`` to the end. Bytes count the
    uncompressed layer while ``compressing``, and what travels in the other states.
    """

    direction: Direction
    digest: Digest
    media_type: str
    state: State
    done_bytes: int
    total_bytes: int


Callback = Callable[[TransferProgress], None]


class Reporter:
    """Turns counts of bytes into progress, one callback at a time."""

    def __init__(self, direction: Direction, callback: Callback | None) -> None:
        self._direction: Direction = direction
        self._callback = callback
        self._lock = threading.Lock()

    def state(self, blob: Descriptor, state: State, travelling: Descriptor | None = None) -> Callable[[int], None]:
        """The blob is in this state, counted from nothing, or full for states that end; a function that adds bytes.

        ``travelling`` is what goes over the wire for it, when that is something else.
        """
        total = (travelling or blob).size
        done = total if state in {"exists", "mounted", "done"} else 0

        def add(count: int) -> None:
            nonlocal done
            with self._lock:
                done += count
                if self._callback is not None:
                    self._callback(TransferProgress(self._direction, blob.digest, blob.media_type, state, done, total))

        add(0)
        return add
