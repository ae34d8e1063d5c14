"""An image's files, merged from branches in this process."""

import contextlib
import os
import stat

import pytest

from builder.identities import ResolvedUser, UnknownIdentityError
from builder.rootfs import RootFs, open_root
from cache import filedigests
from cache.contenthash import fingerprint
from cache.records import BuildCache
from unionfs.branch import Branch, BranchStack
from unionfs.errors import BranchMissingError
from unionfs.types import Access
from unionfs.union import Union


def make(root, files):
    """``files``: path to content (bytes), link target (str), None for a directory."""
    root.mkdir(exist_ok=True)
    for path, content in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            place.mkdir(exist_ok=True)
        elif isinstance(content, str):
            os.symlink(content, place)
        else:
            place.write_bytes(content)
    return root


@pytest.fixture
def branches(tmp_path):
    bottom = make(
        tmp_path / "bottom",
        {
            "etc/passwd": b"root:x:0:0::/root:\napp:x:5:6::/home/app:\n",
            "etc/group": b"wheel:x:10:app\n",
            "etc/hidden": b"hidden",
            "usr/lib/a": b"a",
            "lib": "usr/lib",
            "gone/x": b"x",
            "abs": "/usr/lib",
            "loop": "loop",
            "out": "../../../../etc/passwd",
            "dangling": "nothing",
        },
    )
    top = make(
        tmp_path / "top",
        {"etc/.wh.hidden": b"", ".wh.gone": b"", "usr/lib/b": b"b", "usr/lib/a": b"new"},
    )
    return [top, bottom]


@pytest.fixture
def root(branches):
    with open_root(branches) as made:
        yield made


def test_branches_are_merged(root):
    assert root.names(b"usr/lib") == [b"a", b"b"]
    assert root.names(b"") == [b"abs", b"dangling", b"etc", b"lib", b"loop", b"out", b"usr"]
    assert root.read_file("/usr/lib/a") == b"new"
    assert root.read_file("etc/hidden") is None
    assert root.lstat(b"gone") is None
    assert root.lstat(b"gone/x") is None
    assert root.lstat(b"usr/lib/a/below") is None


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/lib/a", b"new"),
        ("/abs/b", b"b"),
        ("/out", b"root:x:0:0::/root:\napp:x:5:6::/home/app:\n"),
        ("/../../usr/./lib//b", b"b"),
        ("/dangling", None),
        ("/usr/lib/none", None),
    ],
)
def test_links_are_followed_inside(root, path, content):
    assert root.read_file(path) == content


def test_resolve(root):
    assert root.resolve("/lib/new/file") == b"usr/lib/new/file"
    assert root.resolve("/lib", last=False) == b"lib"
    assert root.find("/lib").location == b"usr/lib"
    assert root.readlink(b"lib") == b"usr/lib"


def test_a_loop_is_an_error(root):
    with pytest.raises(OSError, match="Too many levels"):
        root.find("/loop/x")


def test_what_is_no_file_or_too_large(root):
    with pytest.raises(OSError, match="expected a regular file"):
        root.read_file("/usr")
    with pytest.raises(OSError, match="expected at most 2 bytes, got 3"):
        root.read_file("/usr/lib/a", 2)


def test_walk(root):
    found = [(entry.path, stat.S_IFMT(entry.mode)) for entry in root.walk(b"usr", b"x/")]
    assert found == [(b"x/lib", stat.S_IFDIR), (b"x/lib/a", stat.S_IFREG), (b"x/lib/b", stat.S_IFREG)]
    pruned = [entry.path for entry in root.walk(b"", b"", lambda path, directory: (path == b"usr/lib/b", directory))]
    assert pruned == [b"usr", b"usr/lib", b"usr/lib/b"]


def test_entries_know_metadata_links_and_attributes(branches, root):
    bottom = branches[1]
    os.chown(bottom / "usr/lib/a", 1, 2)
    os.setxattr(branches[0] / "usr/lib/a", "user.x", b"1")
    os.setxattr(branches[0] / "usr/lib/a", "security.other", b"1")
    os.link(branches[0] / "usr/lib/b", branches[0] / "usr/lib/c")
    entries = {entry.path: entry for entry in root.walk(b"usr/lib")}
    assert entries[b"a"].xattrs() == ((b"user.x", b"1"),)
    assert dict(root.every_xattr(b"usr/lib/a"))[b"security.other"] == b"1"
    assert entries[b"b"].nlink == 2
    assert entries[b"b"].file_id == entries[b"c"].file_id
    assert entries[b"b"].file_id != entries[b"a"].file_id
    with open(entries[b"a"].open(), "rb") as file:
        assert file.read() == b"new"


def test_users(root):
    assert root.resolve_user("app") == ResolvedUser(5, 6, (10,), "/home/app")
    assert root.resolve_owner("app:wheel") == (5, 10)
    assert root.resolve_owner("7") == (7, 7)
    with pytest.raises(UnknownIdentityError):
        root.resolve_user("nobody")


