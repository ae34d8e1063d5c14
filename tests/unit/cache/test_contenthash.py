"""What changes the hash of a selection of files and what doesn't."""

import os
import socket
import stat

import pytest

from cache import contenthash, hosttree
from cache.contenthash import fingerprint


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "a").write_bytes(b"alpha")
    (root / "sub" / "b").write_bytes(b"beta")
    (root / "sub" / "deep" / "c").write_bytes(b"")
    os.symlink("a", root / "link")
    os.mkfifo(root / "fifo")
    os.link(root / "a", root / "sub" / "hard")
    return root


def digest(root, **options):
    return fingerprint(hosttree.walk(os.fsencode(root), **options)).digest


def _replace(path, content):
    path.unlink()
    path.write_bytes(content)


CHANGES = {
    "content": lambda root: (root / "a").write_bytes(b"alphA"),
    "size": lambda root: (root / "a").write_bytes(b"alpha\0"),
    "mode": lambda root: (root / "a").chmod(0o600),
    "setuid": lambda root: (root / "a").chmod(0o4644),
    "directory mode": lambda root: (root / "sub").chmod(0o700),
    "owner": lambda root: os.chown(root / "a", 1, -1),
    "group": lambda root: os.chown(root / "a", -1, 1),
    "link owner": lambda root: os.lchown(root / "link", 1, 1),
    "name": lambda root: (root / "a").rename(root / "a2"),
    "new file": lambda root: (root / "new").touch(),
    "new directory": lambda root: (root / "new").mkdir(),
    "removed file": lambda root: (root / "sub" / "b").unlink(),
    "removed directory": lambda root: ((root / "sub/deep/c").unlink(), (root / "sub/deep").rmdir()),
    "moved": lambda root: (root / "sub" / "b").rename(root / "b"),
    "link target": lambda root: ((root / "link").unlink(), os.symlink("b", root / "link")),
    "link becomes file": lambda root: _replace(root / "link", b"a"),
    "fifo becomes file": lambda root: _replace(root / "fifo", b""),
    "hard link broken": lambda root: _replace(root / "sub" / "hard", b"alpha"),
    "user attribute": lambda root: os.setxattr(root / "a", "user.x", b"1"),
    "empty attribute": lambda root: os.setxattr(root / "a", "user.x", b""),
    "trusted attribute": lambda root: os.setxattr(root / "a", "trusted.x", b"1"),
    "directory attribute": lambda root: os.setxattr(root / "sub", "user.x", b"1"),
    "capability": lambda root: os.setxattr(
        root / "a", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")
    ),
    "device": lambda root: ((root / "fifo").unlink(), os.mknod(root / "fifo", stat.S_IFCHR | 0o644, os.makedev(1, 3))),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_included_attribute_changes_the_hash(tree, name):
    before = digest(tree)
    CHANGES[name](tree)
    assert digest(tree) != before


def test_device_numbers_count(tmp_path):
    digests = set()
    for number, (kind, minor) in enumerate([(stat.S_IFCHR, 3), (stat.S_IFCHR, 5), (stat.S_IFBLK, 3)]):
        root = tmp_path / str(number)
        root.mkdir()
        os.mknod(root / "device", kind | 0o600, os.makedev(1, minor))
        digests.add(digest(root))
    assert len(digests) == 3


UNCHANGED = {
    "mtime": lambda root: os.utime(root / "a", (1, 1)),
    "directory mtime": lambda root: os.utime(root / "sub", (1, 1)),
    "inode": lambda root: ((root / "sub" / "b").unlink(), (root / "sub" / "b").write_bytes(b"beta")),
    "size of the directory": lambda root: [((root / f"x{n}").touch(), (root / f"x{n}").unlink()) for n in range(300)],
    "security attribute": lambda root: os.setxattr(root / "a", "security.other", b"1"),
    "attributes of the root": lambda root: root.chmod(0o700),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_what_is_left_out(tree, name):
    before = digest(tree)
    UNCHANGED[name](tree)
    assert digest(tree) == before


def test_the_place_of_the_tree_does_not_count(tree, tmp_path):
    before = digest(tree)
    tree.rename(tmp_path / "elsewhere")
    assert digest(tmp_path / "elsewhere") == before


def test_owners_of_a_context_are_zero(tree):
    before = digest(tree, owner=(0, 0))
    os.chown(tree / "a", 12, 34)
    os.chown(tree / "sub", 12, 34)
    assert digest(tree, owner=(0, 0)) == before


def test_the_prefix_counts(tree):
    assert digest(tree) != digest(tree, prefix=b"x/")


def test_names_that_are_not_utf8(tmp_path):
    root = os.fsencode(tmp_path)
    with open(root + b"/\xff\xfe", "wb"):
        pass
    one = digest(root)
    os.rename(root + b"/\xff\xfe", root + b"/\xff\xfd")
    assert digest(root) != one


def test_counts(tree):
    found = fingerprint(hosttree.walk(os.fsencode(tree)))
    assert (found.entries, found.size_bytes) == (8, 5 + 5 + 4)


def test_nothing_is_not_something(tmp_path):
    (tmp_path / "empty").mkdir()
    nothing = digest(tmp_path / "empty")
    assert nothing == fingerprint(()).digest
    assert digest(tmp_path) != nothing


def test_batches_make_no_difference(tree):
    digests = {fingerprint(hosttree.walk(os.fsencode(tree)), batch=size).digest for size in (1, 2, 3, 1000)}
    assert len(digests) == 1


def test_large_files_are_read_in_threads_with_the_same_result(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode() * (5 << 20))
    assert digest(tmp_path) == fingerprint(hosttree.walk(os.fsencode(tmp_path)), batch=1).digest


def test_a_socket_counts_as_itself(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        one = digest(tmp_path)
    (tmp_path / "s").unlink()
    (tmp_path / "s").touch()
    assert digest(tmp_path) != one


def test_check_ends_the_work(tree):
    def check():
        raise InterruptedError("ended")

    with pytest.raises(InterruptedError, match="ended"):
        fingerprint(hosttree.walk(os.fsencode(tree)), check=check)


def test_an_exchanged_file_is_refused(tree, tmp_path):
    (entry,) = [entry for entry in hosttree.walk(os.fsencode(tree)) if entry.path == b"a"]
    (tmp_path / "secret").write_bytes(b"secret")
    (tree / "a").unlink()
    os.symlink(tmp_path / "secret", tree / "a")
    with pytest.raises(OSError, match="symbolic links"):
        entry.open()
    (tree / "a").unlink()
    os.link(tmp_path / "secret", tree / "a")
    with pytest.raises(OSError, match="exchanged"):
        entry.open()


def test_visit_selects_and_enters(tree):
    seen = []

    def visit(path, directory):
        seen.append((path, directory))
        return path != b"sub", path != b"sub/deep"

    taken = [entry.path for entry in hosttree.walk(os.fsencode(tree), visit=visit)]
    assert taken == [b"a", b"fifo", b"link", b"sub", b"sub/b", b"sub/deep", b"sub/hard"]
    assert (b"sub", True) in seen
    assert (b"sub/deep/c", False) not in seen


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        ([], []),
        ([b"sub/deep/c"], [b"sub", b"sub/deep", b"sub/deep/c"]),
        ([b"sub/b", b"sub/deep/c"], [b"sub", b"sub/b", b"sub/deep", b"sub/deep/c"]),
        ([b"a", b"sub/hard"], [b"a", b"sub", b"sub/hard"]),
    ],
)
def test_a_directory_comes_when_something_in_it_is_taken(tree, wanted, taken):
    entries = hosttree.walk(os.fsencode(tree), visit=lambda path, directory: (path in wanted, directory))
    assert [entry.path for entry in entries] == taken


@pytest.mark.parametrize(
    ("name", "carried"),
    [
        ("user.a", True),
        ("trusted.a", True),
        ("security.capability", True),
        ("security.selinux", False),
        ("system.posix_acl_access", False),
    ],
)
def test_carried_attributes(name, carried):
    assert contenthash.carried_xattr(name) is carried
