"""A copy-up changes nothing that shows: content, holes, metadata, links, times of the directory."""

from __future__ import annotations

import errno
import os
import stat
import struct

import pytest

from unionfs.types import Caller, CopyupMode

needs_owners = pytest.mark.owners("gives files away")
MIB = 1 << 20


def test_metadata_comes_along(stand):
    place = stand.put(1, "d/f", "content")
    os.chmod(place, 0o640)
    os.setxattr(place, "user.kept", b"value")
    os.utime(place, ns=(1_000_000_007, 2_000_000_009))
    os.chmod(place.parent, 0o1750)
    os.utime(place.parent, ns=(3, 4_000_000_001))
    stand.paths().setxattr(b"d/f", b"user.more", b"")
    copy = stand.roots[0] / "d/f"
    status = copy.stat()
    assert copy.read_text() == "content"
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert (status.st_atime_ns, status.st_mtime_ns) == (1_000_000_007, 2_000_000_009)
    assert os.getxattr(copy, "user.kept") == b"value"
    assert copy.parent.stat().st_mtime_ns == 4_000_000_001
    assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o1750
    assert os.listxattr(place) == ["user.kept"], "the lower file is as it was"


@needs_owners
def test_owner_setuid_capability_and_acl_come_along(stand):
    place = stand.put(1, "f", "content")
    os.chown(place, 11, 12)
    os.chmod(place, 0o6755)
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    os.setxattr(place, "security.capability", capability)
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry)
        for entry in ((1, 7, 0xFFFFFFFF), (2, 6, 99), (4, 5, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 5, 0xFFFFFFFF))
    )
    os.setxattr(place, "system.posix_acl_access", acl)
    mode = place.stat().st_mode
    stand.paths().utime(b"f", 1, 2)
    copy = stand.roots[0] / "f"
    assert (copy.stat().st_uid, copy.stat().st_gid, copy.stat().st_mode) == (11, 12, mode)
    assert os.getxattr(copy, "security.capability") == capability
    assert os.getxattr(copy, "system.posix_acl_access") == acl


def test_holes_stay_holes(stand):
    place = stand.put(1, "sparse")
    with place.open("r+b") as file:
        file.seek(4 * MIB)
        file.write(b"middle")
        file.truncate(16 * MIB)
    stand.paths().chmod(b"sparse", 0o600)
    copy = stand.roots[0] / "sparse"
    assert copy.read_bytes() == place.read_bytes()
    assert copy.stat().st_blocks * 512 < MIB


def test_a_truncating_change_copies_no_more_than_it_keeps(stand):
    stand.put(1, "f", "x" * 8192)
    paths = stand.paths()
    paths.truncate(b"f", 10)
    assert (stand.roots[0] / "f").read_bytes() == b"x" * 10
    paths.truncate(b"f", 20)
    assert paths.read(b"f") == b"x" * 10 + b"\0" * 10


def test_names_of_one_lower_file_become_one_upper_file(stand):
    place = stand.put(1, "a", "content")
    stand.put(1, "d", None)
    for name in ("b", "d/c", "never"):
        os.link(place, stand.roots[1] / name)
    paths = stand.paths()
    paths.append(b"a", b"+")
    assert paths.read(b"d/c") == b"content+"
    assert paths.stat(b"b").nlink == 4
    paths.append(b"b", b"-")
    paths.chmod(b"d/c", 0o600)
    upper = [os.stat(stand.roots[0] / name) for name in ("a", "b", "d/c")]
    assert {status.st_ino for status in upper} == {upper[0].st_ino}
    assert upper[0].st_nlink == 3
    assert paths.read(b"a") == b"content+-"
    assert stand.names(0) == ["a", "b", "d"]


def test_removing_the_copied_name_keeps_the_content_for_the_others(stand):
    place = stand.put(1, "a", "content")
    os.link(place, stand.roots[1] / "b")
    paths = stand.paths()
    paths.append(b"a", b"+")
    paths.unlink(b"a")
    assert paths.read(b"b") == b"content+"
    assert paths.stat(b"b").nlink == 1


def test_reading_copies_nothing(stand):
    stand.put(1, "d/f", "x")
    paths = stand.paths()
    paths.read(b"d/f")
    paths.list(b"d")
    paths.stat(b"d/f")
    with pytest.raises(OSError):
        paths.removexattr(b"d/f", b"user.none")
    assert stand.names(0) == []


def test_a_copy_goes_to_the_nearest_writable_branch_above(stand_of):
    stand = stand_of("rw ro rw ro")
    stand.put(3, "d/f", "x")
    stand.put(1, "d/g", "y")
    paths = stand.paths()
    paths.append(b"d/f", b"+")
    paths.append(b"d/g", b"+")
    assert stand.names(2, "d") == ["f"]
    assert stand.names(0, "d") == ["g"]


