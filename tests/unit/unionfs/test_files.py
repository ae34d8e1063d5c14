"""Open files: across copy-up, after unlink, passed through to the kernel."""

from __future__ import annotations

import errno
import os
import stat
import time

import pytest

from harness.paths import ROOT, UnionPaths
from unionfs import _sys
from unionfs.files import CACHED_BYTES
from unionfs.types import ROOT_INO, Caller, DeleteMode, Passthrough, SetAttr

USER = Caller(1000, 1000, 1)
RD, RW = os.O_RDONLY, os.O_RDWR


def ino_of(union, name: bytes) -> int:
    return union.lookup(ROOT_INO, name, ROOT).ino


def test_a_reader_sees_what_is_written_after_the_copy_up(stand):
    stand.put(1, "f", "old")
    union = stand.union()
    ino = ino_of(union, b"f")
    reader = union.open(ino, RD, ROOT)
    writer = union.open(ino, RW, ROOT)
    union.write(writer, 0, b"new content")
    assert union.read(reader, 0, 100) == b"new content"
    assert union.getattr(ino, reader).size == 11
    union.release(writer)
    union.release(reader)
    assert (stand.roots[1] / "f").read_text() == "old"


def test_an_unlinked_open_file_stays_usable_and_has_no_links(stand):
    stand.put(1, "lower", "lower")
    union = stand.union()
    for name in (b"lower", b"upper"):
        if name == b"upper":
            union.release(union.create(ROOT_INO, name, 0o644, RW, ROOT)[1])
        ino = ino_of(union, name)
        handle = union.open(ino, RD, ROOT)
        union.unlink(ROOT_INO, name)
        assert union.getattr(ino, handle).nlink == 0
        assert union.read(handle, 0, 10) == (b"lower" if name == b"lower" else b"")
        again = union.open(ino, RD, ROOT)
        union.release(again)
        union.release(handle)
        assert union.getattr(ino, None).nlink == 0


def test_a_change_of_owner_to_nobody_else_sets_the_time_of_the_last_change(stand):
    os.utime(stand.put(0, "upper", "x"), ns=(1, 2))
    os.utime(stand.put(1, "lower", "x"), ns=(1, 2))
    union = stand.union()
    for name in (b"upper", b"lower"):
        ino = ino_of(union, name)
        before = union.getattr(ino, None)
        time.sleep(0.02)  # two ticks of the kernel's clock of files
        after = union.setattr(ino, SetAttr(), None, ROOT)
        assert after.ctime_ns > before.ctime_ns
        assert after._replace(ctime_ns=0, blocks=0) == before._replace(ctime_ns=0, blocks=0)


@pytest.mark.parametrize("closed", [False, True])
def test_an_unlinked_file_of_a_lower_branch_can_be_changed(stand, closed):
    os.setxattr(stand.put(1, "f", "lower"), "user.x", b"1")
    union = stand.union(passthrough=Passthrough.OFF)
    ino = ino_of(union, b"f")
    reader = union.open(ino, RD, ROOT)
    union.unlink(ROOT_INO, b"f")
    before = union.getattr(ino, reader)
    if closed:
        union.release(reader)
    union.setattr(ino, SetAttr(mode=0o600, mtime_ns=5), None, ROOT)
    writer = union.open(ino, RW, ROOT)
    union.write(writer, 5, b" more")
    assert union.read(writer if closed else reader, 0, 99) == b"lower more"
    union.setattr(ino, SetAttr(size=3), writer, ROOT)
    after = union.getattr(ino, writer)
    assert (after.size, after.mode & 0o777, after.nlink, after.visible_ino) == (3, 0o600, 0, before.visible_ino)
    assert union.getxattr(ino, b"user.x") == b"1"
    union.release(writer)
    if not closed:
        union.release(reader)
    union.forget(ino, 1)
    assert (stand.roots[1] / "f").read_text() == "lower"
    assert stand.names(0) == [".wh.f"]


