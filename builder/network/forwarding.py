"""Whether the host passes packets on between its devices, which it must for steps behind a pair of devices.

Where ``net.ipv4.ip_forward`` is on, nothing is touched. Else forwarding is switched on for the devices that are there,
and off again when the last build goes; which ones they were stands in a file below /run/pybuild, as long as it matters.

Invariants: who enters or leaves holds a lock (lockf) on the file; users hold another (flock), shared, which the kernel
takes from a dead one, so whoever comes after a killed build first puts back what that one had changed; once somebody
else has switched ``ip_forward`` on, nothing is switched off.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterable

from builder.network.links import Links

DIRECTORY = "/run/pybuild"
PREFIX = "pybuild"
"""How the names of our own devices begin."""

_CONF = "/proc/sys/net/ipv4/conf"
_NOT_DEVICES = ("all", "default", "lo")


class Forwarding:
    """One user's hold on the forwarding of the host; made and closed inside the host's network namespace."""

    def __init__(self, host: Links, directory: str = DIRECTORY) -> None:
        """Packets are passed on, also by devices that are named in ``changed``, which usually don't.

        Raises:
            OSError: they are not, and what is changed can't be remembered.
        """
        self._host = host
        self._file: int | None = None
        self.changed: tuple[str, ...] = ()
        self._path = _path_in(directory)
        if _is_on("all") and not os.path.exists(self._path):
            return
        os.makedirs(directory, mode=0o755, exist_ok=True)
        self._file = _open_locked(self._path)
        try:
            self._enter(self._file)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _enter(self, file: int) -> None:
        if _is_alone(file):
            self._restore(file)
        fcntl.flock(file, fcntl.LOCK_SH)
        self.changed = _read(file)
        if not _is_on("all"):
            found = [name for name in os.listdir(_CONF) if name not in _NOT_DEVICES and not _is_on(name)]
            found = [name for name in found if not name.startswith(PREFIX)]
            self.changed = tuple(dict.fromkeys((*self.changed, *found)))
            _write(file, self.changed)
            self._switch(found, on=True)

    def close(self) -> None:
        """The last user has put things back. Idempotent."""
        file, self._file = self._file, None
        if file is None:
            return
        fcntl.lockf(file, fcntl.LOCK_EX)
        fcntl.flock(file, fcntl.LOCK_UN)
        if _is_alone(file):
            self._restore(file)
            os.unlink(self._path)
        os.close(file)

    def _restore(self, file: int) -> None:
        if not _is_on("all"):
            self._switch(_read(file), on=False)
        _write(file, ())

    def _switch(self, names: Iterable[str], *, on: bool) -> None:
        for name in names:
            # a device may have gone meanwhile
            with contextlib.suppress(OSError):
                self._host.forward(socket.if_nametoindex(name), on=on)


def is_within_reach(directory: str = DIRECTORY) -> bool:
    """Whether `Forwarding` will have nothing to put back after others, and can remember what it changes."""
    if os.path.exists(_path_in(directory)):
        return False
    return _is_on("all") or os.access(directory if os.path.exists(directory) else os.path.dirname(directory), os.W_OK)


def _path_in(directory: str) -> str:
    return f"{directory}/forwarding-{os.stat('/proc/thread-self/ns/net').st_ino}"


def _open_locked(path: str) -> int:
    """The file at ``path``, with the lock of who enters; the last user may be removing it just now."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        fcntl.lockf(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:
            return file
        os.close(file)


def _is_on(device: str) -> bool:
    try:
        with open(f"{_CONF}/{device}/forwarding", encoding="ascii") as file:
            return file.read().strip() != "0"
    except OSError:
        return False


def _is_alone(file: int) -> bool:
    """Whether nobody else uses it; the lock of users isn't held afterwards."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True


def _read(file: int) -> tuple[str, ...]:
    return tuple(os.pread(file, 1 << 16, 0).decode().split())


def _write(file: int, names: Iterable[str]) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, "".join(f"{name}\n" for name in names).encode(), 0)
