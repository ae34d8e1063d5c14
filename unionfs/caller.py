"""``unionctl``'s end of the control socket: finds the union a path lies in, and asks its daemon.

Invariant: nothing below a mount point is touched before the daemon behind it has answered, so that one that hangs or
was killed is an error after a bounded time, and never a command that hangs too.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Protocol

from unionfs import wire
from unionfs.busy import find_users
from unionfs.control import ControlBusyError, ControlError, peer_of, socket_directories, socket_name
from unionfs.errors import UnionError, one_line, reason
from unionfs.mountinfo import MountEntry, read_mounts
from unionfs.namedtuple import NamedTuple

PATIENCE_SECONDS = 30.0
_LINKS = 40


class FoundUnion(NamedTuple):
    """The union a path lies in, and the path within it."""

    mount: MountEntry
    path: bytes
    patience_seconds: float

    def ask(self, message: wire.Message) -> wire.Message:
        """The daemon's answer.

        Raises:
            ControlError: it cannot be reached, or refuses; the processes are named when it is because of open files.
        """
        try:
            return ask(self.mount, message, self.patience_seconds)
        except ControlBusyError as error:
            users = [f"{user.name} ({user.pid})" for user in find_users(self.mount.device, frozenset(error.inos))]
            raise ControlError(f"{error}: {', '.join(users)}" if users else str(error)) from error


def find_union(text: str, *, hidden: bool = False, patience_seconds: float = PATIENCE_SECONDS) -> FoundUnion:
    """The union that holds the path; with ``hidden`` nothing need show there, and a link is not followed.

    Raises:
        UnionError, OSError: there is none, or its daemon does not answer.
    """
    mounts = {mount.mount_point: mount for mount in read_mounts()}
    entered: list[MountEntry] = []

    def look(path: bytes, *, last: bool) -> bytes | None:
        mount = mounts.get(path)
        if mount is not None:
            if _is_union(mount) and mount not in entered:
                ask(mount, {"do": "list"}, patience_seconds)
                entered.append(mount)
            return None
        try:
            return _link(path, hidden=hidden, last=last)
        except PermissionError:
            # somebody else's mount is closed even to root; its daemon looks for itself
            if not entered:
                raise
            return None

    place = walk(os.path.join(os.getcwdb(), os.fsencode(text)), look)
    point = place
    while point not in mounts and point != b"/":
        point = os.path.dirname(point)
    mount = mounts.get(point)
    if mount is None or not _is_union(mount):
        raise UnionError(f"{text!r}: lies in no union")
    return FoundUnion(mount, place[len(point) :].strip(b"/"), patience_seconds)


class Look(Protocol):
    """What a walk asks at each step."""

    def __call__(self, path: bytes, *, last: bool) -> bytes | None:
        """The target of the symbolic link at ``path`` that is to be followed, else None."""


def walk(path: bytes, look: Look) -> bytes:
    """Where the absolute path leads; ``look`` is asked about every name on the way, from the root on.

    Raises:
        OSError: ELOOP, or what ``look`` raises.
    """
    at = b"/"
    look(at, last=False)
    todo = _parts(path)
    links = 0
    while todo:
        name = todo.pop()
        if name == b"..":
            at = os.path.dirname(at)
            continue
        further = os.path.join(at, name)
        target = look(further, last=not todo)
        if target is None:
            at = further
            continue
        links += 1
        if links > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        todo += _parts(target)
        at = b"/" if target.startswith(b"/") else at
    return at


def _parts(path: bytes) -> list[bytes]:
    return [part for part in reversed(path.split(b"/")) if part not in {b"", b"."}]


def _link(path: bytes, *, hidden: bool, last: bool) -> bytes | None:
    try:
        status = os.stat(path, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        if not hidden:
            raise
        return None
    if not stat.S_ISLNK(status.st_mode) or (hidden and last):
        return None
    return os.readlink(path)


def _is_union(mount: MountEntry) -> bool:
    """Whether there may be a daemon of ours behind it: the subtype is the mounter's choice."""
    return mount.filesystem_type.startswith(b"fuse")


def ask(mount: MountEntry, message: wire.Message, patience_seconds: float = PATIENCE_SECONDS) -> wire.Message:
    """The answer of the daemon behind ``mount``.

    Raises:
        ControlError: there is no daemon to be reached, it does not answer in time, or it refuses; ControlBusyError:
            since files are open.
    """
    name = os.fsdecode(mount.mount_point)
    with _connect(mount, patience_seconds) as sock:
        try:
            wire.send(sock, message)
            received = wire.receive(sock)
        except TimeoutError as error:
            raise ControlError(
                f"union {name!r}: its daemon (process {peer_of(sock)[0]}) did not answer {message['do']!r}"
                f" within {patience_seconds:g} seconds",
                "it may be stopped, or busy and do it yet; --timeout waits longer",
            ) from error
        except (OSError, wire.WireError) as error:
            raise ControlError(f"union {name!r}: {one_line(error)}") from error
    if received is None:
        raise ControlError(f"union {name!r}: the daemon hung up")
    for fd in received.fds:
        os.close(fd)
    if received.message.get("inos"):
        raise ControlBusyError(received.message["error"], tuple(received.message["inos"]))
    if "error" in received.message:
        raise ControlError(received.message["error"])
    return received.message


def _connect(mount: MountEntry, patience_seconds: float) -> socket.socket:
    """A connection to the daemon of the mount, wherever the user who mounted has put the socket."""
    owner = mount.user_id
    why, hint = "it has no control socket", ""
    for directory in socket_directories(owner) if owner is not None else []:
        path = f"{directory}/{socket_name(mount.device)}"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(patience_seconds)
        try:
            _connect_at(sock, directory, socket_name(mount.device))
            if peer_of(sock)[1] == owner:
                return sock
            why = f"{path!r} belongs to somebody else"
        except FileNotFoundError:
            pass
        except ConnectionRefusedError:
            why = "its daemon has ended"
            hint = f"unmount it: umount {os.fsdecode(mount.mount_point)!r}"
        except OSError as error:
            why = f"{path!r}: {reason(error)}"
        sock.close()
    raise ControlError(f"union {os.fsdecode(mount.mount_point)!r} cannot be reached: {why}", hint)


def _connect_at(sock: socket.socket, directory: str, name: str) -> None:
    # by the descriptor: the path of a socket has 108 bytes at most
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)