def test_a_removed_file_that_is_known_still_has_attributes(stand):
    stand.put(1, "d", None)
    union = stand.union()
    attr, handle = union.create(ROOT_INO, b"f", 0o640, RW, ROOT)
    union.release(handle)
    directory = union.lookup(ROOT_INO, b"d", ROOT)
    union.unlink(ROOT_INO, b"f")
    union.rmdir(ROOT_INO, b"d")
    assert union.getattr(attr.ino, None).mode == stat.S_IFREG | 0o640
    assert union.getattr(attr.ino, None).nlink == 0
    assert union.getattr(directory.ino, None).nlink == 0
    listing = union.opendir(directory.ino)
    assert list(union.readdir(listing, 0, attributes=True)) == []
    union.releasedir(listing)
    with pytest.raises(FileNotFoundError):
        union.mkdir(directory.ino, b"x", 0o755, ROOT)
    for ino in (attr.ino, directory.ino):
        union.forget(ino, 1)
        with pytest.raises(OSError) as error:
            union.getattr(ino, None)
        assert error.value.errno == errno.ESTALE


def test_an_unnamed_file_can_be_given_a_name(stand):
    stand.put(1, "d", None)
    union = stand.union()
    directory = ino_of(union, b"d")
    attr, handle = union.tmpfile(directory, 0o600, RW, ROOT)
    assert attr.nlink == 0
    union.write(handle, 0, b"unnamed")
    linked = union.link(attr.ino, directory, b"named")
    assert (linked.ino, linked.nlink, linked.size) == (attr.ino, 1, 7)
    union.release(handle)
    assert (stand.roots[0] / "d/named").read_text() == "unnamed"


def test_appending_goes_to_the_end(stand):
    union = stand.union()
    attr, handle = union.create(ROOT_INO, b"f", 0o644, RW | os.O_APPEND, ROOT)
    other = union.open(attr.ino, RW, ROOT)
    union.write(handle, 0, b"one")
    union.write(other, 3, b"two")
    union.write(handle, 0, b"three")
    assert union.read(handle, 0, 100) == b"onetwothree"
    union.release(handle)
    union.release(other)


def test_synchronous_flags_are_kept(stand):
    union = stand.union()
    _attr, handle = union.create(ROOT_INO, b"f", 0o644, RW | os.O_SYNC | os.O_APPEND, ROOT)
    assert union.write(handle, 0, b"x") == 1
    union.fsync(handle, datasync=False)
    union.fsync(handle, datasync=True)
    union.release(handle)
    union.fsyncdir(ROOT_INO, datasync=False)


def test_holes_ranges_and_room(stand):
    union = stand.union()
    _, source = union.create(ROOT_INO, b"a", 0o644, RW, ROOT)
    _, target = union.create(ROOT_INO, b"b", 0o644, RW, ROOT)
    union.fallocate(source, 0, 0, 1 << 20)
    union.write(source, 0, b"x" * 8192)
    union.fallocate(source, _sys.FALLOC_FL_PUNCH_HOLE | _sys.FALLOC_FL_KEEP_SIZE, 4096, (1 << 20) - 4096)
    assert union.lseek(source, 0, os.SEEK_HOLE) == 4096
    with pytest.raises(OSError) as error:
        union.lseek(source, 4096, os.SEEK_DATA)
    assert error.value.errno == errno.ENXIO
    assert union.copy_file_range(source, 0, target, 10, 4096) == 4096
    assert union.read(target, 0, 100) == b"\0" * 10 + b"x" * 90
    union.release(source)
    union.release(target)


def test_a_handle_opened_for_reading_does_not_write(stand):
    stand.put(1, "f", "x")
    union = stand.union(passthrough=Passthrough.OFF)
    handle = union.open(ino_of(union, b"f"), RD, ROOT)
    with pytest.raises(OSError) as error:
        union.write(handle, 0, b"y")
    assert error.value.errno == errno.EBADF
    union.release(handle)


@pytest.mark.root("a plain user's own writes take privileges away before the union does")
@pytest.mark.parametrize(("caller", "mode"), [(USER, 0o755), (ROOT, 0o6755)])
def test_writing_takes_setuid_away_unless_the_superuser_writes(stand, caller, mode):
    stand.put(1, "f", "x").chmod(0o6755)
    union = stand.union()
    ino = ino_of(union, b"f")
    union.setattr(ino, SetAttr(uid=1000, gid=1000, mode=0o6755), None, ROOT)
    handle = union.open(ino, RW, caller)
    union.write(handle, 0, b"y")
    union.release(handle)
    assert stat.S_IMODE(union.getattr(ino, None).mode) == mode


