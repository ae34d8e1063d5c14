"""What a step sees beside its root where nothing can be mounted, as files: of /dev what can be made, its own mounts.

============ ===========================================================================================
/dev         nodes and links as ever, but those into /proc lead nowhere, except that /dev/stderr is the pipe that the
             step writes to (most who name /dev/stdout have led stdout elsewhere); no terminals; /dev/shm on the disk
/proc        texts about the machine, as they were when the step began (`_TEXTS`); nothing about processes
/sys         empty
files        of the step alone, secrets among them: on the disk as long as it runs, and writable for root
bind         the copy that it is anyway; what lies elsewhere (``pybuild run -v``) is copied, read-only or not at all
cache        a tree of links to the files of the cache, which takes its place after the step
ssh          the socket itself
tmpfs        an empty directory; its size is not held
============ ===========================================================================================

Invariants: a cache is whole at any time; nothing of the builder but these is below the root of the step.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

from builder.errors import BuildError
from builder.filecopy import copy_content
from builder.rootcopies.copying import lay_out
from builder.rootcopies.furnishing import Furnishing
from builder.rootfs import open_root
from builder.sandbox import network
from builder.sandbox.furnish import StageError
from builder.sandbox.isolation import NO_NAMESPACES
from builder.sandbox.mounts import DEVICE_DIRECTORIES, DEVICE_LINKS, DEVICES
from builder.sandbox.spec import Bind, File, SandboxSpec, Tmpfs

_DEV = "/dev"
_PROC = Path("/proc")
_TEXTS = (
    "cpuinfo",
    "filesystems",
    "loadavg",
    "meminfo",
    "stat",
    "uptime",
    "version",
    "sys/kernel/cap_last_cap",
    "sys/kernel/ngroups_max",
    "sys/kernel/osrelease",
    "sys/kernel/ostype",
    "sys/kernel/pid_max",
    "sys/kernel/version",
    "sys/vm/overcommit_memory",
)


def furnish(spec: SandboxSpec, furnishing: Furnishing, makers: Makers) -> None:
    """All that ``spec`` shows beside the root lies in the copy.

    Raises:
        BuildError: something can't be shown here.
        OSError: the disk takes no more.
    """
    try:
        furnishing.put("/proc", makers.texts_of_machine())
        furnishing.put("/sys", makers.directory(0o555))
        furnishing.put(_DEV, makers.devices())
        # the name that this host has is found, as the step's own is
        named = spec._replace(extra_hosts=(*spec.extra_hosts, f"{socket.gethostname()}:127.0.1.1"))
        texts = network.etc_files(named, network.Surroundings(host_network=True))
        for file in (*(File(target, text, 0o644) for target, text in texts.items()), *spec.files):
            furnishing.put(file.target, makers.file(file))
        mounts: list[Bind | Tmpfs] = [*spec.tmpfs, *spec.binds]
        for mount in sorted(mounts, key=_depth):
            if isinstance(mount, Tmpfs):
                furnishing.put(mount.target, makers.directory(mount.mode))
            else:
                _put_bind(mount, furnishing, makers)
    except StageError as error:
        raise BuildError(f"step can't be furnished: {error}") from error


def _depth(mount: Bind | Tmpfs) -> int:
    return mount.target.rstrip("/").count("/")


def _put_bind(bind: Bind, furnishing: Furnishing, makers: Makers) -> None:
    source = Path(bind.source)
    if bind.kind == "cache":
        links = makers.links(source)
        furnishing.put(bind.target, links, home=None if bind.read_only else source, exchanged=True)
    elif makers.owns(source):
        furnishing.put(bind.target, source, home=source)
    elif bind.read_only:
        furnishing.put(bind.target, makers.copied(source))
    else:
        raise BuildError(
            f"{bind.source!r} can't be shown to be written at isolation {NO_NAMESPACES}: nothing can be mounted",
            hints=(f"with :ro the command sees a copy of it at {bind.target}",),
        )


class Makers:
    """Makes what is put into a copy, each under a name of its own."""

    def __init__(self, place: Path, active: Path, stderr: Path | None = None) -> None:
        """Things are made in ``place``, on the file system of the copy; what lies below ``active`` is the step's own.

        ``stderr`` is a pipe that becomes a file of /dev.
        """
        self._place = place
        self._active = active
        self._stderr = stderr
        self._number = 0

    def owns(self, path: Path) -> bool:
        """Whether ``path`` was made for a step."""
        return path.is_relative_to(self._active)

    def _name(self) -> Path:
        self._number += 1
        return self._place / f"{self._number}.made"

    def directory(self, mode: int) -> Path:
        """An empty directory."""
        path = self._name()
        path.mkdir()
        path.chmod(mode)
        return path

    def file(self, file: File) -> Path:
        """The file of a step."""
        path = self._name()
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb", buffering=0) as content:
            content.write(os.fsencode(file.text))
            os.fchown(fd, file.uid, file.gid)
            os.fchmod(fd, file.mode)
        return path

    def texts_of_machine(self) -> Path:
        """/proc."""
        path = self.directory(0o555)
        for name in _TEXTS:
            # what a container hides is missing here too
            with contextlib.suppress(OSError):
                text = (_PROC / name).read_bytes()
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(text)
                (path / name).chmod(0o444)
        return path

    def devices(self) -> Path:
        """/dev."""
        path = self.directory(0o755)
        for name, (major, minor) in DEVICES.items():
            os.mknod(path / name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
            (path / name).chmod(0o666)
        for link, target in DEVICE_LINKS.items():
            (path / link).symlink_to(target)
        if self._stderr is not None:
            self._stderr.rename(path / "stderr")
        for name in DEVICE_DIRECTORIES:
            (path / name).mkdir()
            (path / name).chmod(0o1777 if name == "shm" else 0o755)
        return path

    def copied(self, source: Path) -> Path:
        """A copy of a file or tree."""
        if source.is_dir():
            path = self.directory(0o755)
            with open_root([source]) as root:
                if root is not None:
                    lay_out(root, path)
            return path
        path = self._name()
        with open(source, "rb") as original, open(path, "xb") as copy:
            status = os.fstat(original.fileno())
            copy_content(original.fileno(), copy.fileno(), status, lambda: None)
            os.fchown(copy.fileno(), status.st_uid, status.st_gid)
            os.fchmod(copy.fileno(), stat.S_IMODE(status.st_mode))
        return path

    def links(self, source: Path) -> Path:
        """A tree of the directories of ``source`` with links to its files."""
        path = self._name()
        _link_tree(source, path)
        return path


def _link_tree(source: Path, target: Path) -> None:
    """As deep as paths can be: a stack of directories, not of calls."""
    waiting = [(source, target)]
    made: list[tuple[Path, Path]] = []
    while waiting:
        here, there = waiting.pop()
        there.mkdir(mode=0o700)
        made.append((here, there))
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((here / entry.name, there / entry.name))
                else:
                    os.link(entry.path, there / entry.name, follow_symlinks=False)
    for here, there in reversed(made):
        status = here.stat()
        os.chown(there, status.st_uid, status.st_gid)
        there.chmod(stat.S_IMODE(status.st_mode))
        for name in os.listxattr(here):
            os.setxattr(there, name, os.getxattr(here, name))
        os.utime(there, ns=(status.st_atime_ns, status.st_mtime_ns))
