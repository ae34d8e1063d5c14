"""The child that stands ready for a step that is still to come.

Invariants: it is of the kind last asked for; there is none when no step is expected any more, where their number was
said; one that ended unasked is not replaced before the next step, which makes its own and is told why that fails.
"""

from __future__ import annotations

from builder.sandbox.machine import Kind
from builder.sandbox.runtime import Child


class Spare:
    """Owns its child until it is taken; one that is given up is killed."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._child: Child | None = None
        self._expected: int | None = None
        self._has_failed = False

    def expect(self, steps: object) -> None:
        """At most so many steps will come; where it is no number, one after the other."""
        self._expected = steps if isinstance(steps, int) else None

    @property
    def is_missing(self) -> bool:
        """Whether one would be of use."""
        return self._child is None and self._expected != 0 and not self._has_failed

    def put(self, child: Child) -> None:
        """The child, of `kind`, waits to be taken."""
        self._child = child

    def want(self, kind: Kind) -> None:
        """One of another kind is given up."""
        if kind != self.kind:
            if self._child is not None:
                self._child.kill()
            self._child = None
            self.kind = kind

    def take(self, kind: Kind) -> Child | None:
        """The child, if it is of ``kind``, for a step; None where there is none."""
        self.want(kind)
        self._has_failed = False
        if self._expected:
            self._expected -= 1
        taken, self._child = self._child, None
        return taken

    def remove(self, child: Child) -> None:
        """The child has ended; nothing happens where it was taken before."""
        if child is self._child:
            self._child = None
            self.failed()

    def failed(self) -> None:
        """None can be made, until a step has tried."""
        self._has_failed = True
