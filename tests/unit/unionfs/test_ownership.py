"""Owners and modes that differ between a union and its branches."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from harness.paths import UnionPaths
from unionfs.branch import BranchStack
from unionfs.owned import open_union
from unionfs.ownership import Stored, decode_stored, encode_stored, parse_id_map, show_id, store_id
from unionfs.types import ROOT_INO, Caller, IdRange, PermissionStore, SetAttr, UnionOptions

from .conftest import Stand

ATTRIBUTE = "user.containers.override_stat"
MAP = (IdRange(0, 100000, 10), IdRange(10, 5, 1))
needs_owners = pytest.mark.owners("gives files away")


@pytest.mark.parametrize(("stored", "shown"), [(0, 100000), (9, 100009), (10, 5), (11, 65534), (65534, 65534)])
def test_an_id_is_shown(stored: int, shown: int) -> None:
    assert show_id(stored, MAP) == shown
    assert show_id(stored, ()) == stored


@pytest.mark.parametrize(("shown", "stored"), [(100000, 0), (100009, 9), (5, 10), (0, 65534), (100010, 65534)])
def test_an_id_is_stored(shown: int, stored: int) -> None:
    assert store_id(shown, MAP) == stored
    assert store_id(shown, ()) == shown


def test_the_form_of_an_id_map() -> None:
    assert parse_id_map("0:100000:10:10:5:1") == parse_id_map(":0:100000:10:10:5:1") == MAP
    for text in ("", "0", "0:1", "0:1:2:3", "a:b:c", "0:1:-1"):
        with pytest.raises(ValueError, match=r"."):
            parse_id_map(text)


@pytest.mark.parametrize("value", [b"", b"1", b"1:2", b"x:2:755", b"1:2:9"])
def test_what_is_no_attribute_counts_for_nothing(value: bytes) -> None:
    assert decode_stored(value) is None


def test_the_form_of_the_attribute() -> None:
    assert encode_stored(Stored(1, 2, 0o4755)) == b"1:2:4755"
    assert decode_stored(b"1:2:4755") == Stored(1, 2, 0o4755)
    assert decode_stored(b"1:2:100755:file") == Stored(1, 2, 0o755)


def paths(stand: Stand, **options: object) -> UnionPaths:
    """A union as the daemon makes it."""
    union = open_union(BranchStack(stand.branches()), UnionOptions(**options))  # type: ignore[arg-type]  # by name
    stand.unions.append(union)
    return UnionPaths(union)


@needs_owners
def test_ids_are_translated_both_ways(stand: Stand) -> None:
    os.chown(stand.put(1, "low"), 3, 10)
    union = paths(stand, uid_map=MAP, gid_map=MAP)
    assert (union.stat(b"low").uid, union.stat(b"low").gid) == (100003, 5)
    attr = union.ops.mkdir(ROOT_INO, b"made", 0o755, Caller(100002, 5, 1))
    assert (attr.uid, attr.gid) == (100002, 5)
    union.ops.forget(attr.ino, 1)
    at = os.stat(stand.roots[0] / "made")
    assert (at.st_uid, at.st_gid) == (2, 10)
    union.chown(b"low", 100001, 100001)
    assert (union.stat(b"low").uid, union.stat(b"low").gid) == (100001, 100001)
    at = os.stat(stand.roots[0] / "low")
    assert (at.st_uid, at.st_gid) == (1, 1)


@needs_owners
def test_owners_are_squashed(stand: Stand) -> None:
    os.chown(stand.put(1, "low"), 3, 10)
    union = paths(stand, squash_uid=7, squash_gid=8)
    assert (union.stat(b"low").uid, union.stat(b"low").gid) == (7, 8)
    union.write(b"new", b"")
    assert (union.stat(b"new").uid, union.stat(b"new").gid) == (7, 8)
    assert os.stat(stand.roots[0] / "new").st_uid == 0


class TestStored:
    """``xattr_permissions=2``."""

    @pytest.fixture
    def union(self, stand: Stand) -> UnionPaths:
        low = stand.put(1, "low", "content")
        os.setxattr(low, ATTRIBUTE, b"11:12:4711")
        stand.put(1, "plain", "x").chmod(0o640)
        return paths(stand, permissions=PermissionStore.CONTAINERS)

    def test_is_shown(self, union: UnionPaths) -> None:
        status = union.stat(b"low")
        assert (status.uid, status.gid, status.mode) == (11, 12, stat.S_IFREG | 0o4711)
        assert union.stat(b"plain").mode == stat.S_IFREG | 0o640

    def test_is_neither_seen_nor_set(self, union: UnionPaths) -> None:
        assert union.listxattr(b"low") == []
        for name, refusal in ((ATTRIBUTE.encode(), errno.ENODATA),):
            with pytest.raises(OSError, match=r".") as caught:
                union.getxattr(b"low", name)
            assert caught.value.errno == refusal
        with pytest.raises(PermissionError):
            union.setxattr(b"low", ATTRIBUTE.encode(), b"0:0:777")

    def test_of_new_entries(self, union: UnionPaths, stand: Stand) -> None:
        ops = union.ops
        made = ops.mkdir(ROOT_INO, b"dir", 0o2050, Caller(21, 22, 1))
        assert (made.uid, made.gid, made.mode) == (21, 22, stat.S_IFDIR | 0o2050)
        attr, handle = ops.create(made.ino, b"file", 0o444, os.O_RDWR, Caller(31, 32, 1, umask=0o004))
        assert (attr.uid, attr.gid, attr.mode) == (31, 22, stat.S_IFREG | 0o440)
        assert ops.write(handle, 0, b"data") == 4
        ops.release(handle)
        below = stand.roots[0] / "dir/file"
        assert os.getxattr(below, ATTRIBUTE) == b"31:22:440"
        assert (below.stat().st_uid, below.stat().st_mode & 0o777) == (os.geteuid(), 0o640)
        assert os.getxattr(below.parent, ATTRIBUTE) == b"21:22:2050"
        assert os.stat(below.parent).st_mode & 0o777 == 0o750
        ops.forget(attr.ino, 1)
        ops.forget(made.ino, 1)

    def test_changes(self, union: UnionPaths, stand: Stand) -> None:
        union.chmod(b"low", 0o600)
        union.chown(b"low", 5, 6)
        union.utime(b"low", 1, 2)
        status = union.stat(b"low")
        assert (status.uid, status.gid, status.mode, status.mtime_ns) == (5, 6, stat.S_IFREG | 0o600, 2)
        upper = stand.roots[0] / "low"
        assert os.getxattr(upper, ATTRIBUTE) == b"5:6:600"
        assert upper.stat().st_uid == os.geteuid()
        assert os.getxattr(stand.roots[1] / "low", ATTRIBUTE) == b"11:12:4711"

    def test_a_copy_keeps_the_owner(self, union: UnionPaths, stand: Stand) -> None:
        before = union.stat(b"plain")
        union.append(b"plain", b"y")
        after = union.stat(b"plain")
        assert (after.uid, after.gid, after.mode) == (before.uid, before.gid, before.mode)
        assert os.getxattr(stand.roots[0] / "plain", ATTRIBUTE) == b"%d:%d:640" % (before.uid, before.gid)

    def test_a_write_takes_setuid_away(self, union: UnionPaths) -> None:
        ops = union.ops
        attr = ops.lookup(ROOT_INO, b"low", Caller(1, 1, 1))
        handle = ops.open(attr.ino, os.O_WRONLY, Caller(1, 1, 1))
        assert ops.write(handle, 0, b"C") == 1
        ops.release(handle)
        assert union.stat(b"low").mode == stat.S_IFREG | 0o711
        ops.setattr(attr.ino, SetAttr(mode=0o6711), None, Caller(0, 0, 1))
        ops.setattr(attr.ino, SetAttr(size=1), None, Caller(1, 1, 1))
        assert union.stat(b"low").mode == stat.S_IFREG | 0o711
        ops.forget(attr.ino, 1)
