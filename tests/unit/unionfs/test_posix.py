"""What a plain filesystem does, the union does: one suite, run on a plain directory and on unions of both forms."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

import pytest

from harness.abilities import missing_for_owners
from harness.paths import Paths, PlainPaths, UnionPaths
from unionfs.types import WhiteoutForm

NOREPLACE, EXCHANGE = 1, 2

# what is there before each test, on the lower branch of a union
FILES = {"f": "content of f", "g": "content of g", "d/x": "x", "d/e/y": "y", "full/z": "z"}


@pytest.fixture(params=["plain", "aufs", "overlay", "aufs-kept"])
def fs(request: pytest.FixtureRequest, stand, tmp_path) -> Iterator[Paths]:
    plain = request.param == "plain"
    if plain:
        stand.roots[1] = tmp_path / "plain"
    for path, content in FILES.items():
        stand.put(1, path, content)
    stand.put(1, "empty", None)
    (stand.roots[1] / "link").symlink_to("f")
    os.link(stand.roots[1] / "f", stand.roots[1] / "hard")
    if plain:
        yield PlainPaths(stand.roots[1])
        stand.roots[1] = stand.base / "b1"
        return
    form = WhiteoutForm(request.param.removesuffix("-kept"))
    paths = UnionPaths(stand.union(whiteouts=form), forgetful=not request.param.endswith("-kept"))
    yield paths
    paths.forget_all()


@pytest.fixture
def refused():
    """``with refused("ENOENT"):``: the errno a plain filesystem answers with."""

    class Refused:
        def __init__(self, *names: str) -> None:
            self.names = names

        def __enter__(self) -> None: ...

        def __exit__(self, kind, error, trace) -> bool:
            assert isinstance(error, OSError), f"expected {self.names}"
            assert errno.errorcode[error.errno] in self.names
            return True

    return Refused


def test_what_is_there_shows(fs):
    assert fs.list(b"") == [b"d", b"empty", b"f", b"full", b"g", b"hard", b"link"]
    assert fs.read(b"d/e/y") == b"y"
    assert fs.readlink(b"link") == b"f"
    assert fs.stat(b"f").nlink == 2
    assert fs.ino(b"f") == fs.ino(b"hard")


def test_number_of_links_of_a_directory_counts_its_directories(fs):
    assert fs.stat(b"d").nlink == 3
    fs.mkdir(b"d/new")
    assert fs.stat(b"d").nlink == 4
    fs.rename(b"d/new", b"empty/new")
    assert (fs.stat(b"d").nlink, fs.stat(b"empty").nlink) == (3, 3)
    fs.rmdir(b"empty/new")
    assert fs.stat(b"empty").nlink == 2


def test_files_are_written_appended_truncated(fs):
    fs.write(b"f", b"CON", 0)
    assert fs.read(b"f") == b"CONtent of f"
    assert fs.read(b"hard") == b"CONtent of f"
    fs.append(b"f", b"!")
    assert fs.read(b"f") == b"CONtent of f!"
    fs.truncate(b"f", 3)
    assert fs.read(b"f") == b"CON"
    fs.truncate(b"f", 5)
    assert fs.read(b"f") == b"CON\0\0"
    fs.write(b"f", b"new")
    assert fs.read(b"hard") == b"new"


def test_inode_numbers_and_links_survive_every_change(fs):
    before = fs.ino(b"f"), fs.ino(b"d"), fs.ino(b"g")
    fs.append(b"f", b"!")
    fs.chmod(b"g", 0o600)
    fs.write(b"d/new", b"")
    assert (fs.ino(b"f"), fs.ino(b"d"), fs.ino(b"g")) == before
    assert fs.ino(b"hard") == fs.ino(b"f")
    assert fs.stat(b"hard").nlink == 2
    fs.rename(b"d", b"D")
    assert fs.ino(b"D") == before[1]


def test_links_count_names(fs):
    fs.link(b"f", b"third")
    assert {fs.stat(name).nlink for name in (b"f", b"hard", b"third")} == {3}
    fs.unlink(b"f")
    assert {fs.stat(name).nlink for name in (b"hard", b"third")} == {2}
    fs.append(b"hard", b"!")
    assert fs.read(b"third") == b"content of f!"
    fs.unlink(b"third")
    assert fs.stat(b"hard").nlink == 1
    assert fs.read(b"hard") == b"content of f!"


def test_names_are_made_with_the_mode_that_was_asked_for(fs):
    mask = os.umask(0)
    try:
        fs.write(b"new", b"", mode=0o666)
        fs.mkdir(b"newdir", 0o777)
        fs.mknod(b"fifo", stat.S_IFIFO | 0o622)
        fs.mknod(b"plain", stat.S_IFREG | 0o604)
        fs.mknod(b"socket", stat.S_IFSOCK | 0o600)
    finally:
        os.umask(mask)
    assert fs.stat(b"new").mode == stat.S_IFREG | 0o666
    assert fs.stat(b"newdir").mode == stat.S_IFDIR | 0o777
    assert fs.stat(b"fifo").mode == stat.S_IFIFO | 0o622
    assert fs.stat(b"plain").mode == stat.S_IFREG | 0o604
    assert fs.stat(b"socket").mode == stat.S_IFSOCK | 0o600


@pytest.mark.root("makes devices")
def test_devices(fs):
    fs.mknod(b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    fs.mknod(b"disk", stat.S_IFBLK | 0o660, os.makedev(7, 9))
    assert fs.stat(b"null").rdev == os.makedev(1, 3)
    assert fs.stat(b"disk").rdev == os.makedev(7, 9)


def test_what_exists_cannot_be_made(fs, refused):
    for name in (b"f", b"d", b"link"):
        with refused("EEXIST"):
            fs.mkdir(name)
        with refused("EEXIST"):
            fs.symlink(b"x", name)
        with refused("EEXIST"):
            fs.mknod(name, stat.S_IFIFO | 0o600)
        with refused("EEXIST"):
            fs.link(b"g", name)
    with refused("EEXIST"):
        fs.write(b"f", b"", os.O_CREAT | os.O_EXCL)


def test_what_is_not_there_cannot_be_had(fs, refused):
    for call in (fs.stat, fs.read, fs.unlink, fs.rmdir, fs.readlink, fs.list):
        with refused("ENOENT"):
            call(b"nothing")
        with refused("ENOENT"):
            call(b"nothing/below")
    with refused("ENOENT"):
        fs.rename(b"nothing", b"f")
    with refused("ENOTDIR"):
        fs.mkdir(b"f/below")


def test_names_are_at_most_255_bytes(fs, refused):
    fs.write(b"n" * 255, b"x")
    assert fs.read(b"n" * 255) == b"x"
    for call in (lambda: fs.mkdir(b"n" * 256), lambda: fs.stat(b"n" * 256), lambda: fs.rename(b"f", b"n" * 256)):
        with refused("ENAMETOOLONG"):
            call()


def test_names_are_bytes(fs):
    for name in (b"\xff\xfe", b"new\nline", b" ", b"-rf", "ünïcode".encode(), b".hidden", b"..."):
        fs.write(name, name)
        assert fs.read(name) == name
        assert name in fs.list(b"")
        fs.unlink(name)
        assert name not in fs.list(b"")


def test_unlink_and_rmdir(fs, refused):
    fs.unlink(b"f")
    with refused("ENOENT"):
        fs.stat(b"f")
    with refused("ENOTEMPTY", "EEXIST"):
        fs.rmdir(b"full")
    fs.unlink(b"full/z")
    fs.rmdir(b"full")
    fs.rmdir(b"empty")
    with refused("EISDIR", "EPERM"):
        fs.unlink(b"d")
    with refused("ENOTDIR"):
        fs.rmdir(b"g")
    assert fs.list(b"") == [b"d", b"g", b"hard", b"link"]


def test_what_was_removed_can_be_made_again(fs):
    fs.unlink(b"f")
    fs.write(b"f", b"again")
    fs.unlink(b"full/z")
    fs.rmdir(b"full")
    fs.mkdir(b"full")
    assert fs.read(b"f") == b"again"
    assert fs.list(b"full") == []
    fs.unlink(b"g")
    fs.mkdir(b"g")
    fs.write(b"g/inside", b"")
    fs.rmdir(b"empty")
    fs.symlink(b"there", b"empty")
    assert fs.list(b"g") == [b"inside"]
    assert fs.readlink(b"empty") == b"there"


def test_files_are_renamed(fs):
    fs.rename(b"f", b"new")
    assert fs.read(b"new") == b"content of f"
    assert b"f" not in fs.list(b"")
    fs.rename(b"new", b"g")
    assert fs.read(b"g") == b"content of f"
    fs.rename(b"g", b"d/e/deep")
    assert fs.read(b"d/e/deep") == b"content of f"
    fs.rename(b"link", b"d/link")
    assert fs.readlink(b"d/link") == b"f"
    assert fs.list(b"") == [b"d", b"empty", b"full", b"hard"]


def test_two_names_of_one_file_are_not_renamed_over_each_other(fs):
    fs.rename(b"f", b"hard")
    assert fs.stat(b"f").nlink == 2
    assert fs.read(b"hard") == b"content of f"


def test_directories_are_renamed_with_all_in_them(fs):
    fs.write(b"d/upper", b"upper")
    fs.unlink(b"d/x")
    fs.rename(b"d", b"D")
    assert fs.list(b"D") == [b"e", b"upper"]
    assert fs.read(b"D/e/y") == b"y"
    assert b"d" not in fs.list(b"")
    fs.mkdir(b"d")
    assert fs.list(b"d") == []
    fs.rename(b"D", b"d")
    assert fs.list(b"d/e") == [b"y"]
    fs.rename(b"d", b"empty")
    assert fs.list(b"empty") == [b"e", b"upper"]
    fs.rename(b"empty/e", b"full/e")
    assert fs.read(b"full/e/y") == b"y"
    assert fs.list(b"empty") == [b"upper"]


def test_renames_that_cannot_be(fs, refused):
    with refused("ENOTEMPTY", "EEXIST"):
        fs.rename(b"d", b"full")
    with refused("ENOTDIR"):
        fs.rename(b"d", b"f")
    with refused("EISDIR"):
        fs.rename(b"f", b"empty")
    with refused("EINVAL"):
        fs.rename(b"d", b"d/e/inside")
    with refused("EEXIST"):
        fs.rename(b"f", b"g", NOREPLACE)
    with refused("ENOENT"):
        fs.rename(b"f", b"nothing", EXCHANGE)
    with refused("EINVAL"):
        fs.rename(b"f", b"g", NOREPLACE | EXCHANGE)
    fs.rename(b"f", b"new", NOREPLACE)
    assert fs.read(b"new") == b"content of f"


@pytest.mark.parametrize(
    ("one", "other"), [(b"f", b"g"), (b"f", b"d"), (b"d", b"full"), (b"d/e", b"empty"), (b"link", b"d/x")]
)
def test_names_are_exchanged(fs, one, other):
    def kind(path):
        mode = fs.stat(path).mode
        if stat.S_ISDIR(mode):
            return fs.list(path)
        return fs.readlink(path) if stat.S_ISLNK(mode) else fs.read(path)

    before = kind(one), kind(other)
    fs.rename(one, other, EXCHANGE)
    assert (kind(other), kind(one)) == before


def test_times(fs):
    fs.utime(b"f", 1_000_000_001, 2_000_000_002)
    assert fs.stat(b"f").mtime_ns == 2_000_000_002
    fs.utime(b"d", 1, 3_000_000_003)
    assert fs.stat(b"d").mtime_ns == 3_000_000_003
    fs.utime(b"link", 1, 4_000_000_004)
    assert fs.stat(b"link").mtime_ns == 4_000_000_004
    fs.chmod(b"d/x", 0o600)
    fs.append(b"d/x", b"x")
    assert fs.stat(b"d").mtime_ns == 3_000_000_003
    fs.write(b"d/new", b"")
    assert fs.stat(b"d").mtime_ns > 3_000_000_003
    fs.utime(b"d", 1, 5)
    fs.unlink(b"d/x")
    assert fs.stat(b"d").mtime_ns > 5


@pytest.mark.owners("gives files away")
def test_owners(fs):
    fs.chmod(b"f", 0o6755)
    fs.chown(b"f", 5, 6)
    status = fs.stat(b"f")
    assert (status.uid, status.gid, status.mode & 0o7777) == (5, 6, 0o755)
    fs.chown(b"link", 7, 8)
    assert (fs.stat(b"link").uid, fs.stat(b"f").uid) == (7, 5)
    fs.chown(b"d", 9, 10)
    assert fs.stat(b"d").gid == 10


def test_setgid_directories_pass_their_group_on(fs):
    fs.chmod(b"d", 0o2775)
    if missing_for_owners() is None:
        fs.chown(b"d", 0, 77)
        fs.chmod(b"d", 0o2775)
    fs.write(b"d/new", b"")
    fs.mkdir(b"d/sub")
    gid = fs.stat(b"d").gid
    assert fs.stat(b"d/new").gid == gid
    assert fs.stat(b"d/sub").gid == gid
    assert fs.stat(b"d/sub").mode & stat.S_ISGID


def test_extended_attributes(fs, refused):
    for path in (b"f", b"d"):
        fs.setxattr(path, b"user.one", b"1")
        fs.setxattr(path, b"user.two", b"")
        assert fs.listxattr(path) == [b"user.one", b"user.two"]
        assert fs.getxattr(path, b"user.one") == b"1"
        with refused("EEXIST"):
            fs.setxattr(path, b"user.one", b"x", os.XATTR_CREATE)
        with refused("ENODATA"):
            fs.setxattr(path, b"user.three", b"x", os.XATTR_REPLACE)
        fs.removexattr(path, b"user.one")
        assert fs.listxattr(path) == [b"user.two"]
        with refused("ENODATA"):
            fs.getxattr(path, b"user.one")
        with refused("ENODATA"):
            fs.removexattr(path, b"user.one")


def test_a_path_longer_than_path_max(fs):
    deep = b"empty"
    parts = []
    for _ in range(24 if isinstance(fs, UnionPaths) else 12):
        deep += b"/" + b"p" * 200
        fs.mkdir(deep)
        parts.append(deep)
    fs.write(deep + b"/f", b"deep")
    fs.symlink(b"t", deep + b"/l")
    fs.setxattr(deep + b"/f", b"user.x", b"1")
    fs.rename(deep + b"/f", deep + b"/g")
    assert fs.read(deep + b"/g") == b"deep"
    assert fs.list(deep) == [b"g", b"l"]
    fs.unlink(deep + b"/g")
    fs.unlink(deep + b"/l")
    for path in reversed(parts):
        fs.rmdir(path)
    assert fs.list(b"empty") == []
