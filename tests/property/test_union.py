"""The union against a plain directory: any operations, over any branches, give the same tree and the same errors."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.paths import Paths, PlainPaths, UnionPaths, tree
from unionfs.branch import Branch, BranchStack
from unionfs.types import Access, CreatePolicy, DeleteMode, UnionOptions, WhiteoutForm
from unionfs.union import Union

NAMES = (b"a", b"b", b"c")
PATHS = (
    *NAMES,
    *(x + b"/" + y for x in NAMES for y in NAMES),
    *(b"a/" + y + b"/" + z for y in NAMES for z in NAMES),
)
paths = st.sampled_from(PATHS)
contents = st.sampled_from((b"", b"x", b"hello world", b"y" * 5000))

# a branch: path → what stands there
kinds = st.sampled_from(("dir", "dir", "opaque", "file", "link", "whiteout", "device", "hidden file", "hidden dir"))
branches = st.dictionaries(paths, kinds, max_size=12)

operations = st.one_of(
    st.tuples(st.just("write"), paths, contents),
    st.tuples(st.just("append"), paths, contents),
    st.tuples(st.just("truncate"), paths, st.integers(0, 20)),
    st.tuples(st.just("mkdir"), paths),
    st.tuples(st.just("symlink"), st.just(b"target"), paths),
    st.tuples(st.just("link"), paths, paths),
    st.tuples(st.just("unlink"), paths),
    st.tuples(st.just("rmdir"), paths),
    st.tuples(st.just("rename"), paths, paths, st.sampled_from((0, 0, 0, 1, 2))),
    st.tuples(st.just("chmod"), paths, st.sampled_from((0o600, 0o755, 0o4711))),
    st.tuples(st.just("chown"), paths, st.just(7), st.just(8)),
    st.tuples(st.just("setxattr"), paths, st.just(b"user.x"), contents.map(lambda value: value[:20])),
)


def make_branch(root: Path, entries: dict[bytes, str]) -> None:
    """The branch on disk; what cannot stand beside what is there already is left out."""
    root.mkdir()
    for path in sorted(entries):
        place = root / os.fsdecode(path)
        if any(os.path.lexists(parent) and (parent.is_symlink() or not parent.is_dir()) for parent in place.parents):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(place):
            make_entry(place, entries[path])


def make_entry(place: Path, kind: str) -> None:
    match kind:
        case "dir":
            place.mkdir()
        case "opaque":
            place.mkdir()
            (place / ".wh..wh..opq").touch()
        case "file":
            place.write_bytes(b"content of " + os.fsencode(place.name) + os.fsencode(place.parent.name))
        case "link":
            place.symlink_to("target")
        case "hidden file":
            # as a union leaves it that is killed while it removes the file
            place.touch()
            (place.parent / f".wh.{place.name}").touch()
        case "hidden dir":
            place.mkdir()
            (place.parent / f".wh.{place.name}").touch()
        case "whiteout":
            (place.parent / f".wh.{place.name}").touch()
        case _:
            # a device 0:0, which a plain user may make too since Linux 5.8
            os.mknod(place, stat.S_IFCHR, 0)


def merge_naively(roots: list[Path], target: Path) -> None:
    """The merged tree as a plain directory, bottom branch first: an implementation apart from the one under test."""
    target.mkdir()
    for root in reversed(roots):
        for directory, _, _ in os.walk(root):
            here = Path(directory)
            there = target / here.relative_to(root)
            if not there.is_dir():
                continue  # a directory beside its own whiteout
            _apply(here, there)


def _apply(here: Path, there: Path) -> None:
    if (here / ".wh..wh..opq").exists():
        for entry in there.iterdir():
            _clear(entry)
    names = sorted(os.listdir(here))
    for name in names:
        place, result = here / name, there / name
        if name.startswith(".wh."):
            continue
        if place.is_symlink() or not place.is_dir():
            _clear(result)
            if place.is_symlink() or place.is_file():
                shutil.copy2(place, result, follow_symlinks=False)
        elif result.is_symlink() or not result.is_dir():
            _clear(result)
            result.mkdir()
    for name in names:
        if name.startswith(".wh.") and name != ".wh..wh..opq":
            _clear(there / name[4:])


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def attempt(call: Callable[[], Any]) -> str:
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


_SAME_ERROR = {
    # ext4 looks at the type before the content, and either answer is right (rename(2))
    frozenset(("ENOTEMPTY", "EEXIST")),
    frozenset(("ENOTDIR", "EISDIR")),
    frozenset(("EINVAL", "ENOTEMPTY")),
    frozenset(("EISDIR", "ENOTEMPTY")),
    frozenset(("ENOENT", "ENOTDIR")),
    frozenset(("EEXIST", "EPERM")),
    frozenset(("EPERM", "EISDIR")),
    frozenset(("ELOOP", "EINVAL")),
}


def apply(paths: Paths, operation: tuple[Any, ...]) -> str:
    name, *arguments = operation
    return attempt(lambda: getattr(paths, name)(*arguments))


def is_link(paths: Paths, path: bytes) -> bool:
    try:
        return paths.stat(path).mode & 0o170000 == 0o120000
    except OSError:
        return False


def through_link(paths: Paths, operation: tuple[Any, ...]) -> bool:
    """Whether the kernel would have followed a link before the filesystem is asked."""
    name, *arguments = operation
    for argument in arguments:
        if argument in PATHS:
            parts = argument.split(b"/")
            ends = len(parts) if name in {"write", "append", "truncate", "chmod", "setxattr"} else len(parts) - 1
            if any(is_link(paths, b"/".join(parts[: at + 1])) for at in range(ends)):
                return True
    return False


@pytest.mark.parametrize("form", list(WhiteoutForm), ids=lambda form: form.value)
@settings(
    max_examples=int(os.environ.get("UNION_EXAMPLES", "120")), deadline=None, suppress_health_check=list(HealthCheck)
)
@given(
    layers=st.lists(branches, min_size=2, max_size=3),
    lower_writable=st.booleans(),
    delete=st.sampled_from((DeleteMode.WHITEOUT, DeleteMode.ALL)),
    create=st.sampled_from(list(CreatePolicy)),
    forgetful=st.booleans(),
    steps=st.lists(operations, max_size=25),
)
def test_union_equals_plain_directory(
    form: WhiteoutForm,
    layers: list[dict[bytes, str]],
    lower_writable: bool,
    delete: DeleteMode,
    create: CreatePolicy,
    forgetful: bool,
    steps: list[tuple[Any, ...]],
) -> None:
    if os.geteuid() != 0:
        steps = [step for step in steps if step[0] != "chown"]
    base = Path(tempfile.mkdtemp())
    try:
        roots = [base / str(number) for number in range(len(layers))]
        for root, layer in zip(roots, layers, strict=True):
            make_branch(root, layer)
        merge_naively(roots, base / "plain")
        stack = BranchStack(
            tuple(
                Branch(os.fsencode(root), Access.RW if not number or (lower_writable and number == 1) else Access.RO)
                for number, root in enumerate(roots)
            )
        )
        options = UnionOptions(whiteouts=form, delete=delete, create=create)
        plain = PlainPaths(base / "plain")
        union = Union(stack, options)
        try:
            seen = UnionPaths(union, forgetful=forgetful)
            assert tree(seen) == tree(plain)
            for step in steps:
                if through_link(plain, step):
                    continue
                expected, got = apply(plain, step), apply(seen, step)
                assert expected == got or frozenset((expected, got)) in _SAME_ERROR, step
                assert tree(seen) == tree(plain), step
            seen.forget_all()
            assert tree(UnionPaths(union)) == tree(plain)
        finally:
            union.close()
        again = Union(stack, options)
        try:
            expected_tree = tree(plain)
            got_tree = tree(UnionPaths(again))
            # names of one lower file of which some were copied up are counted apart after a remount
            assert {path: entry[:-1] for path, entry in got_tree.items()} == {
                path: entry[:-1] for path, entry in expected_tree.items()
            }
        finally:
            again.close()
        assert not any((root / ".wh..unionfs").exists() for root in roots)
    finally:
        shutil.rmtree(base)
