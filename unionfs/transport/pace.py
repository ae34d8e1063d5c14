"""When a request is worth answering beside the one that asks: a decision about times alone.

`Pace` is told when requests come and are answered, and says what it wishes; who serves (``handoff``) says what came
of it. Nothing here looks at the machine.
"""

from __future__ import annotations

from enum import Enum

QUICK_NS = 1_000_000
"""Longer than this between two requests, or within one, and somebody might be waiting for the processor."""
ENOUGH = 32
"""So many quick requests in a row are worth a move, which costs as much as one or two."""
FEW = 16
"""Fewer of one thread before the next one asks, and the two work at the same time: each on its own processor."""
PAUSE_NS, LONGEST_PAUSE_NS = 10_000_000, 640_000_000
"""Before it is tried again: twice as long each time it was not good or not possible, until that is long ago."""
LOOK_EVERY = 32
"""Requests after which it is looked whether the asker is on another processor by now."""


class Wish(Enum):
    """What the pace of the requests asks for."""

    STAY = "stay"
    NEAR = "near"
    """Be on the processor of who asks now, wherever that is."""
    SAME = "same"
    """Remain only if who asks now, somebody else, is on the same processor."""
    AWAY = "away"


class Pace:
    """Decides from the times of requests; times are nanoseconds of one monotonic clock."""

    def __init__(self) -> None:
        self.near = False
        self._asked = self._answered = 0
        self._asker = 0
        self._run = 0
        self._pause = PAUSE_NS
        self._not_before = 0

    def asked(self, now: int) -> Wish:
        """A request has come."""
        self._asked = now
        if now - self._answered <= QUICK_NS:
            return Wish.STAY
        self._run = 0
        return Wish.AWAY if self.near else Wish.STAY

    def answering(self, now: int, asker: int) -> Wish:
        """Its answer is ready; ``asker`` is the thread that waits for it, 0 when none does."""
        self._answered = now
        if now - self._asked > QUICK_NS:
            return self._late(now)
        if asker == 0:
            return Wish.STAY
        self._run += 1
        if not self.near:
            self._asker = asker
            return Wish.NEAR if self._run >= ENOUGH and now >= self._not_before else Wish.STAY
        if asker != self._asker:
            alternate = self._run <= FEW
            self._asker = asker
            self._run = 0
            return Wish.SAME if alternate else Wish.NEAR
        return Wish.STAY if self._run % LOOK_EVERY else Wish.NEAR

    def refused(self) -> None:
        """The wish that was told last could not be met."""
        self._wait(self._answered)

    def moved(self, *, near: bool) -> None:
        """The server is near the asker now, or anywhere."""
        self.near = near
        self._run = 0

    def _late(self, now: int) -> Wish:
        """The files are slow, or others had the processor."""
        if self.near:
            self._wait(now)
            return Wish.AWAY
        self._run = 0
        return Wish.STAY

    def _wait(self, now: int) -> None:
        again = now - self._not_before < LONGEST_PAUSE_NS
        self._pause = min(self._pause << 1, LONGEST_PAUSE_NS) if again else PAUSE_NS
        self._not_before = now + self._pause
        self._run = 0
