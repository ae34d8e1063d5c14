"""Random branch directories, and trees as values that can be compared.

Invariants: equal seeds give equal trees, whatever the machine; what needs root is left out for other users, and
attributes where the file system takes none (tmpfs before Linux 6.6).
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import stat
from pathlib import Path

from unionfs.namedtuple import NamedTuple
from unionfs.privileges import is_machine_root, mapped_ids

_NAMES = (
    b"a",
    b"bin",
    "größe".encode(),
    b"\xff\xfe raw",
    b"with space",
    b"new\nline",
    b"x" * 120,
    b"-dash",
    b".hidden",
)
_MODES = (0o644, 0o600, 0o755, 0o4755, 0o2755, 0o1777, 0o000)
_BASE_SECONDS = 1_600_000_000


class Node(NamedTuple):
    """What of a file matters in an image. ``link`` is a symlink's target or the first name of a hard-linked file."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_seconds: int
    content: str = ""
    link: bytes = b""
    device: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()


def describe(root: Path) -> dict[bytes, Node]:
    """The tree under ``root`` as a value: every path below it, marks included; the root itself as ``b""``."""
    top = os.fsencode(root)
    first: dict[tuple[int, int], bytes] = {}
    found: dict[bytes, Node] = {}
    pending = [b""]
    while pending:
        path = pending.pop(0)
        host = top + b"/" + path if path else top
        status = os.lstat(host)
        found[path] = _node(host, path, status, first)
        if stat.S_ISDIR(status.st_mode):
            prefix = path + b"/" if path else b""
            pending[:0] = [prefix + name for name in sorted(os.listdir(host))]
    return found


def _node(host: bytes, path: bytes, status: os.stat_result, first: dict[tuple[int, int], bytes]) -> Node:
    mode = status.st_mode
    content = ""
    if stat.S_ISREG(mode):
        with open(host, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    target = os.readlink(host) if stat.S_ISLNK(mode) else b""
    if status.st_nlink > 1 and not stat.S_ISDIR(mode):
        earlier = first.setdefault((status.st_dev, status.st_ino), path)
        target = earlier if earlier != path else target
    names = sorted(os.listxattr(host, follow_symlinks=False))
    return Node(
        kind=f"{stat.S_IFMT(mode):o}",
        mode=stat.S_IMODE(mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_seconds=status.st_mtime_ns // 1_000_000_000,
        content=content,
        link=target,
        device=status.st_rdev,
        xattrs=tuple((name, os.getxattr(host, name, follow_symlinks=False)) for name in names),
    )


def random_tree(root: Path, seed: int, entries: int = 40, *, marks: bool = True) -> None:
    """The directory is filled with about ``entries`` entries of every kind; with ``marks`` also whiteouts."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be kept secret
    top = os.fsencode(root)
    directories = [b""]
    files: list[bytes] = []
    for number in range(entries):
        parent = chance.choice(directories)
        name = chance.choice(_NAMES) + b"%d" % number
        path = parent + b"/" + name if parent else name
        kind = chance.choice(
            ("file", "file", "file", "directory", "directory", "symlink", "link", "fifo", "device", "mark")
        )
        if kind == "directory":
            directories.append(path)
        if kind == "file":
            files.append(path)
        _make(chance, top + b"/" + path, kind, [top + b"/" + each for each in files], marks=marks)
    _stamp(chance, top, directories)


def _make(chance: random.Random, host: bytes, kind: str, files: list[bytes], *, marks: bool) -> None:
    root = os.geteuid() == 0
    if kind == "directory":
        os.mkdir(host)
    elif kind == "symlink":
        os.symlink(chance.choice((b"a", b"../x", b"/etc/passwd", b"y" * 150)), host)
    elif kind == "link" and files:
        os.link(chance.choice(files), host)
    elif kind == "fifo":
        os.mkfifo(host)
    elif kind == "device" and is_machine_root():
        os.mknod(host, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    elif kind == "mark" and marks:
        _mark(chance, host)
    else:
        _file(chance, host, owned=root)


def _mark(chance: random.Random, host: bytes) -> None:
    directory, _, name = host.rpartition(b"/")
    mark = b".wh..wh..opq" if chance.random() < 0.3 else b".wh." + name  # noqa: PLR2004 - now and then
    with open(directory + b"/" + mark, "wb"):
        pass


def _file(chance: random.Random, host: bytes, *, owned: bool) -> None:
    with open(host, "wb") as file:
        file.write(chance.randbytes(chance.choice((0, 1, 511, 512, 513, 5000, 100_000))))
    if owned:
        # those that exist, where this is root of a user namespace
        most = mapped_ids()
        os.chown(host, chance.choice((0, 1000, 2_097_151, 3_000_000)) % most, chance.choice((0, 50)) % most)
    os.chmod(host, chance.choice(_MODES) if owned else 0o644)
    if chance.random() < 0.2:  # noqa: PLR2004 - now and then
        note = chance.randbytes(20)
        try:
            os.setxattr(host, "user.note", note)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise


def _stamp(chance: random.Random, top: bytes, directories: list[bytes]) -> None:
    """Times that do not depend on the clock; directories last, since filling them changes theirs."""
    for directory in directories:
        for name in sorted(os.listdir(top + b"/" + directory)):
            _stamp_one(chance, top + b"/" + directory + b"/" + name)
    for directory in reversed(directories):
        _stamp_one(chance, top + b"/" + directory)


def _stamp_one(chance: random.Random, host: bytes) -> None:
    when_ns = (_BASE_SECONDS + chance.randrange(1000)) * 1_000_000_000
    os.utime(host, ns=(when_ns, when_ns), follow_symlinks=False)