def test_open_of_a_directory_and_of_an_unknown_node(stand):
    union = stand.union()
    with pytest.raises(IsADirectoryError):
        union.open(ROOT_INO, RD, ROOT)
    with pytest.raises(OSError) as error:
        union.open(99, RD, ROOT)
    assert error.value.errno == errno.ESTALE
    union.forget(99, 1)
    union.release(99)


# -- passing through -------------------------------------------------------------------------------------------------
LARGE = CACHED_BYTES + 1


def test_auto_passes_only_what_no_copy_up_can_make_stale(stand, stand_of):
    stand.put(1, "lower", "x" * LARGE)
    stand.put(0, "upper", "x" * LARGE)
    union = stand.union(passthrough=Passthrough.AUTO)
    lower, upper = (union.open(ino_of(union, name), RD, ROOT) for name in (b"lower", b"upper"))
    assert union.backing_fd(lower) is None
    assert union.backing_fd(upper) is not None
    union.release(lower)
    union.release(upper)
    sealed = stand_of("ro ro")
    sealed.put(1, "f", "x" * LARGE)
    union = sealed.union(passthrough=Passthrough.AUTO)
    handle = union.open(ino_of(union, b"f"), RD, ROOT)
    assert union.backing_fd(handle) is not None
    union.release(handle)


def test_a_small_file_that_is_only_read_is_left_to_the_cache(stand, stand_of):
    stand.put(1, "f", "old")
    union = stand.union(passthrough=Passthrough.FAST)
    ino = ino_of(union, b"f")
    reader = union.open(ino, RD, ROOT)
    assert union.backing_fd(reader) is None
    writer = union.open(ino, RW, ROOT)
    assert union.backing_fd(writer) is None, "all open files of a node are served alike"
    union.write(writer, 0, b"new")
    assert union.read(reader, 0, 3) == b"new", "nothing stays behind on the lower branch"
    union.release(reader)
    union.release(writer)
    writer = union.open(ino, RW, ROOT)
    assert union.backing_fd(writer) is not None
    union.release(writer)
    shared = stand_of("rw")
    shared.put(0, "f", "x")
    union = shared.union(passthrough=Passthrough.FAST, sealed_branches=False)
    reader = union.open(ino_of(union, b"f"), RD, ROOT)
    assert union.backing_fd(reader) is not None, "the kernel keeps nothing that others may change"
    union.release(reader)


def test_a_small_file_is_given_whole_once_to_who_opens_it_alone(stand):
    stand.put(1, "f", "small")
    stand.put(1, "empty", "")
    stand.put(1, "large", "x" * LARGE)
    union = stand.union()
    ino = ino_of(union, b"f")
    writer = union.open(ino, RW, ROOT)
    reader = union.open(ino, RD, ROOT)
    assert union.whole_content(writer) is None
    assert union.whole_content(reader) is None, "a request for the same pages may be on its way"
    union.release(writer)
    union.release(reader)
    reader = union.open(ino, RD, ROOT)
    assert union.whole_content(reader) == b"small"
    assert union.whole_content(reader) is None, "the kernel has it"
    union.release(reader)
    for name in (b"empty", b"large"):
        reader = union.open(ino_of(union, name), RD, ROOT)
        assert union.whole_content(reader) is None
        union.release(reader)


def test_all_handles_of_a_node_have_one_backing_descriptor(stand):
    stand.put(0, "f", "x" * LARGE)
    union = stand.union()
    ino = ino_of(union, b"f")
    first = union.open(ino, RD, ROOT)
    fd = union.backing_fd(first)
    second = union.open(ino, RW, ROOT)
    assert union.backing_fd(second) == fd
    union.release(first)
    os.pwrite(fd, b"y", 0)
    assert union.read(second, 0, 1) == b"y"
    union.release(second)


def test_a_node_open_without_passing_stays_so_until_its_last_release(stand):
    stand.put(1, "f", "x" * LARGE)
    union = stand.union(passthrough=Passthrough.AUTO)
    ino = ino_of(union, b"f")
    reader = union.open(ino, RD, ROOT)
    assert union.backing_fd(reader) is None
    writer = union.open(ino, RW, ROOT)
    assert union.backing_fd(writer) is None
    union.release(reader)
    union.release(writer)
    again = union.open(ino, RD, ROOT)
    assert union.backing_fd(again) is not None
    union.release(again)


