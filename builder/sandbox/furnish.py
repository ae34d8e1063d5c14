"""The mounts of a step are made: first those that every step has, on a staging place, then root and the step's own.

::

    prepare     staging tmpfs over the host's /proc of this namespace, with  root/  proc/…  dev/…  sys/…  etc/  in it
    enter       the step's root is attached on  root/ ;  proc, dev and sys move into it;  pivot_root;  host detached
    furnish     the step's own mounts, and mount points that were missing
    restore     mount points that were made are removed again

Invariants: targets inside the root are resolved there (openat2, RESOLVE_IN_ROOT, no magic links), and /proc, /dev and
/sys never over a symlink, so an image can't lead a mount elsewhere; nothing of the image is looked at before the host's
tree is out of reach, but for these three names; a directory in which a mount point was made gets its time back.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from types import TracebackType

from builder.sandbox import _sys
from builder.sandbox.mounts import (
    BASE_TARGETS,
    DEVICE_DIRECTORIES,
    DEVICE_LINKS,
    DEVICES,
    HARDENED,
    BaseMount,
    Devices,
    Filesystem,
    Mask,
    OwnMount,
    ReadOnly,
    Seal,
    Texts,
    Tree,
)
from unionfs.namedtuple import NamedTuple

# hidden from bind sources in return; nothing under the host's /proc is one
_STAGING = "/proc"
_LINK_LIMIT = 40
_READ_ONLY = HARDENED | _sys.MOUNT_ATTR_RDONLY
_EXECUTABLE = 0o111
_CONFINED = _sys.RESOLVE_IN_ROOT | _sys.RESOLVE_NO_MAGICLINKS


# by target, the detached mounts that will lie there
Sources = dict[str, int]


class StageError(Exception):
    """A stage of the set-up failed; the message names it."""


class Stage:
    """An ``OSError`` inside becomes a `StageError` that says what was being done and to what."""

    __slots__ = ("_doing", "_what")

    def __init__(self, doing: str, what: str) -> None:
        self._doing = doing
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            name = errno.errorcode.get(error.errno or 0, str(error.errno))
            reason = (error.strerror or "").lower()
            raise StageError(f'error {self._doing} "{self._what}": {name} ({reason})') from error


class MadePoint(NamedTuple):
    """A mount point that was not there: in the directory ``parent``, whose time was and became these."""

    target: str
    parent: int
    is_directory: bool
    before_ns: int
    after_ns: int


class Root:
    """The root of a step while it is being furnished; belongs to the step's first process, in its namespaces."""

    def __init__(self, *, pivots: bool = True) -> None:
        self._pivots = pivots
        self._staged: dict[str, int] = {}
        self._root = -1
        self._made: list[MadePoint] = []

    def prepare(self, mounts: Sequence[BaseMount]) -> None:
        """/proc, /dev and /sys of the step lie ready.

        Raises:
            StageError: the first mount that can't be made, by name.
        """
        sources = {
            mount: _sys.open_tree(os.fsencode(mount.source), recursive=mount.kind != "cgroup")
            for mount in mounts
            if isinstance(mount, Tree)
        }
        devices = [mount for mount in mounts if isinstance(mount, Devices)]
        nodes = _host_devices() if any(mount.bound for mount in devices) else {}
        with Stage("staging on", _STAGING):
            _sys.attach(_sys.new_mount("tmpfs", (), HARDENED & ~_sys.MOUNT_ATTR_NOEXEC), _STAGING)
            for target in ("/root", "/etc", *BASE_TARGETS):
                os.mkdir(_STAGING + target)
        for mount in mounts:
            match mount:
                case Filesystem():
                    with Stage(f'mounting "{mount.kind}" at', mount.target):
                        fd = _new_filesystem(mount)
                        _sys.attach(fd, _STAGING + mount.target)
                        self._keep(fd, mount.target)
                case Tree():
                    with Stage(f'mounting "{mount.kind}" at', mount.target):
                        os.makedirs(_STAGING + mount.target, exist_ok=True)
                        _sys.mount_setattr(sources[mount], mount.attributes, recursive=True)
                        _sys.attach(sources[mount], _STAGING + mount.target)
                        self._keep(sources[mount], mount.target)
                case Devices():
                    with Stage("furnishing", "/dev"):
                        _make_devices(_STAGING + "/dev", nodes)
                case Mask() | ReadOnly() | Seal():
                    with Stage("covering", mount.target):
                        _cover(mount)

    def _keep(self, fd: int, target: str) -> None:
        if target in BASE_TARGETS:
            self._staged[target] = fd
        else:
            os.close(fd)

    def enter(self, root_fd: int, own: Sequence[OwnMount], fds: Sequence[int]) -> Sources:
        """The step's root is the root of this namespace, the host's is detached; returns the sources of ``own``.

        Raises:
            StageError: a source can't be opened, or the root can't be entered.
        """
        self._root = root_fd
        sources: Sources = {}
        for mount in own:
            if isinstance(mount, Tree):
                with Stage(f"opening {mount.kind} source", mount.source):
                    sources[mount.target] = open_source(mount, fds)
            elif isinstance(mount, Texts):
                with Stage("writing", "files of the step"):
                    sources.update(_write_texts(mount))
        with Stage("attaching", "root"):
            _sys.attach(root_fd, f"{_STAGING}/root")
            # a copy of a mount that is shared, as / is under systemd, would carry the step's mounts out to the host
            _sys.mount_propagation(f"{_STAGING}/root".encode(), _sys.MS_REC | _sys.MS_PRIVATE)
        for target, fd in self._staged.items():
            with Stage("mounting at", target):
                self._attach_inside(fd, target, is_directory=True)
                os.close(fd)
        with Stage("changing to", "root"):
            os.fchdir(root_fd)
            if self._pivots:
                _sys.pivot_root(b".", b".")
                _sys.umount(b".", _sys.MNT_DETACH)
            else:
                _cover_root(root_fd)
            os.chdir("/")
        return sources

    def furnish(self, own: Sequence[OwnMount], sources: Sources, attributes: int) -> None:
        """Every mount of ``own`` lies at its target inside the root; the root itself carries ``attributes``.

        Raises:
            StageError: the first that can't, by name.
        """
        for mount in own:
            match mount:
                case Texts():
                    for file in mount.files:
                        with Stage("mounting at", file.target):
                            self._attach_inside(sources[file.target], file.target, is_directory=False)
                case Filesystem():
                    with Stage(f'mounting "{mount.kind}" at', mount.target):
                        self._attach_inside(_new_filesystem(mount), mount.target, is_directory=True)
                case Tree():
                    with Stage(f'mounting "{mount.kind}" at', mount.target):
                        fd = sources[mount.target]
                        self._attach_inside(fd, mount.target, is_directory=_is_directory(fd))
        if attributes:
            with Stage("changing", "root"):
                _sys.mount_setattr(self._root, attributes, recursive=False)

    def make_points(self, root_fd: int, points: Sequence[tuple[str, bool]]) -> None:
        """Mount points are there in the root ``root_fd``, for others to mount on; each says if it is a directory.

        Raises:
            StageError: the first that can't be made.
        """
        self._root = root_fd
        for target, is_directory in points:
            with Stage("mounting at", target):
                os.close(self._resolve(target, is_directory=is_directory))

    def parents(self) -> list[int]:
        """The directories, open as long as the points are there, in which points were made."""
        return [point.parent for point in self._made]

    def make_directory(self, path: str, uid: int, gid: int) -> None:
        """A directory is at ``path`` in the root; new ones belong to the user, and stay."""
        try:
            os.close(_sys.openat2(self._root, os.fsencode(path), os.O_PATH | os.O_DIRECTORY, _CONFINED))
        except FileNotFoundError:
            directory, name = os.path.split(path.rstrip("/"))
            self.make_directory(directory, uid, gid)
            parent = _sys.openat2(self._root, os.fsencode(directory), os.O_PATH | os.O_DIRECTORY, _CONFINED)
            try:
                os.mkdir(name, 0o755, dir_fd=parent)
                os.chown(name, uid, gid, dir_fd=parent)
            finally:
                os.close(parent)

    def restore(self) -> None:
        """Mount points that were made, and are as they were made, are gone; their directories have their times back."""
        for point in reversed(self._made):
            # a directory on the way to a mount point is none itself
            with contextlib.suppress(OSError):
                _sys.umount(os.fsencode(point.target), _sys.MNT_DETACH)
            _remove(point)

    def remove_points(self) -> None:
        """As `restore`, for `make_points`: what was mounted there is gone with another mount namespace."""
        for point in reversed(self._made):
            _remove(point)
            os.close(point.parent)
        self._made.clear()

    def leave(self) -> None:
        """Nothing of this process holds the root: the kernel lets it go now, not when the process has ended.

        From here on the root of this process is what was /proc. Mounts that must stay together (mount_namespaces(7))
        stay until the end of the process, as all would without this.
        """
        for point in self._made:
            os.close(point.parent)
        self._made.clear()
        with contextlib.suppress(OSError):
            elsewhere = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            _sys.umount(b"/", _sys.MNT_DETACH)
            os.fchdir(elsewhere)
            os.chroot(".")
            os.close(self._root)

    def _attach_inside(self, mount_fd: int, target: str, *, is_directory: bool) -> None:
        target_fd = self._resolve(target, is_directory=is_directory)
        _sys.move_mount(mount_fd, target_fd)
        os.close(target_fd)

    def _resolve(self, target: str, *, is_directory: bool) -> int:
        """What ``target`` names inside the root, made where it is missing; the caller closes it."""
        confinement = _confinement(target)
        for _ in range(_LINK_LIMIT):
            try:
                return _sys.openat2(self._root, os.fsencode(target), os.O_PATH, confinement)
            except FileNotFoundError:
                target = self._make(target, is_directory=is_directory)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    def _make(self, target: str, *, is_directory: bool) -> str:
        """The mount point is there, or a dangling link stands in its way; returns where to look next."""
        directory, name = os.path.split(target.rstrip("/"))
        parent = self._resolve(directory or "/", is_directory=True)
        with contextlib.ExitStack() as opened:
            opened.callback(os.close, parent)
            with contextlib.suppress(FileNotFoundError):
                return os.path.join(directory, os.readlink(name, dir_fd=parent))
            before = os.fstat(parent)
            if is_directory:
                os.mkdir(name, 0o755, dir_fd=parent)
            else:
                os.mknod(name, stat.S_IFREG | 0o644, dir_fd=parent)
            # at once: before Linux 6.13 times are those of a clock of some milliseconds, and what changes next may have
            # the same as the mount point
            _set_mtime(parent, before, before.st_mtime_ns)
            self._made.append(MadePoint(target, parent, is_directory, before.st_mtime_ns, os.fstat(parent).st_mtime_ns))
            opened.pop_all()
        return target


