"""Makes FUSE mounts: detached ones by the new mount calls, attached ones by fusermount3 for a plain user.

::

    open(/dev/fuse) → fsopen("fuse") → fsconfig(fd=…, …) → fsmount → a descriptor, attached nowhere
                                                                     └→ move_mount → a mount point
    fusermount3 -o … MOUNTPOINT ── SCM_RIGHTS over _FUSE_COMMFD ──→ the device of an attached mount

A detached mount is seen by nobody but the holder of its descriptor, and goes when the last holder does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Generator, Iterable

from unionfs import _sys
from unionfs.errors import UnionError
from unionfs.mountinfo import read_mounts
from unionfs.namedtuple import NamedTuple

DEVICE = "/dev/fuse"
_DEVICE_NUMBER = os.makedev(10, 229)
_FILESYSTEM = "fuse"


class MountError(UnionError):
    """A mount cannot be made; one line, and perhaps a ``hint`` on what would help."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class MountOptions(NamedTuple):
    """What the kernel is told about a mount."""

    source: str = "unionfs"
    subtype: str = "unionmount"
    allow_other: bool = True
    read_only: bool = False
    nosuid: bool = False
    nodev: bool = False
    noexec: bool = False
    noatime: bool = False
    context: str | None = None
    """SELinux label of everything in the mount; without effect on a kernel without SELinux, as with mount(8)."""


def open_device() -> int:
    """A fresh /dev/fuse.

    Raises:
        MountError: it is missing or may not be opened.
    """
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise MountError(f"{DEVICE}: {_lower(error)}", _DEVICE_HINTS.get(error.errno or 0, "")) from error
    at = os.fstat(fd)
    if not stat.S_ISCHR(at.st_mode) or at.st_rdev != _DEVICE_NUMBER:
        os.close(fd)
        raise MountError(f"{DEVICE}: expected the character device 10:229, got another file")
    return fd


def mount_detached(device_fd: int, options: MountOptions) -> int:
    """Descriptor of a mount attached nowhere, served by whoever reads ``device_fd``; INIT waits there already.

    The kernel checks permission bits (``default_permissions``). The caller closes the descriptor, which lets the
    mount go when nobody has attached it.

    Raises:
        MountError: no permission, or an option the kernel does not know.
    """
    try:
        context_fd = _sys.fsopen(_FILESYSTEM)
    except OSError as error:
        raise _refused(_lower(error), error) from error
    try:
        for key, value in _settings(device_fd, options):
            _sys.fsconfig(context_fd, key, value)
        _sys.fsconfig_create(context_fd)
        return _sys.fsmount(context_fd, _attributes(options))
    except OSError as error:
        raise _refused(_kernel_message(context_fd) or _lower(error), error) from error
    finally:
        os.close(context_fd)


def attach(mount_fd: int, mount_point: bytes) -> None:
    """The detached mount is attached at ``mount_point``.

    Raises:
        MountError: there is no such directory, or it is not allowed.
    """
    try:
        _sys.move_mount(mount_fd, mount_point)
    except OSError as error:
        raise MountError(f"mount point {os.fsdecode(mount_point)!r}: {_lower(error)}") from error


def stack_depth(paths: Iterable[bytes]) -> int:
    """How deep file systems lie on each other where files of these directories are passed through (FUSE passthrough).

    2 where one lies on an overlayfs, as in a container; then no overlayfs can be mounted above the union, since the
    kernel allows two. 1 otherwise.
    """
    for path in paths:
        try:
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue  # whoever opens the branch says what is wrong with it
        try:
            if _sys.filesystem_type(fd) == _sys.OVERLAY_FILESYSTEM:
                return 2
        finally:
            os.close(fd)
    return 1