def test_fast_hands_a_written_lower_file_over_to_a_new_node(stand):
    stand.put(1, "f", "old" * LARGE)
    os.link(stand.roots[1] / "f", stand.roots[1] / "hard")
    union = stand.union(passthrough=Passthrough.FAST)
    attr = union.lookup(ROOT_INO, b"f", ROOT)
    reader = union.open(attr.ino, RD, ROOT)
    fd = union.backing_fd(reader)
    with pytest.raises(OSError) as error:
        union.open(attr.ino, RW, ROOT)
    assert error.value.errno == errno.ESTALE
    again = union.lookup(ROOT_INO, b"f", ROOT)
    assert again.ino != attr.ino
    assert again.visible_ino == attr.visible_ino
    writer = union.open(again.ino, RW, ROOT)
    assert union.backing_fd(writer) != fd
    union.write(writer, 0, b"new")
    assert os.pread(fd, 3, 0) == b"old", "as with overlayfs"
    assert union.getattr(attr.ino, None).visible_ino == attr.visible_ino
    assert union.lookup(ROOT_INO, b"hard", ROOT).ino == again.ino
    union.release(writer)
    union.release(reader)
    union.forget(attr.ino, 1)


def test_fast_copies_up_an_open_file_for_a_change_of_mode_without_estale(stand):
    stand.put(1, "f", "old" * LARGE)
    union = stand.union(passthrough=Passthrough.FAST)
    attr = union.lookup(ROOT_INO, b"f", ROOT)
    reader = union.open(attr.ino, RD, ROOT)
    assert union.backing_fd(reader) is not None
    changed = union.setattr(attr.ino, SetAttr(mode=0o600), None, ROOT)
    assert (changed.ino, stat.S_IMODE(changed.mode)) == (attr.ino, 0o600)
    assert stat.S_IMODE(union.getattr(attr.ino, None).mode) == 0o600
    union.release(reader)


def test_fast_removes_a_file_that_is_open_on_its_old_node(stand):
    stand.put(1, "f", "old" * LARGE)
    union = stand.union(passthrough=Passthrough.FAST)
    attr = union.lookup(ROOT_INO, b"f", ROOT)
    reader = union.open(attr.ino, RD, ROOT)
    assert union.backing_fd(reader) is not None
    union.setattr(attr.ino, SetAttr(mode=0o600), None, ROOT)
    union.rename(ROOT_INO, b"f", ROOT_INO, b"g", 0)
    assert union.getattr(attr.ino, reader).nlink == 1
    union.unlink(ROOT_INO, b"g")
    assert union.getattr(attr.ino, reader).nlink == 0
    assert union.read(reader, 0, 3) == b"old"
    union.release(reader)


# -- references and listings -----------------------------------------------------------------------------------------
def test_nodes_go_when_nobody_needs_them(stand):
    for number in range(50):
        stand.put(1, f"d/f{number}", "x")
    union = stand.union()
    table = union._tree.table
    directory = union.lookup(ROOT_INO, b"d", ROOT)
    listing = union.opendir(directory.ino)
    entries = list(union.readdir(listing, 0, attributes=True))
    for entry in entries[:10]:
        union.remember(entry.attr.ino)
    union.releasedir(listing)
    assert len(table) == 2 + 10
    for entry in entries[:10]:
        union.forget(entry.attr.ino, 1)
    union.forget(directory.ino, 1)
    assert len(table) == 1


def test_a_listing_returns_each_entry_once_while_the_directory_changes(stand, form):
    for number in range(40):
        stand.put(number % 2, f"f{number:02}")
    union = stand.union(whiteouts=form)
    listing = union.opendir(ROOT_INO)
    seen = []
    cookie = 0
    for round_number in range(8):
        for entry in union.readdir(listing, cookie, attributes=round_number % 2 == 0):
            seen.append(entry.name)
            cookie = entry.cookie
            if len(seen) % 5 == 0:
                break
        gone = f"f{39 - round_number:02}".encode()
        if gone not in seen:
            union.unlink(ROOT_INO, gone)
        union.release(union.create(ROOT_INO, b"new%d" % round_number, 0o644, RW, ROOT)[1])
    assert len(set(seen)) == len(seen)
    left = {b"f%02d" % number for number in range(40)} - set(seen)
    for name in left:
        with pytest.raises(FileNotFoundError):
            union.lookup(ROOT_INO, name, ROOT)
    again = {entry.name for entry in union.readdir(listing, 0, attributes=False)}
    assert again == set(seen) - {n for n in seen if union._tree.find(union._tree.root, n) is None} | {
        b"new%d" % number for number in range(8)
    }
    union.releasedir(listing)


