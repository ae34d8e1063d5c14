"""What differs between two roots, and what layers hold in vain."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.comparing import FileDifference, compare_roots, wasted_bytes


@pytest.fixture
def old(tmp_path: Path) -> Path:
    root = tmp_path / "old"
    (root / "d").mkdir(parents=True)
    (root / "d/f").write_text("12")
    (root / "link").symlink_to("d")
    return root


@pytest.fixture
def new(tmp_path: Path, old: Path) -> Path:
    root = tmp_path / "new"
    (root / "d").mkdir(parents=True)
    (root / "d/f").write_text("12")
    (root / "link").symlink_to("d")
    os.utime(root / "d/f", (1, 1))
    return root


def replaced(path: Path) -> None:
    path.unlink()
    path.mkdir(0o644)


CHANGES: dict[str, tuple[Callable[[Path], object], list[FileDifference]]] = {
    "times alone": (lambda root: os.utime(root / "d/f", (2, 2)), []),
    "added": (lambda root: (root / "d/g").write_text("123"), [FileDifference("A", b"d/g", (("size", "", "3"),))]),
    "added, a directory": (lambda root: (root / "e").mkdir(), [FileDifference("A", b"e")]),
    "deleted": (lambda root: (root / "d/f").unlink(), [FileDifference("D", b"d/f", (("size", "2", ""),))]),
    "size": (lambda root: (root / "d/f").write_text("1"), [FileDifference("M", b"d/f", (("size", "2", "1"),))]),
    "content": (lambda root: (root / "d/f").write_text("21"), [FileDifference("M", b"d/f", (("content", "", ""),))]),
    "mode": (lambda root: (root / "d/f").chmod(0o600), [FileDifference("M", b"d/f", (("mode", "0644", "0600"),))]),
    "type": (lambda root: replaced(root / "d/f"), [FileDifference("M", b"d/f", (("type", "file", "directory"),))]),
    "attribute": (
        lambda root: os.setxattr(root / "d/f", "user.x", b"1"),
        [FileDifference("M", b"d/f", (("attribute user.x", "none", ""),))],
    ),
    "target": (
        lambda root: ((root / "link").unlink(), (root / "link").symlink_to("e")),
        [FileDifference("M", b"link", (("target", "d", "e"),))],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_one_difference(name: str, old: Path, new: Path) -> None:
    change, expected = CHANGES[name]
    change(new)
    assert list(compare_roots([old], [new])) == expected


def test_a_root_without_layers_is_empty(old: Path) -> None:
    assert [(one.change, one.path) for one in compare_roots([], [old])] == [("A", b"d"), ("A", b"d/f"), ("A", b"link")]
    assert [(one.change, one.path) for one in compare_roots([old], [])] == [("D", b"d"), ("D", b"link")]
    assert list(compare_roots([], [])) == []
    assert list(compare_roots([old], [old])) == []


def test_bytes_below_another_file_are_wasted(old: Path, new: Path) -> None:
    assert wasted_bytes([]) == 0
    assert wasted_bytes([old]) == 0
    (new / "d/f").write_text("1234567")
    (new / "d/g").write_text("12")
    os.link(new / "d/g", new / "d/h")
    assert wasted_bytes([new, old]) == 2
    assert wasted_bytes([old, new]) == 7