def mount_for_user(mount_point: bytes, options: MountOptions) -> int:
    """The device of a mount that fusermount3 has attached at ``mount_point``; the caller owns it.

    The kernel's INIT waits in it; whoever looks at the mount point before it is answered waits too.

    Raises:
        MountError: fusermount3 is missing or refuses.
    """
    import socket  # only a plain user needs these two
    import subprocess

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        command = ["fusermount3", "-o", _fusermount_options(options), "--", os.fsdecode(mount_point)]
        environment = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
        try:
            done = subprocess.run(
                command,
                env=environment,
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except OSError as error:
            raise MountError(f"fusermount3: {_lower(error)}", "install the package fuse3, or mount as root") from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().removeprefix("fusermount3: ")
            raise MountError(said or f"fusermount3: ended with status {done.returncode}")
        _, fds, _, _ = socket.recv_fds(ours, 1, 1, socket.MSG_CMSG_CLOEXEC)
        return fds[0]


def unmount_command(mount_point: bytes) -> list[str]:
    """The program that unmounts ``mount_point``, lazily: files that are open stay usable."""
    if os.geteuid() == 0:
        return ["umount", "-l", "--", os.fsdecode(mount_point)]
    return ["fusermount3", "-u", "-z", "--", os.fsdecode(mount_point)]


@contextlib.contextmanager
def nothing_left(mount_point: bytes) -> Generator[None]:
    """When the block fails, a mount that was made at ``mount_point`` meanwhile and that nobody serves is gone."""
    before = _mounts_at(mount_point)
    try:
        yield
    except BaseException:
        if _mounts_at(mount_point) - before and _is_dead(mount_point):
            command = unmount_command(mount_point)
            os.waitpid(os.posix_spawnp(command[0], command, os.environ), 0)
        raise


def _mounts_at(mount_point: bytes) -> set[int]:
    return {mount.mount_id for mount in read_mounts() if mount.mount_point == mount_point}


def _is_dead(mount_point: bytes) -> bool:
    try:
        os.statvfs(mount_point)
    except OSError as error:
        return error.errno in {errno.ENOTCONN, errno.ECONNABORTED}
    return False


def _fusermount_options(options: MountOptions) -> str:
    words = [f"fsname={quoted(options.source)}", f"subtype={quoted(options.subtype)}", "default_permissions"]
    flags = ("allow_other", "nosuid", "nodev", "noexec", "noatime")
    words += [flag for flag in flags if getattr(options, flag)]
    words += ["ro"] if options.read_only else []
    words += [f"context={quoted(options.context)}"] if options.context is not None and has_labels() else []
    return ",".join(words)


def quoted(text: str) -> str:
    """The text as a value in a list of options for libfuse."""
    return text.replace("\\", "\\\\").replace(",", "\\,")


def _refused(reason: str, error: OSError) -> MountError:
    return MountError(f"mount of a FUSE file system: {reason}", _MOUNT_HINTS.get(error.errno or 0, ""))


def _settings(device_fd: int, options: MountOptions) -> list[tuple[str, str | None]]:
    settings: list[tuple[str, str | None]] = [
        ("source", options.source),
        ("subtype", options.subtype),
        ("fd", str(device_fd)),
        ("rootmode", f"{stat.S_IFDIR:o}"),
        ("user_id", str(os.getuid())),
        ("group_id", str(os.getgid())),
        ("default_permissions", None),
    ]
    if options.allow_other:
        settings.append(("allow_other", None))
    if options.read_only:
        settings.append(("ro", None))
    if options.context is not None and has_labels():
        settings.append(("context", options.context))
    return settings


def has_labels() -> bool:
    """Whether the kernel has SELinux, and so knows the option."""
    return os.path.exists("/sys/fs/selinux/enforce")


def _attributes(options: MountOptions) -> int:
    chosen = (
        (options.read_only, _sys.MOUNT_ATTR_RDONLY),
        (options.nosuid, _sys.MOUNT_ATTR_NOSUID),
        (options.nodev, _sys.MOUNT_ATTR_NODEV),
        (options.noexec, _sys.MOUNT_ATTR_NOEXEC),
        (options.noatime, _sys.MOUNT_ATTR_NOATIME),
    )
    return sum(bit for wanted, bit in chosen if wanted)


def _kernel_message(context_fd: int) -> str:
    """What the kernel has to say about a refused option, ``fsopen(2)``; often nothing."""
    try:
        text = os.read(context_fd, 1024).decode(errors="replace")
    except OSError:
        return ""
    return text.removeprefix("e ").strip().lower()


def _lower(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


_DEVICE_HINTS = {
    errno.ENOENT: "load the kernel module: modprobe fuse; in a container pass --device /dev/fuse",
    errno.ENODEV: "load the kernel module: modprobe fuse",
    errno.ENXIO: "load the kernel module: modprobe fuse",
    errno.EACCES: "let the user open it: chmod 666 /dev/fuse",
    errno.EPERM: "the device is forbidden here; in a container pass --device /dev/fuse",
}
_MOUNT_HINTS = {
    errno.EPERM: "run as root, or in a user namespace of your own: unshare -rm",
    errno.ENODEV: "load the kernel module: modprobe fuse",
}