def test_a_file_on_a_lower_writable_branch_is_changed_in_place(stand_of):
    stand = stand_of("rw rw")
    place = stand.put(1, "f", "x")
    paths = stand.paths()
    paths.append(b"f", b"+")
    paths.chmod(b"f", 0o600)
    assert place.read_text() == "x+"
    assert stand.names(0) == []


@pytest.mark.parametrize("access", ["ro", "ro rw"])
def test_nothing_is_changed_where_nothing_may_be(stand_of, access):
    stand = stand_of(access)
    stand.put(0, "f", "x")
    paths = stand.paths()
    for call in (
        lambda: paths.append(b"f", b""),
        lambda: paths.chmod(b"f", 0o600),
        lambda: paths.unlink(b"f"),
        lambda: paths.rename(b"f", b"g"),
        lambda: paths.setxattr(b"f", b"user.x", b""),
        lambda: paths.truncate(b"f", 0),
    ):
        with pytest.raises(OSError) as error:
            call()
        assert error.value.errno == errno.EROFS
    assert paths.read(b"f") == b"x"


def test_a_sealed_union_is_read_only(stand):
    stand.put(0, "f", "x")
    paths = stand.paths(read_only=True)
    with pytest.raises(OSError) as error:
        paths.write(b"new", b"")
    assert error.value.errno == errno.EROFS


@needs_owners
def test_owners_of_copies_can_be_chosen(stand):
    stand.put(1, "f", "x")
    stand.put(1, "g", "x")
    mounter = stand.paths(copyup=CopyupMode.MOUNTER, copyup_uid=3, copyup_gid=4, copyup_mode=0o600)
    mounter.append(b"f", b"+")
    status = (stand.roots[0] / "f").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (3, 4, 0o600)
    current = stand.paths(copyup=CopyupMode.CURRENTUSER)
    current.caller = Caller(8, 9, 1)
    current.append(b"g", b"+")
    assert ((stand.roots[0] / "g").stat().st_uid, (stand.roots[0] / "g").stat().st_gid) == (8, 9)


def test_a_failed_copy_leaves_nothing(stand, monkeypatch):
    stand.put(1, "d/f", "x")
    paths = stand.paths()
    paths.write(b"other", b"")

    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "utime", full)
    with pytest.raises(OSError) as error:
        paths.append(b"d/f", b"+")
    assert error.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert os.listdir(stand.roots[0] / ".wh..unionfs") == []
    assert not (stand.roots[0] / "d/f").exists()
    assert paths.read(b"d/f") == b"x"


def test_what_a_killed_union_left_is_swept(stand):
    left = stand.roots[0] / ".wh..unionfs"
    left.mkdir()
    (left / "1-1").write_text("half a file")
    (left / "1-2").mkdir()
    (left / "1-2/inside").touch()
    paths = stand.paths()
    assert paths.list(b"") == []
    assert os.listdir(left) == []


def test_another_union_on_the_same_branch_is_not_swept(stand):
    first = stand.paths()
    first.write(b"f", b"")
    fd, name = first.ops._tree.branches[0].temporary()
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    stand.paths()
    assert os.fsencode(os.listdir(stand.roots[0] / ".wh..unionfs")[0]) == name
    os.unlink(name, dir_fd=fd)


def test_renaming_over_the_copied_name_keeps_the_content_for_the_others(stand):
    place = stand.put(1, "a", "content")
    os.link(place, stand.roots[1] / "b")
    stand.put(1, "other", "other")
    paths = stand.paths()
    paths.append(b"a", b"+")
    paths.rename(b"other", b"a")
    assert paths.read(b"a") == b"other"
    assert paths.read(b"b") == b"content+"
    assert paths.stat(b"b").nlink == 1


def test_content_kept_for_a_name_nobody_asks_for_goes_with_the_union(stand):
    place = stand.put(1, "a", "content")
    os.link(place, stand.roots[1] / "b")
    paths = stand.paths()
    paths.append(b"a", b"+")
    paths.unlink(b"a")
    paths.ops.close()
    assert stand.names(0) == [".wh.a"]


def test_a_copy_whose_other_names_are_removed_has_one_link(stand, form):
    stand.put(1, "a", "x")
    os.link(stand.roots[1] / "a", stand.roots[1] / "b")
    paths = stand.paths(whiteouts=form)
    with paths.node(b"a"):
        paths.unlink(b"b")
        assert paths.stat(b"a").nlink == 1
        paths.chmod(b"a", 0o600)
        assert paths.stat(b"a").nlink == 1