def test_users_without_files(tmp_path):
    with open_root([make(tmp_path / "empty", {})]) as root:
        assert root.resolve_user("12") == ResolvedUser(12, 0, (), "/")


def test_no_branches_are_no_root():
    with open_root([]) as root:
        assert root is None


def test_a_missing_branch_is_an_error(tmp_path):
    with pytest.raises(BranchMissingError), open_root([tmp_path / "none"]):
        pass


def test_a_file_without_a_descriptor_of_its_own_is_read_through_the_union(branches, monkeypatch):
    monkeypatch.setattr(Union, "backing_fd", lambda _self, _handle: None)
    with open_root(branches) as root:
        assert root.read_file("/usr/lib/a") == b"new"


def test_nodes_are_given_back(branches):
    union = Union(BranchStack(tuple(Branch(os.fsencode(path), Access.RO) for path in branches)))
    counts = {}
    lookup, forget = union.lookup, union.forget

    def counting_lookup(parent, name, caller):
        attr = lookup(parent, name, caller)
        counts[attr.ino] = counts.get(attr.ino, 0) + 1
        return attr

    def counting_forget(ino, count):
        counts[ino] -= count
        forget(ino, count)

    union.lookup, union.forget = counting_lookup, counting_forget
    with RootFs(union) as root:
        for entry in root.walk(b""):
            entry.xattrs()
        root.read_file("/lib/a")
        assert sum(counts.values()) <= 3
    assert set(counts.values()) == {0}
    union.close()


def test_nothing_is_written(branches, root):
    before = sorted(path for branch in branches for path in branch.rglob("*"))
    root.read_file("/lib/a")
    root.resolve("/new/file")
    assert sorted(path for branch in branches for path in branch.rglob("*")) == before


class TestStates:
    """Which file on disk is shown: what was read of it once need not be read again."""

    def states(self, root):
        return {
            entry.path: entry.state and (entry.state.device, entry.state.inode)
            for entry in root.walk(b"")
            if stat.S_ISREG(entry.mode)
        }

    def test_the_file_that_shows_is_named(self, root, branches):
        top, bottom = branches
        shown = {"etc/passwd": bottom, "etc/group": bottom, "usr/lib/a": top, "usr/lib/b": top}
        found = {path: os.stat(branch / path) for path, branch in shown.items()}
        assert self.states(root) == {path.encode(): (status.st_dev, status.st_ino) for path, status in found.items()}

    @pytest.mark.parametrize("mark", [".wh..wh..opq", ".wh.a"])
    def test_no_mark_hides_the_wrong_file(self, tmp_path, branches, mark):
        middle = make(tmp_path / "middle", {f"usr/lib/{mark}": b""})
        upper = make(tmp_path / "upper", {"usr/lib/a": b"newest"})
        with open_root([upper, middle, *branches]) as root:
            status = os.stat(upper / "usr/lib/a")
            assert self.states(root)[b"usr/lib/a"] == (status.st_dev, status.st_ino)

    def test_a_directory_that_was_a_link_below(self, tmp_path, branches):
        upper = make(tmp_path / "upper", {"lib/a": b"of the directory"})
        with open_root([upper, *branches]) as root:
            status = os.stat(upper / "lib/a")
            assert self.states(root)[b"lib/a"] == (status.st_dev, status.st_ino)

    def test_a_second_hash_reads_nothing(self, root, branches, tmp_path, monkeypatch):
        for branch in branches:
            for path in branch.rglob("*"):
                os.utime(path, (1, 1), follow_symlinks=False)
        monkeypatch.setattr(filedigests, "RACY_NS", 0)
        with BuildCache(tmp_path / "store", warn=pytest.fail) as cache:
            one = fingerprint(root.walk(b""), cache.files)
            monkeypatch.setattr(RootFs, "open_file", lambda *_: pytest.fail("a file was read"))
            assert fingerprint(root.walk(b""), cache.files) == one

    def test_a_root_that_may_change_tells_nothing(self, branches):
        union = Union(BranchStack(tuple(Branch(os.fsencode(path), Access.RO) for path in branches)))
        with contextlib.closing(union), RootFs(union) as root:
            assert set(self.states(root).values()) == {None}


def test_open_file_is_the_file_itself_however_small(tmp_path):
    # its attributes are those that a copy carries
    make(tmp_path / "one", {"small": b"s", "large": b"l" * 100_000})
    for name in ("small", "large"):
        os.setxattr(tmp_path / "one" / name, "user.kept", b"1")
    with open_root([tmp_path / "one"]) as root:
        for name in (b"small", b"large"):
            fd = root.open_file(name)
            try:
                assert os.fstat(fd).st_ino == os.stat(tmp_path / "one" / os.fsdecode(name)).st_ino
                assert os.listxattr(fd) == ["user.kept"]
            finally:
                os.close(fd)
