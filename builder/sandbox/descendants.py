"""The processes of a step that has no pid namespace: found by who their parents are, and ended.

A process whose parent has ended belongs to the next one above that reaps for others (PR_SET_CHILD_SUBREAPER, prctl(2)),
so none of them gets away from the step's first process, nor, when that is killed, from the server.

Invariants: whoever calls `end_all` or `end_strays` is such a reaper; /proc is that of the pid namespace it lives in.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Iterable, Mapping

_PROC = "/proc"


def descendants(pid: int, parents: Iterable[tuple[int, int]]) -> list[int]:
    """Those below ``pid`` in a table of processes and their parents."""
    children: dict[int, list[int]] = {}
    for child, parent in parents:
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.pop(waiting.pop(), [])
        found += below
        waiting += below
    return found


def parent_in(stat: str) -> int:
    """The parent's id in the text of /proc/PID/stat; the name before it may hold anything. proc(5)."""
    return int(stat.rpartition(")")[2].split()[1])


def end_all() -> None:
    """Every descendant of this process is dead and reaped."""
    while True:
        table = _table()
        _kill(descendants(os.getpid(), table.items()), table)
        try:
            os.waitpid(-1, 0)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def end_strays(known: Collection[int]) -> None:
    """Every child of this process that is not in ``known`` is dead and reaped, with its descendants."""
    own = os.getpid()
    while True:
        table = _table()
        strays = [pid for pid, parent in table.items() if parent == own and pid not in known]
        if not strays:
            return
        for stray in strays:
            _kill((stray, *descendants(stray, table.items())), table)
        for stray in strays:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(stray, 0)


def _kill(pids: Iterable[int], table: Mapping[int, int]) -> None:
    """They are dying, those whose parents are not those of ``table`` any more left out.

    None can start another on the way: all are stopped first. None is another process by now that got its number: the
    descriptor is of the one whose parent is looked at.
    """
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        for pid in pids:
            with contextlib.suppress(OSError):
                fd = os.pidfd_open(pid)
                stack.callback(os.close, fd)
                if _parent(pid) == table[pid]:
                    found.append(fd)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for fd in found:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, number)


def _table() -> dict[int, int]:
    """All processes, with their parents."""
    table: dict[int, int] = {}
    for name in os.listdir(_PROC):
        if name.isdecimal():
            # gone meanwhile
            with contextlib.suppress(OSError):
                table[int(name)] = _parent(int(name))
    return table


def _parent(pid: int) -> int:
    with open(f"{_PROC}/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return parent_in(file.read())
