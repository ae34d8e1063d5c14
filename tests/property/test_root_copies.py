"""Random work in a copied root: the branch made of it, over the branches it was copied from, shows what was left.

The copy itself is what the root shows; a second step in the same copy is told from the first one; and a copy of before
that is brought forward by the branches is what the steps left. What lies in a copy for the time of a step is in no branch,
whatever the step does to it, and what it covered is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.rootcopies.copying import bring_forward, lay_out, take_changes, take_inventory
from builder.rootcopies.furnishing import Furnishing
from builder.rootcopies.inventory import await_tick
from builder.rootfs import RootFs, open_root
from builder.sandbox.furnish import StageError
from builder.trail import ReservedNameError
from unionfs.removal import remove_tree

_PATHS = [b"a", b"b", b"a/a", b"a/b", b"b/a", b"b/c", b"a/b/c", b"b/c/a", b"n" * 255]
_XATTR = "user.mark"


class Seen(NamedTuple):
    """What can be told of a file; directories have no size."""

    mode: int
    owner: tuple[int, int]
    size: int
    mtime_ns: int
    content: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]


def _shown(root: RootFs) -> dict[bytes, Seen]:
    seen = {}
    for entry in root.walk(b""):
        content = b""
        if stat.S_ISREG(entry.mode):
            with open(entry.open(), "rb") as file:
                content = file.read()
        elif stat.S_ISLNK(entry.mode):
            content = entry.readlink()
        size = 0 if stat.S_ISDIR(entry.mode) else entry.size
        xattrs = root.every_xattr(entry.location)
        seen[entry.location] = Seen(entry.mode, (entry.uid, entry.gid), size, entry.mtime_ns, content, xattrs)
    return seen


def _merged(*branches: Path) -> dict[bytes, Seen]:
    with open_root(branches) as root:
        assert root is not None
        return _shown(root)


def _write(path: bytes, number: int) -> None:
    with open(path, "ab" if number % 2 else "wb", opener=_at_once) as file:
        file.write(b"x" * (number % 5))


def _at_once(path: str, flags: int) -> int:
    """A FIFO that nobody reads is refused, instead of waited for."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def _change_in_place(path: bytes, number: int) -> None:
    """As long as before, with the time it had: only the time of change tells."""
    status = os.stat(path)
    with open(path, "r+b") as file:
        file.write(b"%d" % (number % 10) * min(1, status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _remove(path: bytes, _number: int) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            _remove(path + b"/" + name, 0)
        os.rmdir(path)
    else:
        os.unlink(path)


def _rename(path: bytes, number: int) -> None:
    os.rename(path, os.path.join(path[: path.index(b"/tree/") + 6], _PATHS[number % len(_PATHS)]))


def _link(path: bytes, number: int) -> None:
    os.link(path, os.path.join(path[: path.index(b"/tree/") + 6], _PATHS[number % len(_PATHS)]), follow_symlinks=False)


_DOINGS: dict[str, Callable[[bytes, int], None]] = {
    "write": _write,
    "in place": _change_in_place,
    "mkdir": lambda path, _number: os.mkdir(path),
    "remove": _remove,
    "rename": _rename,
    "link": _link,
    "symlink": lambda path, number: os.symlink(b"t%d" % number, path),
    "fifo": lambda path, _number: os.mkfifo(path),
    "chmod": lambda path, number: os.chmod(path, 0o600 + number % 64),
    "chown": lambda path, number: os.chown(path, number % 3, number % 4, follow_symlinks=False),
    "touch": lambda path, number: os.utime(path, ns=(number, number), follow_symlinks=False),
    "setxattr": lambda path, number: os.setxattr(path, _XATTR, b"%d" % number, follow_symlinks=False),
}
_WORK = st.lists(st.tuples(st.sampled_from(sorted(_DOINGS)), st.sampled_from(_PATHS), st.integers(0, 200)), max_size=12)


def _do(tree: Path, work: list[tuple[str, bytes, int]]) -> None:
    for doing, path, number in work:
        with contextlib.suppress(OSError):
            _DOINGS[doing](os.fsencode(tree) + b"/" + path, number)


@pytest.mark.owners("gives files away")
@settings(max_examples=int(os.environ.get("ROOT_COPIES") or 60), deadline=None)
@given(st.lists(_WORK, min_size=2, max_size=4))
def test_a_branch_of_changes_shows_what_was_left(works: list[list[tuple[str, bytes, int]]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        branches = [place / "base"]
        tree = place / "tree"
        for made in (branches[0], tree):
            made.mkdir()
        first, *steps = works
        _do(tree, first)
        with open_root(branches) as root:
            assert root is not None
            before = take_changes(tree, take_inventory(branches[0]), root, _new(place / "first"))
        branches.insert(0, place / "first")
        copied = _new(place / "copy")
        with open_root(branches) as root:
            assert root is not None
            lay_out(root, copied)
        assert _merged(copied) == _merged(*branches)
        begun = list(branches)
        for number, work in enumerate(steps):
            await_tick(place / "probe", before.latest_ns)
            _do(tree, work)
            with open_root(branches) as root:
                assert root is not None
                before = take_changes(tree, before, root, _new(place / f"upper{number}"))
            branches.insert(0, place / f"upper{number}")
            assert _merged(*branches) == _merged(tree)
        with open_root(branches) as root:
            assert root is not None
            bring_forward(copied, branches[: -len(begun)], root)
        assert _merged(copied) == _merged(tree)


_OURS = b"what no image may hold"
_BEGINNING = [("mkdir", b"a", 0), ("mkdir", b"a/b", 0), ("write", b"a/b/c", 3), ("write", b"b", 3)]
_TARGETS = st.lists(st.tuples(st.sampled_from(_PATHS), st.booleans()), max_size=3, unique_by=lambda target: target[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@settings(max_examples=int(os.environ.get("ROOT_COPIES") or 60), deadline=None)
@given(_WORK, st.lists(st.tuples(_TARGETS, st.just([]) | _WORK), min_size=1, max_size=3))
def test_what_is_shown_to_a_step_leaves_no_trace(
    first: list[tuple[str, bytes, int]], steps: list[tuple[list[tuple[bytes, bool]], list[tuple[str, bytes, int]]]]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        base, tree = _new(place / "base"), _new(place / "tree")
        _do(base, [*_BEGINNING, *(one for one in first if one[0] not in {"rename", "link"})])
        branches = [base]
        _lay_out_again(branches, tree)
        before = take_inventory(tree)
        for number, (targets, work) in enumerate(steps):
            furnishing = Furnishing(tree, place / f"aside{number}")
            for target, is_directory in sorted(targets):
                _put(furnishing, place / "ours", target, is_directory=is_directory)
            furnishing.begin(before)
            await_tick(place / "probe", before.latest_ns)
            _do(tree, work)
            is_plain = furnishing.take_out(before)
            upper = _new(place / f"upper{number}")
            with open_root(branches) as root:
                assert root is not None
                before = take_changes(tree, before, root, upper, furnishing.inodes())
            furnishing.close()
            assert work or os.listdir(upper) == []
            branches.insert(0, upper)
            shown = _merged(*branches)
            assert not any(seen.content.startswith(_OURS) for seen in shown.values())
            if is_plain:
                assert shown == _merged(tree)
            else:
                _lay_out_again(branches, tree)
                before = take_inventory(tree)


def _lay_out_again(branches: list[Path], tree: Path) -> None:
    shutil.rmtree(tree)
    with open_root(branches) as root:
        assert root is not None
        lay_out(root, _new(tree))


def _put(furnishing: Furnishing, ours: Path, target: bytes, *, is_directory: bool) -> None:
    """A file, or a directory with one, is shown at ``target``, if there can be such a thing."""
    if is_directory:
        ours.mkdir()
    (ours / "in" if is_directory else ours).write_bytes(_OURS)
    try:
        furnishing.put(f"/{os.fsdecode(target)}", ours)
    except (OSError, StageError):
        remove_tree(ours)


def _new(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.mark.parametrize("name", [".wh.x", ".wh..wh..opq"])
def test_names_that_would_be_marks_are_refused(tmp_path: Path, name: str) -> None:
    base, tree = _new(tmp_path / "base"), _new(tmp_path / "tree")
    (base / "x").touch()
    with open_root([base]) as root:
        assert root is not None
        lay_out(root, tree)
        before = take_inventory(tree)
        (tree / name).touch()
        with pytest.raises(ReservedNameError, match="reserved"):
            take_changes(tree, before, root, _new(tmp_path / "upper"))


def _changed(place: Path, work: Callable[[Path], None]) -> Path:
    """The branch of what ``work`` does in a copy of a root in which ``a`` and ``b`` are names of one file."""
    base, tree, upper = _new(place / "base"), _new(place / "tree"), _new(place / "upper")
    (base / "a").write_text("1")
    os.link(base / "a", base / "b")
    with open_root([base]) as root:
        assert root is not None
        lay_out(root, tree)
        assert (tree / "a").samefile(tree / "b")
        before = take_inventory(tree)
        await_tick(place / "probe", before.latest_ns)
        work(tree)
        take_changes(tree, before, root, upper)
    return upper


def test_names_of_one_file_stay_names_of_one_file(tmp_path: Path) -> None:
    upper = _changed(tmp_path, lambda tree: os.link(tree / "a", tree / "c"))
    assert sorted(os.listdir(upper)) == ["a", "b", "c"]
    assert (upper / "a").samefile(upper / "c")
    assert (upper / "b").samefile(upper / "c")


def test_what_lost_a_name_alone_is_left_below(tmp_path: Path) -> None:
    upper = _changed(tmp_path, lambda tree: (tree / "a").unlink())
    assert os.listdir(upper) == [".wh.a"]
