"""What a POSIX filesystem does, as cases that run on any: each gets a directory with its seed in it, and asserts.

``ALL`` is the list. A case is a function of the directory; ``seed`` puts there what has to exist before, which a union
may have in a lower branch. Every case holds on a plain directory: that is how the cases themselves are tested.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import random
import shutil
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from unionfs import _sys

NOBODY = 65534

Step = Callable[[Path], None]


class Case(NamedTuple):
    name: str
    seed: Step
    run: Step


ALL: list[Case] = []


def no_seed(_d: Path) -> None:
    """The case begins in an empty directory."""


def file_seed(d: Path) -> None:
    """One file ``f`` of a known content."""
    (d / "f").write_bytes(b"0123456789")
    (d / "f").chmod(0o644)


def tree_seed(d: Path) -> None:
    """A directory ``t`` with files, a link and a directory in it."""
    (d / "t/sub").mkdir(parents=True)
    (d / "t/a").write_bytes(b"a")
    (d / "t/sub/b").write_bytes(b"b")
    (d / "t/l").symlink_to("a")
    (d / "t").chmod(0o755)


def case(seed: Step = no_seed) -> Callable[[Step], Step]:
    def register(run: Step) -> Step:
        ALL.append(Case(run.__name__, seed, run))
        return run

    return register


@contextlib.contextmanager
def opened(path: Path, flags: int, mode: int = 0o644) -> Iterator[int]:
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def refused(*numbers: int) -> Iterator[None]:
    expected = [errno.errorcode[number] for number in numbers]
    got = "nothing was refused"
    try:
        yield
    except OSError as error:
        if error.errno in numbers:
            return
        got = str(error)
    raise AssertionError(f"expected {expected}, got {got}")


def as_nobody(d: Path, action: Callable[[], object]) -> str:
    """As `in_child`, by a user without any rights."""

    def act() -> object:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return action()

    return in_child(d, act)


def in_child(d: Path, action: Callable[[], object]) -> str:
    """What ``action`` gives, as text, when done in ``d`` by another process; the name of its errno if refused."""
    reading, writing = os.pipe()
    child = os.fork()  # noqa: TID251 - rights are given up by a whole process; no thread is running
    if child == 0:
        outcome = "died"
        try:
            os.chdir(d)
            outcome = str(action())
        except OSError as error:
            outcome = errno.errorcode[error.errno or 0]
        finally:
            os.write(writing, outcome.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        outcome = stream.read()
    os.waitpid(child, 0)
    return outcome


def names(d: Path) -> list[str]:
    return sorted(os.listdir(d))


# -- content ----------------------------------------------------------------------------------------------------
@case(file_seed)
def read_at_offsets(d: Path) -> None:
    with opened(d / "f", os.O_RDONLY) as fd:
        assert os.pread(fd, 4, 3) == b"3456"
        assert os.pread(fd, 100, 8) == b"89"
        assert os.pread(fd, 10, 10) == b""
        assert os.read(fd, 2) + os.read(fd, 2) == b"0123"


@case(file_seed)
def write_in_the_middle(d: Path) -> None:
    with opened(d / "f", os.O_WRONLY) as fd:
        assert os.pwrite(fd, b"XY", 4) == 2
    assert (d / "f").read_bytes() == b"0123XY6789"


@case(file_seed)
def read_and_write_one_descriptor(d: Path) -> None:
    with opened(d / "f", os.O_RDWR) as fd:
        assert os.read(fd, 3) == b"012"
        os.write(fd, b"!")
        os.lseek(fd, 0, os.SEEK_SET)
        assert os.read(fd, 20) == b"012!456789"


@case(file_seed)
def write_past_the_end(d: Path) -> None:
    with opened(d / "f", os.O_WRONLY) as fd:
        os.pwrite(fd, b"end", 20000)
    content = (d / "f").read_bytes()
    assert len(content) == 20003
    assert content[:10] == b"0123456789"
    assert content[10:20000] == bytes(19990)


@case(file_seed)
def append(d: Path) -> None:
    with opened(d / "f", os.O_WRONLY | os.O_APPEND) as one, opened(d / "f", os.O_WRONLY | os.O_APPEND) as two:
        os.write(one, b"a")
        os.write(two, b"b")
        os.write(one, b"c")
    assert (d / "f").read_bytes() == b"0123456789abc"


@case(file_seed)
def append_survives_truncate(d: Path) -> None:
    with opened(d / "f", os.O_WRONLY | os.O_APPEND) as fd:
        os.truncate(d / "f", 2)
        os.write(fd, b"z")
    assert (d / "f").read_bytes() == b"01z"


@case(file_seed)
def truncate_shrinks_and_grows(d: Path) -> None:
    os.truncate(d / "f", 4)
    assert (d / "f").read_bytes() == b"0123"
    os.truncate(d / "f", 6)
    assert (d / "f").read_bytes() == b"0123\0\0"
    assert (d / "f").stat().st_size == 6


@case(file_seed)
def ftruncate(d: Path) -> None:
    with opened(d / "f", os.O_RDWR) as fd:
        os.ftruncate(fd, 1)
        assert os.fstat(fd).st_size == 1
        assert os.pread(fd, 10, 0) == b"0"
    with opened(d / "f", os.O_RDONLY) as fd, refused(errno.EINVAL, errno.EBADF):
        os.ftruncate(fd, 0)


@case(file_seed)
def open_truncates(d: Path) -> None:
    with opened(d / "f", os.O_WRONLY | os.O_TRUNC) as fd:
        assert os.fstat(fd).st_size == 0
        os.write(fd, b"new")
    assert (d / "f").read_bytes() == b"new"


@case(file_seed)
def read_only_descriptor_cannot_write(d: Path) -> None:
    with opened(d / "f", os.O_RDONLY) as fd, refused(errno.EBADF):
        os.write(fd, b"x")
    with opened(d / "f", os.O_WRONLY) as fd, refused(errno.EBADF):
        os.read(fd, 1)


@case(file_seed)
def reader_sees_a_later_write(d: Path) -> None:
    with opened(d / "f", os.O_RDONLY) as reader:
        assert os.pread(reader, 3, 0) == b"012"
        with opened(d / "f", os.O_WRONLY) as writer:
            os.pwrite(writer, b"ABC", 0)
            assert os.pread(reader, 3, 0) == b"ABC"
        assert os.fstat(reader).st_ino == (d / "f").stat().st_ino


@case(file_seed)
def mapped_reader_sees_a_later_write(d: Path) -> None:
    with opened(d / "f", os.O_RDONLY) as reader, mmap.mmap(reader, 10, prot=mmap.PROT_READ) as mapped:
        assert mapped[:3] == b"012"
        with opened(d / "f", os.O_WRONLY) as writer:
            os.pwrite(writer, b"ABC", 0)
        assert mapped[:3] == b"ABC"


@case()
def large_file(d: Path) -> None:
    content = random.Random(1).randbytes((3 << 20) + 12345)
    with opened(d / "big", os.O_WRONLY | os.O_CREAT) as fd:
        done = 0
        for size in (1, 4095, 4097, 65537, 1 << 20, 1 << 22):
            done += os.write(fd, content[done : done + size])
    assert (d / "big").read_bytes() == content
    with opened(d / "big", os.O_RDONLY) as fd:
        assert os.pread(fd, 300_000, 1_000_001) == content[1_000_001:1_300_001]


@case()
def hole(d: Path) -> None:
    with opened(d / "f", os.O_RDWR | os.O_CREAT) as fd:
        os.pwrite(fd, b"end", 8 << 20)
        assert os.fstat(fd).st_size == (8 << 20) + 3
        assert os.fstat(fd).st_blocks * 512 < 1 << 20
        assert os.pread(fd, 4096, 1 << 20) == bytes(4096)


def sparse_seed(d: Path) -> None:
    with opened(d / "f", os.O_RDWR | os.O_CREAT) as fd:
        os.pwrite(fd, b"x" * 4096, 1 << 20)
        os.ftruncate(fd, 2 << 20)


@case(sparse_seed)
def seek_data_and_hole(d: Path) -> None:
    with opened(d / "f", os.O_RDONLY) as fd:
        assert os.lseek(fd, 0, os.SEEK_DATA) == 1 << 20
        assert os.lseek(fd, 1 << 20, os.SEEK_HOLE) == (1 << 20) + 4096
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
        with refused(errno.ENXIO):
            os.lseek(fd, 1 << 21, os.SEEK_DATA)


@case(sparse_seed)
def sparse_file_stays_sparse_when_changed(d: Path) -> None:
    with opened(d / "f", os.O_WRONLY) as fd:
        os.pwrite(fd, b"y", 0)
    assert (d / "f").stat().st_blocks * 512 < 1 << 19
    assert (d / "f").read_bytes() == b"y" + bytes((1 << 20) - 1) + b"x" * 4096 + bytes((1 << 20) - 4096)


@case(file_seed)
def fallocate_extends(d: Path) -> None:
    with opened(d / "f", os.O_RDWR) as fd:
        _sys.fallocate(fd, 0, 0, 8192)
        assert os.fstat(fd).st_size == 8192
        _sys.fallocate(fd, _sys.FALLOC_FL_KEEP_SIZE, 0, 1 << 16)
        assert os.fstat(fd).st_size == 8192
    assert (d / "f").read_bytes() == b"0123456789" + bytes(8182)


@case()
def fallocate_punches_a_hole(d: Path) -> None:
    with opened(d / "f", os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"x" * 16384)
        _sys.fallocate(fd, _sys.FALLOC_FL_PUNCH_HOLE | _sys.FALLOC_FL_KEEP_SIZE, 4096, 8192)
        assert os.pread(fd, 16384, 0) == b"x" * 4096 + bytes(8192) + b"x" * 4096


@case(file_seed)
def copy_file_range(d: Path) -> None:
    with opened(d / "f", os.O_RDONLY) as source, opened(d / "g", os.O_RDWR | os.O_CREAT) as target:
        assert os.copy_file_range(source, target, 5, 2, 0) == 5
        assert os.pread(target, 10, 0) == b"23456"


@case(file_seed)
def sendfile(d: Path) -> None:
    with opened(d / "f", os.O_RDONLY) as source, opened(d / "g", os.O_RDWR | os.O_CREAT) as target:
        assert os.sendfile(target, source, 0, 10) == 10
    assert (d / "g").read_bytes() == b"0123456789"


@case(file_seed)
def synced(d: Path) -> None:
    with opened(d / "f", os.O_RDWR) as fd:
        os.write(fd, b"s")
        os.fsync(fd)
        os.fdatasync(fd)
    with opened(d, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)


@case()
def direct_input_and_output(d: Path) -> None:
    with mmap.mmap(-1, 8192) as aligned:
        aligned[:] = b"d" * 8192
        with opened(d / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT) as fd:
            assert os.pwritev(fd, [aligned], 0) == 8192
            aligned[:] = bytes(8192)
            assert os.preadv(fd, [aligned], 0) == 8192
        assert aligned[:] == b"d" * 8192


# -- mappings and programs --------------------------------------------------------------------------------------
@case(file_seed)
def shared_mapping_is_written(d: Path) -> None:
    with opened(d / "f", os.O_RDWR) as fd, mmap.mmap(fd, 10) as mapped:
        mapped[2:4] = b"mm"
        mapped.flush()
        assert os.pread(fd, 10, 0) == b"01mm456789"
    assert (d / "f").read_bytes() == b"01mm456789"


@case(file_seed)
def shared_mapping_sees_writes(d: Path) -> None:
    with opened(d / "f", os.O_RDWR) as fd, mmap.mmap(fd, 10) as mapped:
        os.pwrite(fd, b"ww", 5)
        assert mapped[:] == b"01234ww789"


@case(file_seed)
def private_mapping_stays_private(d: Path) -> None:
    with opened(d / "f", os.O_RDONLY) as fd, mmap.mmap(fd, 10, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as m:
        m[0:1] = b"p"
        assert m[:] == b"p123456789"
    assert (d / "f").read_bytes() == b"0123456789"


@case(file_seed)
def mapping_outlives_the_name(d: Path) -> None:
    with opened(d / "f", os.O_RDWR) as fd:
        mapped = mmap.mmap(fd, 10)
    (d / "f").unlink()
    with mapped:
        mapped[0:1] = b"u"
        assert mapped[:] == b"u123456789"


def program_seed(d: Path) -> None:
    shutil.copy("/bin/true", d / "true")
    (d / "script").write_text("#!/bin/sh\necho ran $1\n")
    (d / "true").chmod(0o755)
    (d / "script").chmod(0o755)


@case(program_seed)
def programs_run(d: Path) -> None:
    assert subprocess.run([d / "true"], check=False).returncode == 0
    assert subprocess.run([d / "script", "it"], capture_output=True, check=True).stdout == b"ran it\n"


@case(program_seed)
def program_needs_its_bit(d: Path) -> None:
    (d / "script").chmod(0o644)
    with refused(errno.EACCES):
        subprocess.run([d / "script"], check=False)


# -- names ------------------------------------------------------------------------------------------------------
@case(file_seed)
def exclusive_creation(d: Path) -> None:
    with refused(errno.EEXIST):
        os.open(d / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    with opened(d / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600):
        pass
    assert stat.S_IMODE((d / "new").stat().st_mode) == 0o600
    assert names(d) == ["f", "new"]


@case()
def umask_counts(d: Path) -> None:
    before = os.umask(0o027)
    try:
        with opened(d / "f", os.O_CREAT | os.O_WRONLY, 0o666):
            pass
        os.mkdir(d / "d", 0o777)
        os.mkfifo(d / "p", 0o666)
    finally:
        os.umask(before)
    assert [stat.S_IMODE((d / name).stat().st_mode) for name in ("f", "d", "p")] == [0o640, 0o750, 0o640]


@case(file_seed)
def missing_and_wrong_names(d: Path) -> None:
    with refused(errno.ENOENT):
        os.stat(d / "missing")
    with refused(errno.ENOENT):
        os.open(d / "missing", os.O_RDONLY)
    with refused(errno.ENOTDIR):
        os.stat(d / "f/below")
    with refused(errno.ENOTDIR):
        os.open(d / "f", os.O_RDONLY | os.O_DIRECTORY)
    with refused(errno.EISDIR):
        os.open(d, os.O_WRONLY)
    with refused(errno.ENAMETOOLONG):
        os.stat(d / ("n" * 256))


@case()
def name_appears_after_it_was_missed(d: Path) -> None:
    for attempt in range(3):
        assert not (d / "f").exists()
        (d / "f").write_text(str(attempt))
        assert (d / "f").read_text() == str(attempt)
        (d / "f").unlink()


@case()
def odd_names(d: Path) -> None:
    odd = [b"n" * 255, b"\xff\xfe", b" ", b"new\nline", b"-rf", b"...", "ü".encode()]
    for name in odd:
        with open(os.fsencode(d) + b"/" + name, "wb") as file:
            file.write(name)
    assert sorted(os.listdir(os.fsencode(d))) == sorted(odd)
    for name in odd:
        with open(os.fsencode(d) + b"/" + name, "rb") as file:
            assert file.read() == name
        os.unlink(os.fsencode(d) + b"/" + name)
    assert names(d) == []


@case(file_seed)
def unlink(d: Path) -> None:
    (d / "f").unlink()
    assert names(d) == []
    with refused(errno.ENOENT):
        (d / "f").unlink()
    (d / "f").write_bytes(b"again")
    assert (d / "f").read_bytes() == b"again"


@case(file_seed)
def unlinked_file_stays_usable(d: Path) -> None:
    with opened(d / "f", os.O_RDWR) as fd:
        (d / "f").unlink()
        assert os.fstat(fd).st_nlink == 0
        assert os.pread(fd, 4, 0) == b"0123"
        os.pwrite(fd, b"gone", 0)
        assert os.pread(fd, 10, 0) == b"gone456789"
        os.ftruncate(fd, 2)
        os.fchmod(fd, 0o600)
        assert os.fstat(fd).st_size == 2
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
        (d / "f").write_bytes(b"other")
        assert os.pread(fd, 10, 0) == b"go"
    assert (d / "f").read_bytes() == b"other"


@case(tree_seed)
def unlink_refuses_directories(d: Path) -> None:
    with refused(errno.EISDIR, errno.EPERM):
        os.unlink(d / "t")
    with refused(errno.ENOTDIR):
        os.rmdir(d / "t/a")
    with refused(errno.ENOTEMPTY, errno.EEXIST):
        os.rmdir(d / "t")


@case(tree_seed)
def directory_removed_and_made_again(d: Path) -> None:
    shutil.rmtree(d / "t")
    assert names(d) == []
    (d / "t").mkdir()
    assert names(d / "t") == []
    (d / "t/a").write_bytes(b"new")
    assert names(d / "t") == ["a"]


@case()
def removed_directory_takes_nothing(d: Path) -> None:
    (d / "gone").mkdir()
    with opened(d / "gone", os.O_RDONLY | os.O_DIRECTORY) as fd:
        (d / "gone").rmdir()
        with refused(errno.ENOENT):
            os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        assert os.listdir(fd) == []


@case(tree_seed)
def mkdir(d: Path) -> None:
    with refused(errno.EEXIST):
        os.mkdir(d / "t")
    with refused(errno.EEXIST):
        os.mkdir(d / "t/a")
    with refused(errno.ENOENT):
        os.mkdir(d / "no/where")
    os.mkdir(d / "t/sub/new", 0o700)
    assert names(d / "t/sub") == ["b", "new"]
    assert stat.S_IMODE((d / "t/sub/new").stat().st_mode) == 0o700


@case(tree_seed)
def directory_link_count(d: Path) -> None:
    before = (d / "t").stat().st_nlink
    (d / "t/more").mkdir()
    after = (d / "t").stat().st_nlink
    assert (before, after) in {(3, 4), (1, 1)}
    (d / "t/more").rmdir()
    assert (d / "t").stat().st_nlink == before


@case(tree_seed)
def creation_in_a_deep_directory_keeps_its_attributes(d: Path) -> None:
    before = (d / "t").stat()
    (d / "t/sub/new").write_bytes(b"n")
    after = (d / "t").stat()
    assert names(d / "t/sub") == ["b", "new"]
    assert (after.st_mode, after.st_uid, after.st_gid, after.st_mtime_ns, after.st_ino) == (
        before.st_mode, before.st_uid, before.st_gid, before.st_mtime_ns, before.st_ino,
    )  # fmt: skip


@case(file_seed)
def symlinks(d: Path) -> None:
    (d / "l").symlink_to("f")
    assert os.readlink(d / "l") == "f"
    assert (d / "l").read_bytes() == b"0123456789"
    assert stat.S_ISLNK((d / "l").lstat().st_mode)
    assert (d / "l").lstat().st_size == 1
    (d / "dangling").symlink_to("x" * 4000)
    assert len(os.readlink(d / "dangling")) == 4000
    with refused(errno.ENAMETOOLONG, errno.ENOENT):
        (d / "dangling").stat()
    (d / "loop").symlink_to("loop")
    with refused(errno.ELOOP):
        (d / "loop").stat()
    with refused(errno.ELOOP):
        os.open(d / "l", os.O_RDONLY | os.O_NOFOLLOW)
    with refused(errno.EINVAL):
        os.readlink(d / "f")
    with refused(errno.EEXIST):
        (d / "l").symlink_to("g")


@case(tree_seed)
def symlink_is_replaced(d: Path) -> None:
    (d / "t/l").unlink()
    (d / "t/l").symlink_to("sub/b")
    assert (d / "t/l").read_bytes() == b"b"


@case(file_seed)
def hard_link(d: Path) -> None:
    os.link(d / "f", d / "g")
    assert (d / "f").stat().st_nlink == (d / "g").stat().st_nlink == 2
    assert (d / "f").stat().st_ino == (d / "g").stat().st_ino
    (d / "g").write_bytes(b"both")
    assert (d / "f").read_bytes() == b"both"
    (d / "f").unlink()
    assert (d / "g").stat().st_nlink == 1
    assert (d / "g").read_bytes() == b"both"


@case(tree_seed)
def hard_link_refusals(d: Path) -> None:
    with refused(errno.EPERM):
        os.link(d / "t", d / "u")
    with refused(errno.EEXIST):
        os.link(d / "t/a", d / "t/sub/b")
    with refused(errno.ENOENT):
        os.link(d / "t/missing", d / "u")
    os.link(d / "t/l", d / "t/m", follow_symlinks=False)
    assert os.readlink(d / "t/m") == "a"


def linked_seed(d: Path) -> None:
    (d / "one").write_bytes(b"linked")
    os.link(d / "one", d / "two")


@case(linked_seed)
def hard_linked_file_is_changed(d: Path) -> None:
    assert (d / "one").stat().st_nlink == 2
    with opened(d / "one", os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"!")
    assert (d / "two").read_bytes() == b"linked!"
    assert (d / "one").stat().st_ino == (d / "two").stat().st_ino
    assert (d / "two").stat().st_nlink == 2
    (d / "one").unlink()
    assert (d / "two").stat().st_nlink == 1
    assert (d / "two").read_bytes() == b"linked!"


# -- rename -----------------------------------------------------------------------------------------------------
@case(file_seed)
def rename_file(d: Path) -> None:
    number = (d / "f").stat().st_ino
    os.rename(d / "f", d / "g")
    assert names(d) == ["g"]
    assert (d / "g").read_bytes() == b"0123456789"
    assert (d / "g").stat().st_ino == number
    with refused(errno.ENOENT):
        os.stat(d / "f")


@case(file_seed)
def rename_over_a_file(d: Path) -> None:
    (d / "g").write_bytes(b"target")
    with opened(d / "g", os.O_RDONLY) as fd:
        os.rename(d / "f", d / "g")
        assert os.read(fd, 10) == b"target"
        assert os.fstat(fd).st_nlink == 0
    assert names(d) == ["g"]
    assert (d / "g").read_bytes() == b"0123456789"


@case(file_seed)
def rename_onto_the_same_file(d: Path) -> None:
    os.link(d / "f", d / "g")
    os.rename(d / "f", d / "g")
    assert names(d) == ["f", "g"]
    os.rename(d / "f", d / "f")
    assert names(d) == ["f", "g"]


@case(file_seed)
def renamed_file_stays_open(d: Path) -> None:
    with opened(d / "f", os.O_RDWR) as fd:
        os.rename(d / "f", d / "g")
        os.pwrite(fd, b"r", 0)
        assert os.pread(fd, 3, 0) == b"r12"
    assert (d / "g").read_bytes() == b"r123456789"


@case(tree_seed)
def rename_directory(d: Path) -> None:
    os.rename(d / "t", d / "u")
    assert names(d) == ["u"]
    assert names(d / "u") == ["a", "l", "sub"]
    assert (d / "u/sub/b").read_bytes() == b"b"
    (d / "u/sub/new").write_bytes(b"n")
    os.rename(d / "u/sub", d / "v")
    assert names(d / "v") == ["b", "new"]
    assert names(d / "u") == ["a", "l"]


@case(tree_seed)
def rename_directory_there_and_back(d: Path) -> None:
    os.rename(d / "t", d / "u")
    os.rename(d / "u", d / "t")
    assert names(d) == ["t"]
    assert names(d / "t") == ["a", "l", "sub"]
    assert (d / "t/a").read_bytes() == b"a"


@case(tree_seed)
def rename_directory_with_open_files(d: Path) -> None:
    with opened(d / "t/sub/b", os.O_RDWR) as fd:
        os.rename(d / "t", d / "u")
        os.write(fd, b"B")
        assert (d / "u/sub/b").read_bytes() == b"B"


@case(tree_seed)
def rename_over_directories(d: Path) -> None:
    (d / "empty").mkdir()
    (d / "full").mkdir()
    (d / "full/x").write_bytes(b"x")
    (d / "file").write_bytes(b"f")
    with refused(errno.ENOTEMPTY, errno.EEXIST):
        os.rename(d / "t", d / "full")
    with refused(errno.ENOTDIR):
        os.rename(d / "t", d / "file")
    with refused(errno.EISDIR):
        os.rename(d / "file", d / "empty")
    with refused(errno.EINVAL):
        os.rename(d / "t", d / "t/sub/under")
    os.rename(d / "t", d / "empty")
    assert names(d) == ["empty", "file", "full"]
    assert names(d / "empty") == ["a", "l", "sub"]


@case(tree_seed)
def rename_out_of_a_directory(d: Path) -> None:
    os.rename(d / "t/sub/b", d / "b")
    assert (d / "b").read_bytes() == b"b"
    assert names(d / "t/sub") == []
    os.rmdir(d / "t/sub")
    assert names(d / "t") == ["a", "l"]


@case(tree_seed)
def rename_noreplace(d: Path) -> None:
    def rename(old: str, new: str) -> None:
        _sys.renameat2(-100, os.fsencode(d / old), -100, os.fsencode(d / new), _sys.RENAME_NOREPLACE)

    with refused(errno.EEXIST):
        rename("t/a", "t/l")
    rename("t/a", "t/z")
    assert names(d / "t") == ["l", "sub", "z"]


@case(tree_seed)
def rename_exchange(d: Path) -> None:
    def exchange(old: str, new: str) -> None:
        _sys.renameat2(-100, os.fsencode(d / old), -100, os.fsencode(d / new), _sys.RENAME_EXCHANGE)

    exchange("t/a", "t/sub/b")
    assert (d / "t/a").read_bytes() == b"b"
    assert (d / "t/sub/b").read_bytes() == b"a"
    exchange("t/a", "t/sub")
    assert (d / "t/sub").read_bytes() == b"b"
    assert names(d / "t/a") == ["b"]
    with refused(errno.ENOENT):
        exchange("t/a", "t/missing")


# -- attributes -------------------------------------------------------------------------------------------------
@case(file_seed)
def chmod(d: Path) -> None:
    number = (d / "f").stat().st_ino
    for mode in (0o000, 0o777, 0o4755, 0o2711, 0o1644, 0o640):
        os.chmod(d / "f", mode)
        assert stat.S_IMODE((d / "f").stat().st_mode) == mode
    assert (d / "f").read_bytes() == b"0123456789"
    assert (d / "f").stat().st_ino == number


@case(tree_seed)
def chmod_and_chown_of_a_directory(d: Path) -> None:
    os.chmod(d / "t", 0o2750)
    os.chown(d / "t", 12, 34)
    at = (d / "t").stat()
    assert (stat.S_IMODE(at.st_mode), at.st_uid, at.st_gid) == (0o2750, 12, 34)
    assert names(d / "t") == ["a", "l", "sub"]


@case(file_seed)
def chown(d: Path) -> None:
    os.chown(d / "f", 1234, 4321)
    assert ((d / "f").stat().st_uid, (d / "f").stat().st_gid) == (1234, 4321)
    os.chown(d / "f", -1, 5)
    assert ((d / "f").stat().st_uid, (d / "f").stat().st_gid) == (1234, 5)
    os.symlink("f", d / "l")
    os.chown(d / "l", 7, 8, follow_symlinks=False)
    assert ((d / "l").lstat().st_uid, (d / "l").lstat().st_gid) == (7, 8)
    assert (d / "f").stat().st_uid == 1234


@case(file_seed)
def chown_takes_setuid_away(d: Path) -> None:
    os.chmod(d / "f", 0o6755)
    os.chown(d / "f", 1, 1)
    assert stat.S_IMODE((d / "f").stat().st_mode) == 0o755


@case(file_seed)
def write_by_another_user_takes_setuid_away(d: Path) -> None:
    os.chmod(d / "f", 0o6777)

    def write() -> None:
        with opened(Path("f"), os.O_WRONLY) as fd:
            os.write(fd, b"x")

    assert as_nobody(d, write) == "None"
    assert stat.S_IMODE((d / "f").stat().st_mode) == 0o777
    assert (d / "f").read_bytes() == b"x123456789"


@case(file_seed)
def truncate_by_another_user_takes_setuid_away(d: Path) -> None:
    os.chmod(d / "f", 0o6777)
    assert as_nobody(d, lambda: os.truncate("f", 1)) == "None"
    assert stat.S_IMODE((d / "f").stat().st_mode) == 0o777
    os.chmod(d / "f", 0o4777)
    assert as_nobody(d, lambda: os.close(os.open("f", os.O_WRONLY | os.O_TRUNC))) == "None"
    assert stat.S_IMODE((d / "f").stat().st_mode) == 0o777


@case(file_seed)
def write_by_the_superuser_keeps_setuid(d: Path) -> None:
    os.chmod(d / "f", 0o4755)
    with opened(d / "f", os.O_WRONLY) as fd:
        os.write(fd, b"x")
    assert stat.S_IMODE((d / "f").stat().st_mode) == 0o4755


@case()
def setgid_directory_hands_its_group_on(d: Path) -> None:
    (d / "g").mkdir()
    os.chown(d / "g", 0, 777)
    os.chmod(d / "g", 0o2777)
    (d / "g/f").write_bytes(b"")
    (d / "g/d").mkdir()
    assert (d / "g/f").stat().st_gid == (d / "g/d").stat().st_gid == 777
    assert (d / "g/d").stat().st_mode & stat.S_ISGID


@case(file_seed)
def times(d: Path) -> None:
    os.utime(d / "f", ns=(1_000_000_001, 2_000_000_002))
    at = (d / "f").stat()
    assert (at.st_atime_ns, at.st_mtime_ns) == (1_000_000_001, 2_000_000_002)
    os.utime(d / "f")
    now = (d / "f").stat()
    assert now.st_mtime_ns > at.st_mtime_ns
    assert now.st_ctime_ns >= at.st_ctime_ns
    os.symlink("f", d / "l")
    os.utime(d / "l", ns=(5, 6), follow_symlinks=False)
    assert (d / "l").lstat().st_mtime_ns == 6
    os.utime(d / "f", ns=(-1_500_000_000, -500_000_000))
    assert (d / "f").stat().st_mtime_ns == -500_000_000


@case(file_seed)
def times_move_with_changes(d: Path) -> None:
    os.utime(d / "f", ns=(1, 1))
    os.utime(d, ns=(1, 1))
    with opened(d / "f", os.O_WRONLY) as fd:
        os.write(fd, b"t")
    written = (d / "f").stat()
    assert written.st_mtime_ns > 1
    assert d.stat().st_mtime_ns == 1
    (d / "g").write_bytes(b"")
    assert d.stat().st_mtime_ns > 1
    os.utime(d, ns=(1, 1))
    (d / "g").unlink()
    assert d.stat().st_mtime_ns > 1
    os.chmod(d / "f", 0o600)
    assert (d / "f").stat().st_ctime_ns >= written.st_ctime_ns
    assert (d / "f").stat().st_mtime_ns == written.st_mtime_ns


@case(file_seed)
def reading_does_not_change_content_times(d: Path) -> None:
    before = (d / "f").stat()
    (d / "f").read_bytes()
    os.chmod(d / "f", stat.S_IMODE(before.st_mode))
    assert (d / "f").stat().st_mtime_ns == before.st_mtime_ns


@case(file_seed)
def room(d: Path) -> None:
    room = os.statvfs(d)
    assert room.f_namemax == 255
    assert room.f_blocks > 0
    assert room.f_bsize > 0
    with opened(d / "f", os.O_RDONLY) as fd:
        assert os.fstatvfs(fd).f_blocks == room.f_blocks


# -- extended attributes ----------------------------------------------------------------------------------------
@case(file_seed)
def extended_attributes(d: Path) -> None:
    f = d / "f"
    os.setxattr(f, "user.one", b"1")
    os.setxattr(f, "user.empty", b"")
    os.setxattr(f, "trusted.two", b"2" * 1000)
    assert os.getxattr(f, "user.one") == b"1"
    assert os.getxattr(f, "user.empty") == b""
    assert os.getxattr(f, "trusted.two") == b"2" * 1000
    assert {"user.one", "user.empty", "trusted.two"} <= set(os.listxattr(f))
    with refused(errno.EEXIST):
        os.setxattr(f, "user.one", b"x", os.XATTR_CREATE)
    with refused(errno.ENODATA):
        os.setxattr(f, "user.three", b"x", os.XATTR_REPLACE)
    os.setxattr(f, "user.one", b"changed", os.XATTR_REPLACE)
    assert os.getxattr(f, "user.one") == b"changed"
    os.removexattr(f, "user.one")
    with refused(errno.ENODATA):
        os.getxattr(f, "user.one")
    with refused(errno.ENODATA):
        os.removexattr(f, "user.one")


@case(tree_seed)
def extended_attributes_of_directories_and_links(d: Path) -> None:
    os.setxattr(d / "t", "user.d", b"dir")
    assert os.getxattr(d / "t", "user.d") == b"dir"
    os.setxattr(d / "t/l", "trusted.l", b"link", follow_symlinks=False)
    assert os.getxattr(d / "t/l", "trusted.l", follow_symlinks=False) == b"link"
    with refused(errno.ENODATA):
        os.getxattr(d / "t/a", "trusted.l")


def capability_seed(d: Path) -> None:
    shutil.copy("/bin/true", d / "f")
    os.setxattr(d / "f", "user.kept", b"k")
    os.setxattr(d / "f", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0))


@case(capability_seed)
def capabilities_survive_metadata_changes(d: Path) -> None:
    os.utime(d / "f", ns=(1, 1))
    os.chmod(d / "f", 0o700)
    assert os.getxattr(d / "f", "user.kept") == b"k"
    assert len(os.getxattr(d / "f", "security.capability")) == 20


@case(capability_seed)
def capabilities_go_with_a_write(d: Path) -> None:
    with opened(d / "f", os.O_WRONLY) as fd:
        os.write(fd, b"x")
    with refused(errno.ENODATA):
        os.getxattr(d / "f", "security.capability")


# u::rw-, u:1234:rwx, g::r--, m::rwx, o::---
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in (
        (1, 6, 0xFFFFFFFF), (2, 7, 1234), (4, 4, 0xFFFFFFFF), (0x10, 7, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF)
    )
)  # fmt: skip


@case(file_seed)
def access_control_list_is_kept(d: Path) -> None:
    os.setxattr(d / "f", "system.posix_acl_access", ACL)
    assert os.getxattr(d / "f", "system.posix_acl_access") == ACL
    assert stat.S_IMODE((d / "f").stat().st_mode) == 0o670


@case()
def default_access_control_list_is_inherited(d: Path) -> None:
    (d / "d").mkdir()
    os.setxattr(d / "d", "system.posix_acl_default", ACL)
    before = os.umask(0o077)
    try:
        with opened(d / "d/f", os.O_CREAT | os.O_WRONLY, 0o666):
            pass
        (d / "d/sub").mkdir()
    finally:
        os.umask(before)
    assert os.getxattr(d / "d/sub", "system.posix_acl_default") == ACL
    assert stat.S_IMODE((d / "d/f").stat().st_mode) == 0o660


# -- other kinds of files ---------------------------------------------------------------------------------------
@case()
def fifo(d: Path) -> None:
    os.mkfifo(d / "p", 0o600)
    assert stat.S_ISFIFO((d / "p").stat().st_mode)
    received: list[bytes] = []

    def read() -> None:
        with opened(d / "p", os.O_RDONLY) as fd:
            received.append(os.read(fd, 10))

    reader = threading.Thread(target=read)
    reader.start()
    with opened(d / "p", os.O_WRONLY) as fd:
        os.write(fd, b"through")
    reader.join()
    assert received == [b"through"]


@case()
def unix_socket(d: Path) -> None:
    before = os.getcwd()
    os.chdir(d)  # socket paths have 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as caller:
            listener.bind("s")
            listener.listen()
            caller.connect("s")
            peer, _ = listener.accept()
            with peer:
                caller.sendall(b"hello")
                assert peer.recv(10) == b"hello"
        assert stat.S_ISSOCK(os.stat("s").st_mode)
    finally:
        os.chdir(before)


@case()
def device_nodes(d: Path) -> None:
    os.mknod(d / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(d / "block", stat.S_IFBLK | 0o600, os.makedev(259, 300))
    assert (d / "null").stat().st_rdev == os.makedev(1, 3)
    assert (d / "block").stat().st_rdev == os.makedev(259, 300)
    with opened(d / "null", os.O_RDWR) as fd:
        assert os.write(fd, b"x") == 1
        assert os.read(fd, 1) == b""


@case()
def mknod_makes_a_file(d: Path) -> None:
    os.mknod(d / "f", stat.S_IFREG | 0o640)
    assert stat.S_ISREG((d / "f").stat().st_mode)
    with refused(errno.EEXIST):
        os.mknod(d / "f", stat.S_IFREG | 0o640)


@case()
def unnamed_file(d: Path) -> None:
    with opened(d, os.O_TMPFILE | os.O_RDWR, 0o640) as fd:
        os.write(fd, b"unnamed")
        assert os.fstat(fd).st_nlink == 0
        assert names(d) == []
        with opened(d, os.O_PATH) as directory:  # os.link follows only beside a directory descriptor
            os.link(f"/proc/self/fd/{fd}", "named", dst_dir_fd=directory, follow_symlinks=True)
        assert os.fstat(fd).st_nlink == 1
    assert (d / "named").read_bytes() == b"unnamed"


# -- locks ------------------------------------------------------------------------------------------------------
@case(file_seed)
def flock(d: Path) -> None:
    with opened(d / "f", os.O_RDONLY) as one, opened(d / "f", os.O_RDONLY) as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        with refused(errno.EWOULDBLOCK):
            fcntl.flock(two, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(two, fcntl.LOCK_SH | fcntl.LOCK_NB)


@case(file_seed)
def record_locks(d: Path) -> None:
    os.chmod(d / "f", 0o666)

    def attempt() -> list[str]:
        with opened(Path("f"), os.O_RDWR) as fd:
            return [_tried(fd, 0), _tried(fd, 4)]

    with opened(d / "f", os.O_RDWR) as fd:
        fcntl.lockf(fd, fcntl.LOCK_EX, 2, 0)
        assert in_child(d, attempt) == "['held', 'got']"
    assert in_child(d, attempt) == "['got', 'got']"


def _tried(fd: int, start: int) -> str:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, start)
    except OSError:
        return "held"
    return "got"


# -- rights -----------------------------------------------------------------------------------------------------
@case(file_seed)
def rights_of_another_user(d: Path) -> None:
    os.chmod(d / "f", 0o640)
    assert as_nobody(d, lambda: os.close(os.open("f", os.O_RDONLY))) == "EACCES"
    assert as_nobody(d, lambda: (os.access("f", os.R_OK), os.access("f", os.F_OK))) == "(False, True)"
    os.chmod(d / "f", 0o604)
    assert as_nobody(d, lambda: os.close(os.open("f", os.O_RDONLY))) == "None"


@case(file_seed)
def another_users_files_are_his(d: Path) -> None:
    os.chmod(d, 0o777)

    def make() -> None:
        os.mknod("mine")
        os.mkdir("dir")
        os.symlink("mine", "link")

    assert as_nobody(d, make) == "None"
    assert {(d / name).lstat().st_uid for name in ("mine", "dir", "link")} == {NOBODY}
    assert {(d / name).lstat().st_gid for name in ("mine", "dir", "link")} == {NOBODY}


@case(file_seed)
def sticky_directory(d: Path) -> None:
    os.chmod(d, 0o1777)
    assert as_nobody(d, lambda: os.unlink("f")) in {"EPERM", "EACCES"}
    assert names(d) == ["f"]


# -- listings ---------------------------------------------------------------------------------------------------
def many_seed(d: Path) -> None:
    (d / "many").mkdir()
    for number in range(400):
        (d / f"many/file-{number:04}").write_bytes(b"")


@case(many_seed)
def listing_while_entries_go(d: Path) -> None:
    seen = []
    with os.scandir(d / "many") as entries:
        for position, entry in enumerate(entries):
            seen.append(entry.name)
            if position == 5:
                for number in range(0, 400, 2):
                    (d / f"many/file-{number:04}").unlink()
                (d / "many/added").write_bytes(b"")
    assert len(seen) == len(set(seen))
    assert {f"file-{number:04}" for number in range(1, 400, 2)} <= set(seen)
    assert names(d / "many") == ["added", *(f"file-{number:04}" for number in range(1, 400, 2))]


@case(many_seed)
def listing_is_complete_and_typed(d: Path) -> None:
    (d / "many/dir").mkdir()
    (d / "many/link").symlink_to("x")
    with os.scandir(d / "many") as entries:
        found = {e.name: (e.is_dir(follow_symlinks=False), e.is_symlink(), e.inode()) for e in entries}
    assert len(found) == 402
    assert found["dir"][:2] == (True, False)
    assert found["link"][:2] == (False, True)
    for name in ("dir", "link", "file-0001"):
        assert found[name][2] == (d / "many" / name).lstat().st_ino
    assert subprocess.run(["ls", "-a", d / "many"], capture_output=True, check=True).stdout.split()[:2] == [b".", b".."]


@case(many_seed)
def directory_emptied(d: Path) -> None:
    with opened(d / "many", os.O_RDONLY | os.O_DIRECTORY) as fd:
        for name in os.listdir(fd):
            os.unlink(name, dir_fd=fd)
        assert os.listdir(fd) == []
    os.rmdir(d / "many")
    assert names(d) == []


@case(tree_seed)
def working_directory(d: Path) -> None:
    before = os.getcwd()
    os.chdir(d / "t/sub")
    try:
        assert os.getcwd() == os.path.realpath(d / "t/sub")
        os.chdir("..")
        assert os.path.samefile(".", d / "t")
    finally:
        os.chdir(before)


# -- at random --------------------------------------------------------------------------------------------------
@case(file_seed)
def random_operations_on_one_file(d: Path) -> None:
    """A small fsx: reads, writes, mapped writes, truncations and holes against a model in memory."""
    chance = random.Random(7)
    model = bytearray(b"0123456789")
    most = 200_000
    with opened(d / "f", os.O_RDWR) as fd:
        for _ in range(300):
            at, size = chance.randrange(most), chance.randrange(1, 20_000)
            match chance.randrange(6):
                case 0 | 1:
                    data = chance.randbytes(size)
                    os.pwrite(fd, data, at)
                    model.extend(bytes(max(0, at + size - len(model))))
                    model[at : at + size] = data
                case 2 | 3:
                    assert os.pread(fd, size, at) == model[at : at + size]
                case 4:
                    os.ftruncate(fd, at)
                    del model[at:]
                    model.extend(bytes(at - len(model)))
                case _ if model:
                    at %= len(model)
                    data = chance.randbytes(min(size, len(model) - at))
                    with mmap.mmap(fd, len(model)) as mapped:
                        assert mapped[:] == model
                        mapped[at : at + len(data)] = data
                    model[at : at + len(data)] = data
            assert os.fstat(fd).st_size == len(model)
    assert (d / "f").read_bytes() == model