def open_source(tree: Tree, fds: Sequence[int]) -> int:
    """A detached mount of what ``tree`` shows, with its attributes; the caller closes it."""
    fd = fds[tree.fd] if tree.fd is not None else _sys.open_tree(os.fsencode(tree.source), recursive=True)
    _sys.mount_setattr(fd, tree.attributes, recursive=True)
    return fd


def _write_texts(texts: Texts) -> Sources:
    """The files lie on the staging place, which is lost with the host's tree; each is a read-only mount of its own."""
    sources: Sources = {}
    for place, file in enumerate(texts.files):
        path = f"{_STAGING}/etc/{place}"
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with open(fd, "wb", buffering=0) as content:
            content.write(os.fsencode(file.text))
            os.fchown(fd, file.uid, file.gid)
            os.fchmod(fd, file.mode)
        sources[file.target] = _sys.open_tree(path.encode(), recursive=False)
        # a script is there to be executed
        allowed = _sys.MOUNT_ATTR_NOEXEC if file.mode & _EXECUTABLE else 0
        _sys.mount_setattr(sources[file.target], _READ_ONLY & ~allowed, recursive=False)
    return sources


def _cover_root(root_fd: int) -> None:
    """The mount lies over the root of this namespace and is the root of this process.

    For where pivot_root(2) is not allowed. As after switch_root(8) the old root is below all that has a path: ``..``
    in the new one leads to itself, from every directory.
    """
    _sys.attach(root_fd, "/")
    os.fchdir(root_fd)
    os.chroot(".")