def test_a_cookie_goes_on_in_another_listing_of_the_changed_directory(stand, form):
    for number in range(30):
        stand.put(number % 2, f"f{number:02}")
    union = stand.union(whiteouts=form)
    first = union.opendir(ROOT_INO)
    entries = list(union.readdir(first, 0, attributes=True))
    union.releasedir(first)
    seen = entries[:10]
    for entry in entries[:20:2]:
        union.unlink(ROOT_INO, entry.name)
    union.release(union.create(ROOT_INO, b"new", 0o644, RW, ROOT)[1])
    union.setattr(ino_of(union, entries[15].name), SetAttr(mode=0o600), None, ROOT)
    second = union.opendir(ROOT_INO)
    rest = [entry.name for entry in union.readdir(second, seen[-1].cookie, attributes=False)]
    union.releasedir(second)
    assert rest == [*(entry.name for entry in entries[11:20:2]), *(entry.name for entry in entries[20:]), b"new"]


def test_names_that_come_and_go_leave_no_memory_behind(stand):
    union = stand.union()
    for number in range(9000):
        attr, handle = union.create(ROOT_INO, b"t%d" % number, 0o644, RW, ROOT)
        union.release(handle)
        union.unlink(ROOT_INO, b"t%d" % number)
        union.forget(attr.ino, 1)
    paths = union.opendir(ROOT_INO)
    assert list(union.readdir(paths, 0, attributes=False)) == []
    union.releasedir(paths)
    assert union._tree.index(union._tree.root).codes == {}


def test_copies_that_come_and_go_leave_no_memory_behind(stand):
    for name in ("a", "b", "d/x"):
        stand.put(1, name, "lower")
    union = stand.union(delete=DeleteMode.FIRST, volatile=True)
    paths = UnionPaths(union)
    known = len(union._tree.origins)
    for _ in range(3):
        paths.append(b"a", b"copied")
        number = paths.ino(b"a")
        with paths.node(b"a") as attr, paths.open(b"a") as handle:
            paths.unlink(b"a")
            assert union.getattr(attr.ino, handle).visible_ino == number
        paths.append(b"b", b"copied")
        paths.write(b"new", b"")
        paths.rename(b"new", b"b")
        paths.unlink(b"b")
        paths.chmod(b"d", 0o700)
        paths.rename(b"d/x", b"x")
        paths.unlink(b"x")
        (stand.roots[0] / "d/.wh.x").unlink()
        union.refresh()
    assert len(union._tree.origins) == known + 1, "the directory is a copy still"


def test_five_hundred_branches(tmp_path, stand_of):
    stand = stand_of("rw" + " ro" * 499)
    for number in range(0, 500, 7):
        stand.put(number, f"d/f{number}", str(number))
    stand.put(499, "d/bottom", "bottom")
    paths = stand.paths()
    assert len(paths.list(b"d")) == len(range(0, 500, 7)) + 1
    assert paths.read(b"d/bottom") == b"bottom"
    paths.append(b"d/f490", b"+")
    paths.unlink(b"d/bottom")
    paths.rename(b"d", b"e")
    assert paths.read(b"e/f490") == b"490+"
    assert b"bottom" not in paths.list(b"e")


def test_numbers_are_unique_over_filesystems(stand):
    stand.put(0, "d/f")
    stand.put(1, "d/g")
    union = stand.union()
    tree = union._tree
    here = os.stat(stand.roots[0])
    other = os.stat("/proc/self")
    assert here.st_dev != other.st_dev
    same_number = os.stat_result((other.st_mode, here.st_ino, other.st_dev, *tuple(other)[3:]))
    assert tree.identity(here) != tree.identity(same_number)
    large = os.stat_result((here.st_mode, 1 << 60, here.st_dev, *tuple(here)[3:]))
    assert tree.identity(large) == tree.identity(large)
    assert tree.identity(large) >= 1 << 63
