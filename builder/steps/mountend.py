"""How the mount of a step ended, as the union server tells it.

Invariants: a step counts only if everything it wrote is in its branch; where it is not, the reason is told.
"""

from __future__ import annotations

import trio

from builder.servers import Servers
from unionfs.client import is_whole

_READ_BYTES = 64 << 10


class MountEnd:
    """What the union server says of the end of a step's mount (`DetachedMount.ended`)."""

    def __init__(self, ended: int) -> None:
        """``ended`` belongs to this object now."""
        self._stream = trio.lowlevel.FdStream(ended)
        self._report = b""

    async def wait(self) -> None:
        """The mount has ended. May be called again where a call was cancelled."""
        while data := await self._stream.receive_some(_READ_BYTES):
            self._report += data

    async def close(self) -> None:
        """Nothing more is to be said."""
        await self._stream.aclose()

    @property
    def is_whole(self) -> bool:
        """Whether everything written through the mount, which has ended, is in its branch."""
        return is_whole(self._report)

    def describe(self, servers: Servers) -> str:
        """Why not everything is; blocks its thread."""
        return servers.describe_loss(self._report)
