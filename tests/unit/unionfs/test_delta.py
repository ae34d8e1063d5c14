"""The change stream of a branch: order, kinds, both forms of marks."""

from __future__ import annotations

import os
import stat

import pytest

from unionfs.branch import Branch, BranchStack
from unionfs.delta import ChangeKind, iter_changes
from unionfs.errors import BranchMissingError
from unionfs.union import Union

K = ChangeKind


def test_parents_first_whiteouts_before_siblings_bytes_in_order(tmp_path):
    (tmp_path / "b/c").mkdir(parents=True)
    (tmp_path / "b/.wh.zz").touch()
    (tmp_path / "b/c/.wh..wh..opq").touch()
    (tmp_path / "b/c/.wh.x").touch()
    (tmp_path / "b/c/x").touch()
    (tmp_path / "b/file").write_text("content")
    (tmp_path / "b-").touch()
    (tmp_path / "a").symlink_to("b")
    (tmp_path / ".wh..wh.plnk").mkdir()
    os.mkfifo(tmp_path / "fifo")
    os.mknod(tmp_path / "gone", stat.S_IFCHR, 0)
    os.mknod(tmp_path / "socket", stat.S_IFSOCK | 0o600)
    (tmp_path / "hidden").touch()
    os.setxattr(tmp_path / "hidden", "user.overlay.whiteout", b"y")
    (tmp_path / "open").mkdir()
    os.setxattr(tmp_path / "open", "user.overlay.opaque", b"y")
    assert [(change.path, change.kind) for change in iter_changes(tmp_path)] == [
        (b"", K.DIRECTORY),
        (b"gone", K.WHITEOUT),
        (b"hidden", K.WHITEOUT),
        (b"a", K.SYMLINK),
        (b"b", K.DIRECTORY),
        (b"b/zz", K.WHITEOUT),
        (b"b/c", K.OPAQUE_DIRECTORY),
        (b"b/c/x", K.WHITEOUT),
        (b"b/file", K.FILE),
        (b"b-", K.FILE),
        (b"fifo", K.FIFO),
        (b"open", K.OPAQUE_DIRECTORY),
        (b"socket", K.SOCKET),
    ]


def test_entries_can_be_read(tmp_path):
    (tmp_path / "f").write_text("content")
    os.setxattr(tmp_path / "f", "user.b", b"2")
    os.setxattr(tmp_path / "f", "user.a", b"1")
    os.setxattr(tmp_path / "f", "user.overlay.origin", b"mark")
    (tmp_path / "l").symlink_to("target")
    for change in iter_changes(tmp_path):
        if change.kind is K.FILE:
            assert change.stat.st_size == 7
            assert list(change.xattrs().items()) == [("user.a", b"1"), ("user.b", b"2")]
            fd = change.open()
            assert os.read(fd, 100) == b"content"
            os.close(fd)
        elif change.kind is K.SYMLINK:
            assert change.link_target() == b"target"


def test_what_a_union_wrote_is_read_back(stand, form):
    for name in ("removed", "d/removed", "replaced/x", "kept"):
        stand.put(1, name)
    long_name = "l" * 255
    stand.put(1, long_name)
    paths = stand.paths(whiteouts=form)
    for name in (b"removed", b"d/removed", b"replaced/x", long_name.encode()):
        paths.unlink(name)
    paths.rmdir(b"replaced")
    paths.mkdir(b"replaced")
    paths.write(b"new", b"")
    assert [(change.path, change.kind) for change in iter_changes(stand.roots[0])][1:] == [
        (long_name.encode(), K.WHITEOUT),
        (b"removed", K.WHITEOUT),
        (b"d", K.DIRECTORY),
        (b"d/removed", K.WHITEOUT),
        (b"new", K.FILE),
        (b"replaced", K.OPAQUE_DIRECTORY),
    ]


def test_a_path_longer_than_path_max(tmp_path):
    root = tmp_path / "b"
    root.mkdir()
    union = Union(BranchStack((Branch(os.fsencode(root)),)))
    try:
        from harness.paths import UnionPaths

        paths = UnionPaths(union)
        deep = b"p" * 200
        made = [deep]
        paths.mkdir(deep)
        for _ in range(24):
            deep += b"/" + b"p" * 200
            paths.mkdir(deep)
            made.append(deep)
        paths.write(deep + b"/f", b"deep")
        changes = {}
        for change in iter_changes(root):
            changes[change.path] = change.kind
            if change.kind is K.FILE:
                fd = change.open()
                assert os.read(fd, 10) == b"deep"
                os.close(fd)
        assert changes[deep + b"/f"] is K.FILE
        paths.unlink(deep + b"/f")
        for path in reversed(made):
            paths.rmdir(path)
    finally:
        union.close()


def test_a_branch_that_is_not_there(tmp_path):
    with pytest.raises(BranchMissingError):
        next(iter_changes(tmp_path / "none"))
