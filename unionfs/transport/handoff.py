"""Requests are answered by a thread beside the one that asks, as long as that one asks quickly.

::

    Loop.run ─ Handoff.run(turn) ─→ here, as the program was started           ┐ until `moving`
                                 └→ in a thread on the asker's processor, with ┘
                                    SCHED_IDLE; this one waits for it

A request answered by a thread on another processor wakes two sleeping processors: in a virtual machine that is most of
what a small request costs. On the asker's own processor the two take turns. The scheduler leaves a woken thread there
only if nothing but ``SCHED_IDLE`` runs on it, so that is what the thread beside it is: it gives way to whomever it
answers, and goes on once that one sleeps. ADR 0019 has the figures, and why nobody starves.

Invariants: one of the two threads runs at a time; beside the asker only while requests come and are answered quickly
and a processor is left for others. What takes longer than `QUICK_NS`, another asker on another processor, large content
and whatever else there is to do (`Handoff.leave`) end it. Other threads are never started from there
(`Handoff.start`): they would be ``SCHED_IDLE`` too, which only CAP_SYS_NICE lets go of, ``sched(7)``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from unionfs import _sys
from unionfs.namedtuple import NamedTuple
from unionfs.transport.pace import QUICK_NS, Pace, Wish

_SPINS = 10
"""About as long as the one asking needs for its next question: a read of an empty device takes 1 to 2 microseconds."""
_PROCESSOR_FIELD = 36
"""Of what follows the command's name in ``/proc/PID/stat``, ``proc_pid_stat(5)``: the 39th of all."""
_STAT_BYTES = 1024


Start = Callable[[threading.Thread], None]
"""Starts a thread."""


class Handoff:
    """Which thread answers; one for each loop, given to all of its mounts."""

    def __init__(self, left: Callable[[], bool] | None = None) -> None:
        """``left``: whether a processor would be idle while the thread works; `processors_left` otherwise."""
        processors = len(os.sched_getaffinity(0))
        self.moving = False
        """The turn shall end: the next one is for the other thread."""
        self.spins = self._spins = _SPINS if processors > 1 else 0
        """How often to read an empty device before sleeping; never where the one asking needs the same processor."""
        self._able = processors > 1 and os.sched_getscheduler(0) == os.SCHED_OTHER
        self._left = left or (lambda: processors_left(processors))
        self._pace = Pace()
        self._processor = -1
        self._beside: _Beside | None = None

    @property
    def near(self) -> bool:
        """Requests are answered beside the asker, or will be from the next turn on."""
        return self._pace.near

    @property
    def patience(self) -> float | None:
        """Seconds to wait for a request before it is time to `leave`; None when there is nothing to leave."""
        return QUICK_NS / 1e9 if self._pace.near else None

    def run(self, turn: Callable[[], None]) -> None:
        """``turn`` is called, in the thread whose turn it is; it returns soon after `moving` is set."""
        self.moving = False
        if not self._pace.near:
            turn()
            return
        if not self._call_beside(turn):
            self._pace.refused()
            self.leave()

    def _call_beside(self, turn: Callable[[], None]) -> bool:
        """Whether ``turn`` was called beside the asker."""
        if self._beside is None:
            try:
                self._beside = _Beside()
            except RuntimeError:  # there may be no more threads: RLIMIT_NPROC, or the pids of a cgroup
                return False
        return self._beside.call(self._processor, turn)

    def start(self, thread: threading.Thread) -> None:
        """``thread`` runs, as any thread that is started from the one that called `run`."""
        if self._beside is None:
            thread.start()
        else:
            self._beside.start(thread)

    def asked(self) -> None:
        """A request has come."""
        if not self._able:
            return
        if self._pace.asked(time.monotonic_ns()) is Wish.AWAY:
            self.leave()

    def answering(self, asker: int) -> None:
        """The answer that the thread ``asker`` waits for is about to be given; 0 when nobody waits."""
        if not self._able:
            return
        wish = self._pace.answering(time.monotonic_ns(), asker)
        if wish is Wish.STAY:
            return
        if wish is Wish.AWAY:
            self.leave()
            return
        processor = processor_of(asker) if self._left() else None
        if self._pace.near and processor == self._processor:
            return
        if wish is not Wish.NEAR or processor is None or not self._follow(processor):
            self._pace.refused()
            self.leave()

    def leave(self) -> None:
        """The next turn is for the thread that called `run`, until requests come quickly again."""
        if self._pace.near:
            self._pace.moved(near=False)
            self.spins = self._spins
            self.moving = True

    def _follow(self, processor: int) -> bool:
        """Whether the thread beside the asker is there, or will be from the next turn on."""
        if self._pace.near:
            try:
                os.sched_setaffinity(0, {processor})
            except OSError:  # not one of ours
                return False
        else:
            self.spins = 0
            self.moving = True
        self._processor = processor
        self._pace.moved(near=True)
        return True

    def close(self) -> None:
        """The thread beside the askers has ended. Idempotent; not to be called from a turn."""
        if self._beside is not None:
            self._beside.close()
            self._beside = None


class _Outcome(NamedTuple):
    """How a call in the other thread ended."""

    done: bool
    failure: BaseException | None


class _Beside:
    """The thread with ``SCHED_IDLE``: it calls what it is given, where it is told, while the giver waits."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[int, Callable[[], None]] | None] = SimpleQueue()
        self._told: SimpleQueue[_Outcome | threading.Thread] = SimpleQueue()
        self._started: SimpleQueue[None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="fuse-beside", daemon=True)
        self._thread.start()

    def call(self, processor: int, turn: Callable[[], None]) -> bool:
        """Whether ``turn`` was called: not on a processor that is not ours, or where the policy is forbidden.

        What it raises is raised here.
        """
        self._calls.put((processor, turn))
        while isinstance(told := self._told.get(), threading.Thread):
            told.start()
            self._started.put(None)
        if told.failure is not None:
            raise told.failure
        return told.done

    def start(self, thread: threading.Thread) -> None:
        """``thread`` runs, started by the thread that called `call` if that one waits."""
        if threading.current_thread() is not self._thread:
            thread.start()
            return
        self._told.put(thread)
        self._started.get()

    def close(self) -> None:
        """The thread has ended."""
        self._calls.put(None)
        self._thread.join()

    def _run(self) -> None:
        prepared = False
        while (call := self._calls.get()) is not None:
            processor, turn = call
            try:
                if not prepared:
                    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
                    _sys.keep_io_priority()
                    prepared = True
                os.sched_setaffinity(0, {processor})
            except OSError:
                self._told.put(_Outcome(done=False, failure=None))
                continue
            failure: BaseException | None = None
            try:
                turn()
            except BaseException as error:  # noqa: BLE001 - raised again where it was called
                failure = error
            self._told.put(_Outcome(done=True, failure=failure))


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


def processors_left(processors: int) -> bool:
    """Whether one of so many would be idle while the calling thread works, ``proc_loadavg(5)``."""
    try:
        fd = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return int(os.read(fd, _STAT_BYTES).split()[3].partition(b"/")[0]) <= processors
    finally:
        os.close(fd)
