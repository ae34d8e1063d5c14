"""File trees as values, and what differs between two of them.

An Entry holds what two builders of one Dockerfile must agree on: type, mode, owner, link target, device, size, content,
extended attributes, and which names are one file. Times are left out: they say when a build ran.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    kind: str
    mode: str
    owner: tuple[int, int]
    target: str
    device: int
    content: str
    xattrs: tuple[tuple[str, bytes], ...]
    same_file: str
    """The first name, in order, of the file that this name is a hard link of; its own where there is one name."""


class Ignored(NamedTuple):
    """A difference that is none: paths matching ``pattern`` may differ in ``fields`` ("*": may also be absent)."""

    pattern: str
    fields: tuple[str, ...]
    reason: str

    def covers(self, path: str, field: str) -> bool:
        return fnmatch.fnmatchcase(path, self.pattern) and (field in self.fields or "*" in self.fields)


_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def _content(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entry(path: str, name: str, first_names: dict[tuple[int, int], str]) -> Entry:
    info = os.lstat(path)
    kind = _KINDS[stat.S_IFMT(info.st_mode)]
    single = kind == "directory" or info.st_nlink == 1
    return Entry(
        kind=kind,
        mode=oct(stat.S_IMODE(info.st_mode)),
        owner=(info.st_uid, info.st_gid),
        target=os.readlink(path) if kind == "symlink" else "",
        device=info.st_rdev if "device" in kind else 0,
        content=_content(path) if kind == "file" else "",
        xattrs=tuple(
            (key, os.getxattr(path, key, follow_symlinks=False))
            for key in sorted(os.listxattr(path, follow_symlinks=False))
        ),
        same_file=name if single else first_names.setdefault((info.st_dev, info.st_ino), name),
    )


def read_tree(root: Path) -> dict[str, Entry]:
    """Every name below ``root``, relative to it; the root itself is ``.``."""
    first_names: dict[tuple[int, int], str] = {}
    tree = {".": _entry(str(root), ".", first_names)}
    for directory, subdirectories, files in os.walk(root):
        subdirectories.sort()
        for name in sorted([*subdirectories, *files]):
            path = os.path.join(directory, name)
            relative = os.path.relpath(path, root)
            tree[relative] = _entry(path, relative, first_names)
    return tree


def differences(ours: dict[str, Entry], theirs: dict[str, Entry], ignored: tuple[Ignored, ...] = ()) -> list[str]:
    """One line for each difference that no rule covers."""
    lines = []
    for path in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(path), theirs.get(path)
        if mine is None or other is None:
            if not any(rule.covers(path, "*") for rule in ignored):
                lines.append(f"{path}: only in {'the other' if mine is None else 'ours'}")
            continue
        for field, left, right in zip(Entry._fields, mine, other, strict=True):
            if left != right and not any(rule.covers(path, field) for rule in ignored):
                lines.append(f"{path}: {field} is {left!r}, the other has {right!r}")
    return lines
