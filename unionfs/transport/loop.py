"""One thread at a time serves many descriptors: the devices of mounts, sockets, a pipe for signals.

Invariants: nothing here blocks except the wait for the next event. Only devices are served beside an asker
(``handoff``); everything else, the end of a mount too, is done by the thread that called `Loop.run`.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Protocol

from unionfs.transport.handoff import Handoff


class Served(Protocol):
    """What the loop needs to know of a mount."""

    device_fd: int

    @property
    def resume_fd(self) -> int:
        """Readable when `resume` has something to do."""
        ...

    def serve(self) -> bool:
        """Waiting requests are answered; False once the mount is gone."""
        ...

    def resume(self) -> None:
        """Requests that waited for something else than the kernel go on."""


class Loop:
    """Calls what is ready until `stop` or until nothing is left to serve."""

    def __init__(self, handoff: Handoff) -> None:
        """``handoff`` belongs to the loop."""
        self._handoff = handoff
        self._poll = select.epoll()
        self._mounts: dict[int, tuple[Served, Callable[[], None]]] = {}
        self._watched: dict[int, Callable[[], None]] = {}
        self._stopped = False

    def add(self, mount: Served, ended: Callable[[], None]) -> None:
        """``mount`` is served; ``ended`` is called once, when the kernel has let it go."""
        self._mounts[mount.device_fd] = (mount, ended)
        self._poll.register(mount.device_fd, select.EPOLLIN)
        self.watch(mount.resume_fd, mount.resume)

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """``ready`` is called whenever ``fd`` can be read or has lost its peer, until `unwatch`."""
        self._watched[fd] = ready
        self._poll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """``fd`` is left alone; call it before closing ``fd``."""
        del self._watched[fd]
        self._poll.unregister(fd)

    @property
    def mounts(self) -> int:
        """Number of mounts that are alive."""
        return len(self._mounts)

    def stop(self) -> None:
        """`run` returns as soon as the current call does."""
        self._stopped = True

    def run(self, *, while_mounted: bool) -> None:
        """Serves until `stop`; with ``while_mounted`` also until the last mount is gone."""
        while self._goes_on(while_mounted):
            self._handoff.run(lambda: self._turn(while_mounted))

    def close(self) -> None:
        """The loop's own descriptor is closed; those it watched belong to others."""
        self._handoff.close()
        self._poll.close()

    def _goes_on(self, while_mounted: bool) -> bool:
        return not self._stopped and bool(self._mounts or not while_mounted)

    def _turn(self, while_mounted: bool) -> None:
        """Serves as long as it is for this thread to do; what is not yet done then, epoll tells again."""
        poll, handoff = self._poll.poll, self._handoff
        while not handoff.moving and self._goes_on(while_mounted):
            events = poll(handoff.patience)
            if not events:
                handoff.leave()
            for fd, _events in events:
                self._happened(fd)

    def _happened(self, fd: int) -> None:
        if self._handoff.moving:
            return
        known = self._mounts.get(fd)
        if known is not None:
            self._serve(fd, *known)
        elif fd in self._watched and not self._left():
            self._watched[fd]()

    def _left(self) -> bool:
        """Whether the turn ends, since what is to be done is not for a thread beside an asker."""
        self._handoff.leave()
        return self._handoff.moving

    def _serve(self, fd: int, mount: Served, ended: Callable[[], None]) -> None:
        if not mount.serve():
            if self._left():
                return
            self._poll.unregister(fd)
            self.unwatch(mount.resume_fd)
            del self._mounts[fd]
            ended()
