"""The children that stand ready for steps that are still to come.

Making one takes some 15 ms: most of it the kernel's grace period when a process joins its control groups, which needs
no processor, and which those that join together wait for once. So where many short steps are expected three are kept,
and each step finds one.

Invariants: all are of the kind last asked for; there are never more than steps still expected, where that was said; one
that ended unasked is not replaced before the next step, which makes its own and is told why that fails.
"""

from __future__ import annotations

from builder.sandbox.machine import Kind
from builder.sandbox.runtime import Child

MOST = 3
"""How many are kept where many steps are to come."""


class Spares:
    """Owns its children until they are taken; those it gives up are killed."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._children: list[Child] = []
        self._expected: int | None = None
        self._failed = False

    def expect(self, steps: object) -> None:
        """At most so many steps will come; where it is no number, one after the other."""
        self._expected = steps if isinstance(steps, int) else None

    @property
    def missing(self) -> int:
        """How many more would be of use."""
        wanted = 1 if self._expected is None else min(self._expected, MOST)
        return 0 if self._failed else max(0, wanted - len(self._children))

    def add(self, child: Child) -> None:
        """The child, of `kind`, waits to be taken."""
        self._children.append(child)

    def want(self, kind: Kind) -> None:
        """Those of another kind are given up."""
        if kind != self.kind:
            for child in self._children:
                child.kill()
            self._children.clear()
            self.kind = kind

    def take(self, kind: Kind) -> Child | None:
        """One for a step of ``kind``, the longest there; None where there is none."""
        self.want(kind)
        self._failed = False
        if self._expected:
            self._expected -= 1
        return self._children.pop(0) if self._children else None

    def remove(self, child: Child) -> None:
        """The child has ended; nothing happens where it was taken before."""
        if child in self._children:
            self._children.remove(child)
            self._failed = True
