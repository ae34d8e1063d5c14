"""A project on disk, and small edits of it as data: what somebody does between two builds.

Edits are made in place, so that inode numbers, times and links change as they do in life. An edit that makes no sense
in the present state does nothing. Entries are named by their number among those that are there.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

NAMES = ("a", "b", "c", "d", "a1", ".h")
CONTENTS = (b"", b"x", b"y", b"one\n", b"two\n", b"z" * 5000)
MODES = (0o644, 0o600, 0o755, 0o4755, 0o1777, 0o400)
TARGETS = ("a", "b", "../b", "/c", "d/a", "none", "../../..", ".")
TIMES_NS = (2 * 10**9, 10**18, 1_700_000_000_123_456_789)
_CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
_KEPT = {"Dockerfile", ".dockerignore"}


class FileEdit(NamedTuple):
    """One edit of the files: ``what`` names the function, ``one`` and ``other`` entries, ``value`` what is put there."""

    what: str
    one: int
    other: int
    value: int


def apply(root: Path, edit: FileEdit) -> None:
    """The edit is made below the directory ``root``, or nothing is when it makes no sense."""
    try:
        EDITS[edit.what](root, edit)
    except (OSError, shutil.Error):
        # such a name is taken, a directory would lie in itself
        return


def _entries(root: Path, *kinds: int) -> list[Path]:
    """Everything below ``root`` but what is not of the project's files, sorted; with ``kinds`` only those."""
    found: list[Path] = []
    for directory, names, files in os.walk(root):
        found += [Path(directory, name) for name in (*names, *files) if name not in _KEPT]
    found.sort()
    return [path for path in found if not kinds or stat.S_IFMT(path.lstat().st_mode) in kinds]


def _chosen(root: Path, number: int, *kinds: int) -> Path:
    found = _entries(root, *kinds)
    if not found:
        raise FileNotFoundError
    return found[number % len(found)]


def _file(root: Path, edit: FileEdit) -> Path:
    return _chosen(root, edit.one, stat.S_IFREG)


def _new_name(root: Path, edit: FileEdit) -> Path:
    directories = [root, *_entries(root, stat.S_IFDIR)]
    return directories[edit.other % len(directories)] / NAMES[edit.value % len(NAMES)]


def _write(root: Path, edit: FileEdit) -> None:
    path = _new_name(root, edit._replace(value=edit.one))
    # the other end of a pipe is not waited for
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o644), "wb") as file:
        file.write(CONTENTS[edit.value % len(CONTENTS)])


def _flipped(content: bytes) -> bytes:
    """As long, and different unless it is empty."""
    return bytes([content[0] ^ 1]) + content[1:] if content else b""


def _rewrite(root: Path, edit: FileEdit) -> None:
    """Other bytes, as many, in the same file, with the time it had."""
    path = _file(root, edit)
    before = path.lstat()
    content = _flipped(path.read_bytes())
    with open(path, "r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace(root: Path, edit: FileEdit) -> None:
    """Another file of that size, time and mode under the name."""
    path = _file(root, edit)
    before = path.lstat()
    fresh = path.with_name("fresh")
    fresh.write_bytes(_flipped(path.read_bytes()))
    fresh.chmod(stat.S_IMODE(before.st_mode))
    os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))
    fresh.rename(path)


def _touch(root: Path, edit: FileEdit) -> None:
    time_ns = TIMES_NS[edit.value % len(TIMES_NS)]
    os.utime(_chosen(root, edit.one), ns=(time_ns, time_ns), follow_symlinks=False)


def _chmod(root: Path, edit: FileEdit) -> None:
    _chosen(root, edit.one, stat.S_IFREG, stat.S_IFDIR).chmod(MODES[edit.value % len(MODES)])


def _chown(root: Path, edit: FileEdit) -> None:
    os.chown(_chosen(root, edit.one), edit.value, edit.value, follow_symlinks=False)


def _remove(root: Path, edit: FileEdit) -> None:
    path = _chosen(root, edit.one)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _rename(root: Path, edit: FileEdit) -> None:
    os.rename(_chosen(root, edit.one), _new_name(root, edit))


def _swap(root: Path, edit: FileEdit) -> None:
    """Two entries change their names."""
    one, other = _chosen(root, edit.one), _chosen(root, edit.other)
    if one == other or one in other.parents or other in one.parents:
        return
    between = root / "between"
    one.rename(between)
    other.rename(one)
    between.rename(other)


def _link(root: Path, edit: FileEdit) -> None:
    _new_name(root, edit._replace(value=edit.one)).symlink_to(TARGETS[edit.value % len(TARGETS)])


def _retarget(root: Path, edit: FileEdit) -> None:
    path = _chosen(root, edit.one, stat.S_IFLNK)
    path.unlink()
    path.symlink_to(TARGETS[edit.value % len(TARGETS)])


def _second_name(root: Path, edit: FileEdit) -> None:
    os.link(_file(root, edit), _new_name(root, edit))


def _part_names(root: Path, edit: FileEdit) -> None:
    """The file is no longer the same as that of its other names."""
    path = _file(root, edit)
    shutil.copy2(path, path.with_name("fresh"))
    path.with_name("fresh").rename(path)


def _attribute(root: Path, edit: FileEdit) -> None:
    path = _chosen(root, edit.one, stat.S_IFREG, stat.S_IFDIR)
    name = ("user.x", "user.y", "security.capability")[edit.other % 3]
    if name in os.listxattr(path) and edit.value % 2:
        os.removexattr(path, name)
    else:
        value = _CAPABILITY if name.startswith("security") else CONTENTS[edit.value % len(CONTENTS)][:50]
        os.setxattr(path, name, value)


def _node(root: Path, edit: FileEdit) -> None:
    kinds = ((stat.S_IFIFO, 0), (stat.S_IFCHR, os.makedev(1, 3)), (stat.S_IFCHR, os.makedev(1, 5)))
    kind, device = kinds[edit.value % len(kinds)]
    os.mknod(_new_name(root, edit._replace(value=edit.one)), kind | 0o600, device)


def _archive(root: Path, edit: FileEdit) -> None:
    """A tar that ADD unpacks, compressed or not."""
    content = CONTENTS[edit.value % len(CONTENTS)]
    target = _new_name(root, edit._replace(value=edit.one))
    target.unlink(missing_ok=True)
    with tarfile.open(target, "w:gz" if edit.value % 2 else "w") as archive:
        member = tarfile.TarInfo(NAMES[edit.value % len(NAMES)])
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


EDITS: dict[str, Callable[[Path, FileEdit], None]] = {
    "write": _write,
    "rewrite": _rewrite,
    "replace": _replace,
    "touch": _touch,
    "chmod": _chmod,
    "chown": _chown,
    "make directory": lambda root, edit: _new_name(root, edit).mkdir(),
    "remove": _remove,
    "rename": _rename,
    "swap": _swap,
    "link": _link,
    "retarget": _retarget,
    "second name": _second_name,
    "part names": _part_names,
    "attribute": _attribute,
    "node": _node,
    "archive": _archive,
}