def _attach_tree(mount_fd: int, attributes: int, path: str) -> None:
    _sys.mount_setattr(mount_fd, attributes, recursive=True)
    _sys.attach_closing(mount_fd, path)


def _host_devices() -> dict[str, int]:
    nodes: dict[str, int] = {}
    for name in DEVICES:
        with Stage("opening", f"/dev/{name}"):
            nodes[name] = _sys.open_tree(b"/dev/" + name.encode(), recursive=False)
    return nodes


def _make_devices(dev: str, nodes: dict[str, int]) -> None:
    """The nodes of /dev: copies of the host's where ``nodes`` has them, else made."""
    for name, (major, minor) in DEVICES.items():
        if name in nodes:
            os.mknod(f"{dev}/{name}", stat.S_IFREG | 0o666)
            _attach_tree(nodes[name], _sys.MOUNT_ATTR_NOSUID | _sys.MOUNT_ATTR_NOEXEC, f"{dev}/{name}")
        else:
            os.mknod(f"{dev}/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
    for link, target in DEVICE_LINKS.items():
        os.symlink(target, f"{dev}/{link}")
    if os.path.exists(f"{_STAGING}/proc/kcore"):
        os.symlink("/proc/kcore", f"{dev}/core")  # as runc: where the kernel has one, which is covered
    for name in DEVICE_DIRECTORIES:
        os.mkdir(f"{dev}/{name}", 0o755)


def _cover(cover: Mask | ReadOnly | Seal) -> None:
    """The staged ``cover.target``, where there is one, is covered."""
    path = _STAGING + cover.target
    try:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if isinstance(cover, Seal):
        _sys.mount_setattr(target, _READ_ONLY, recursive=False)
    elif isinstance(cover, ReadOnly):
        _attach_tree(_sys.open_tree(path.encode(), recursive=True), _READ_ONLY, path)
    elif _is_directory(target):
        _attach_tree(_sys.new_mount("tmpfs", (("mode", "755"),), HARDENED), _READ_ONLY, path)
    else:
        null = _sys.open_tree(f"{_STAGING}/dev/null".encode(), recursive=False)
        _attach_tree(null, _sys.MOUNT_ATTR_NOSUID | _sys.MOUNT_ATTR_NOEXEC, path)
    os.close(target)


def _remove(point: MadePoint) -> None:
    """The mount point is gone, unless the step has put something there, or moved it: then it is the step's."""
    name = os.path.basename(point.target.rstrip("/"))
    with contextlib.suppress(OSError):
        now = os.fstat(point.parent)
        if point.is_directory:
            os.rmdir(name, dir_fd=point.parent)
        elif os.stat(name, dir_fd=point.parent, follow_symlinks=False).st_size == 0:
            os.unlink(name, dir_fd=point.parent)
        untouched = now.st_mtime_ns == point.after_ns
        _set_mtime(point.parent, now, point.before_ns if untouched else now.st_mtime_ns)


def _set_mtime(directory: int, status: os.stat_result, mtime_ns: int) -> None:
    """The directory has this time of change, where this process may set it; that of access is as in ``status``."""
    with contextlib.suppress(OSError):
        os.utime(".", ns=(status.st_atime_ns, mtime_ns), dir_fd=directory)


def _is_directory(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def _confinement(target: str) -> int:
    """How ``target`` may be reached: the kernel's own places never over a symlink of the image."""
    if target.split("/", 2)[1] in {"proc", "sys", "dev"}:
        return _CONFINED | _sys.RESOLVE_NO_SYMLINKS
    return _CONFINED


def _new_filesystem(mount: Filesystem) -> int:
    try:
        return _sys.new_mount(mount.kind, mount.options, mount.attributes)
    except OSError as error:
        if not (mount.last_is_optional and error.errno == errno.EINVAL):
            raise
        return _sys.new_mount(mount.kind, mount.options[:-1], mount.attributes)
