"""File trees as values, and what differs between two of them.

An Entry holds what two builders of one Dockerfile must agree on: type, mode, owner, link target, device, size, content,
extended attributes, and which names are one file. Times are left out: they say when a build ran.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol


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


class NamedEntry(Protocol):
    """A named tuple of what is known of a file."""

    _fields: tuple[str, ...]

    def __iter__(self) -> Iterator[object]: ...


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


class Difference(NamedTuple):
    """What is not equal at ``path``: a field of its entry, or ``*`` where it is in one tree only."""

    path: str
    field: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


def compare(ours: Mapping[str, NamedEntry], theirs: Mapping[str, NamedEntry]) -> Iterator[Difference]:
    """Every difference of two trees, in the order of paths."""
    for path in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(path), theirs.get(path)
        if mine is None or other is None:
            yield Difference(path, "*", f"only in {'the other' if mine is None else 'ours'}")
            continue
        for field, left, right in zip(mine._fields, mine, other, strict=True):
            if left != right:
                yield Difference(path, field, f"{field} is {left!r}, the other has {right!r}")


def differences(
    ours: Mapping[str, NamedEntry], theirs: Mapping[str, NamedEntry], ignored: tuple[Ignored, ...] = ()
) -> list[str]:
    """One line for each difference that no rule covers."""
    return [str(one) for one in compare(ours, theirs) if not any(rule.covers(one.path, one.field) for rule in ignored)]


def general_rules() -> tuple[Ignored, ...]:
    """What may differ between two builds of any Dockerfile: tests/e2e/differential.toml."""
    rules = tomllib.loads((Path(__file__).resolve().parents[1] / "e2e" / "differential.toml").read_text())
    return tuple(Ignored(rule["path"], tuple(rule["fields"]), rule["reason"]) for rule in rules["ignored"])
