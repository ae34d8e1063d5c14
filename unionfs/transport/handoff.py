"""The thread that serves stands beside the one it serves, as long as that one asks quickly.

A request answered by a thread on another processor wakes two sleeping processors: in a virtual machine that is most of
what a small request costs. On the asker's own processor the two take turns. The scheduler leaves a woken thread there
only if nothing but ``SCHED_IDLE`` runs on it, so that is what the server becomes: it gives way to whomever it answers,
and goes on once that one sleeps. ADR 0019 has the figures, and why nobody starves.

Invariants: it stays only while requests come and are answered quickly and a processor is left for others. What takes
longer than `QUICK_NS`, another asker on another processor, large content and whatever else the server does
(`Handoff.leave`) end it, and policy and processors are as they were. A server that could not go back, like an ordinary
user's, never goes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from enum import Enum

from unionfs import _sys

QUICK_NS = 1_000_000
"""Longer than this between two requests, or within one, and somebody might be waiting for the processor."""
ENOUGH = 32
"""So many quick requests of one thread in a row are worth a move, which costs as much as one or two."""
PAUSE_NS, LONGEST_PAUSE_NS = 10_000_000, 640_000_000
"""Before it is tried again: twice as long each time it was not good or not possible, until that is long ago."""
LOOK_EVERY = 32
"""Requests after which it is looked whether the asker is on another processor by now."""
_SPINS = 10
"""About as long as the one asking needs for its next question: a read of an empty device takes 1 to 2 microseconds."""
_PROCESSOR_FIELD = 36
"""Of what follows the command's name in ``/proc/PID/stat``, ``proc_pid_stat(5)``: the 39th of all."""
_STAT_BYTES = 1024

_ALL = frozenset(os.sched_getaffinity(0))
_POLICY = os.sched_getscheduler(0)


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
        if asker != self._asker:
            self._asker = asker
            self._run = 0
            return Wish.SAME if self.near else Wish.STAY
        if not self.near:
            return Wish.NEAR if self._run >= ENOUGH and now >= self._not_before else Wish.STAY
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
        self._run = 0
        if not self.near:
            return Wish.STAY
        self._wait(now)
        return Wish.AWAY

    def _wait(self, now: int) -> None:
        again = now - self._not_before < LONGEST_PAUSE_NS
        self._pause = min(self._pause << 1, LONGEST_PAUSE_NS) if again else PAUSE_NS
        self._not_before = now + self._pause
        self._run = 0


class Handoff:
    """Where the calling thread runs; one for each thread that serves, given to all of its mounts."""

    def __init__(self, left: Callable[[], bool] | None = None) -> None:
        """``left``: whether a processor would be idle while the thread works; `processors_left` otherwise."""
        several = len(_ALL) > 1
        self._left = left or processors_left
        self.spins = self._spins = _SPINS if several else 0
        """How often to read an empty device before sleeping; never where the one asking needs the same processor."""
        self._pace = Pace()
        self._processor = -1
        self._able: bool | None = None if several else False
        self._before = _ALL

    def asked(self) -> None:
        """A request has come."""
        if self._pace.asked(time.monotonic_ns()) is Wish.AWAY:
            self.leave()

    def answering(self, asker: int) -> None:
        """The answer that the thread ``asker`` waits for is about to be given; 0 when nobody waits."""
        wish = self._pace.answering(time.monotonic_ns(), asker)
        if wish is Wish.STAY or self._able is False:
            return
        if wish is Wish.AWAY:
            self.leave()
            return
        processor = processor_of(asker) if self._left() else None
        if self._pace.near and processor == self._processor:
            return
        if wish is Wish.NEAR and processor is not None:
            self._enter(processor)
        else:
            self._pace.refused()
            self.leave()

    @property
    def patience(self) -> float | None:
        """Seconds to wait for a request before it is time to `leave`; None when there is nothing to leave."""
        return QUICK_NS / 1e9 if self._pace.near else None

    def leave(self) -> None:
        """The thread runs as it did at first, until requests come quickly again."""
        if not self._pace.near:
            return
        self._pace.moved(near=False)
        self.spins = self._spins
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        try:
            os.sched_setaffinity(0, self._before)
        except OSError:  # all of them were taken from us meanwhile, which gave us others
            self._able = False

    def _enter(self, processor: int) -> None:
        """The thread is there, and gives way to others; or stays as it was, where it may not."""
        if self._able is None:
            self._able = may_return()
            if not self._able:
                return
            _sys.keep_io_priority()
        if not self._pace.near:
            self._before = frozenset(os.sched_getaffinity(0))
        try:
            os.sched_setaffinity(0, {processor})
        except OSError:  # not one of ours
            self.leave()
            return
        if not self._pace.near:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        self._processor = processor
        self.spins = 0
        self._pace.moved(near=True)


def run_anywhere() -> None:
    """The calling thread, started by one that serves, runs as the program was started."""
    if os.sched_getscheduler(0) != _POLICY:
        os.sched_setscheduler(0, _POLICY, os.sched_param(0))
    os.sched_setaffinity(0, _ALL)


def processor_of(thread: int) -> int | None:
    """The processor a thread runs on or ran on last, None when it can't be seen."""
    try:
        fd = os.open(f"/proc/{thread}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fields = os.read(fd, _STAT_BYTES).rpartition(b") ")[2].split()
        return int(fields[_PROCESSOR_FIELD])
    except (OSError, IndexError, ValueError):  # it ended meanwhile
        return None
    finally:
        os.close(fd)


def processors_left() -> bool:
    """Whether a processor would be idle while the calling thread works, ``proc_loadavg(5)``."""
    try:
        fd = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return int(os.read(fd, _STAT_BYTES).split()[3].partition(b"/")[0]) <= len(_ALL)
    finally:
        os.close(fd)


def may_return() -> bool:
    """Whether a thread of this process may leave ``SCHED_IDLE``, for which most need CAP_SYS_NICE, ``sched(7)``.

    Nor does it go there from another policy than the usual one, which somebody chose.
    """
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    able: list[bool] = []

    def there_and_back() -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        except OSError:
            return
        able.append(True)

    thread = threading.Thread(target=there_and_back, name="fuse-probe")
    thread.start()
    thread.join()
    return bool(able)
