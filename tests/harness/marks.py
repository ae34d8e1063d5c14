"""Branches of ``harness.merged`` on the disk, in either form of marks, and back. Nothing of ``unionfs`` is used."""

from __future__ import annotations

import os
import shutil
import stat

from harness.merged import Directory, Entry, File, Link, Whiteout

OPAQUE = b".wh..wh..opq"
OPAQUES = {OPAQUE, b".wh.__dir_opaque"}
TEMPORARY = b".wh..unionfs"
_WHITEOUT_XATTRS = ("trusted.overlay.whiteout", "user.overlay.whiteout")
_OPAQUE_XATTRS = ("trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque")


def write(root: bytes, directory: Directory, form: str) -> None:
    """The directory ``root``, which is there and empty, holds what ``directory`` says; opaque ones in the form."""
    os.chmod(root, directory.mode)
    if directory.opaque:
        if form == "aufs":
            _touch(root + b"/" + OPAQUE)
        else:
            os.setxattr(root, _OPAQUE_XATTRS[0] if os.geteuid() == 0 else _OPAQUE_XATTRS[1], b"y")
    for name, entry in directory.entries.items():
        _write_entry(root, name, entry, form)


def put(root: bytes, path: tuple[bytes, ...], entry: Entry | None, form: str = "aufs") -> None:
    """At ``path`` in the branch, which holds the directory, is the entry and nothing else."""
    above = b"/".join((root, *path[:-1]))
    place = above + b"/" + path[-1]
    if os.path.isdir(place) and not os.path.islink(place):
        shutil.rmtree(place)
    for old in (place, above + b"/.wh." + path[-1]):
        if os.path.lexists(old):
            os.unlink(old)
    if entry is not None:
        _write_entry(above, path[-1], entry, form)


def _write_entry(root: bytes, name: bytes, entry: Entry, form: str) -> None:
    path = root + b"/" + name
    if isinstance(entry, Directory):
        os.mkdir(path)
        write(path, entry, form)
    elif isinstance(entry, Link):
        os.symlink(entry.target, path)
    elif isinstance(entry, File):
        _touch(path, entry.content)
        os.chmod(path, entry.mode)
    elif entry.form == "aufs":
        _touch(root + b"/.wh." + name)
        if entry.beside is not None:
            _write_entry(root, name, entry.beside, form)
    else:
        os.mknod(path, stat.S_IFCHR, 0)


def _touch(path: bytes, content: bytes = b"") -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def read(root: bytes) -> Directory:
    """What the branch, or a directory of it, holds."""
    names = set(os.listdir(root)) - {TEMPORARY}
    xattrs = set(os.listxattr(root))
    opaque = bool(names & OPAQUES) or bool(xattrs.intersection(_OPAQUE_XATTRS))
    found: dict[bytes, Entry] = {}
    for name in names:
        if not name.startswith(b".wh."):
            found[name] = _read_entry(root + b"/" + name)
    for name in names - OPAQUES:
        # .wh..wh. begins what belongs to a union and hides nothing
        if name.startswith(b".wh.") and not name.startswith(b".wh..wh."):
            found[name[4:]] = Whiteout("aufs", found.get(name[4:]))
    return Directory(found, opaque, stat.S_IMODE(os.stat(root).st_mode))


def _read_entry(path: bytes) -> Entry:
    status = os.lstat(path)
    if stat.S_ISDIR(status.st_mode):
        return read(path)
    if stat.S_ISLNK(status.st_mode):
        return Link(os.readlink(path))
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        return Whiteout("overlay")
    if not status.st_size and set(os.listxattr(path)).intersection(_WHITEOUT_XATTRS):
        return Whiteout("overlay")
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return File(os.read(fd, 1 << 16), stat.S_IMODE(status.st_mode))
    finally:
        os.close(fd)
