"""A union that dies between any two system calls: its branches show the state before the operation, or the one after."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from harness.deaths import survives
from harness.paths import UnionPaths, tree
from property.test_union import apply, branches, make_branch, operations, paths
from unionfs.branch import Branch, BranchStack
from unionfs.types import Access, DeleteMode, UnionOptions, WhiteoutForm
from unionfs.union import Union

# what is one operation of the kernel, and not several
single = operations.filter(lambda operation: operation[0] != "write")
renames = st.tuples(st.just("rename"), paths, paths, st.sampled_from((0, 0, 0, 2)))
OVER_A_DIRECTORY_WITH_MARKS = {
    "layers": [{}, {b"a": "dir", b"a/a": "file", b"b": "dir", b"b/a": "file"}],
    "lower_writable": False,
    "delete": DeleteMode.WHITEOUT,
    "steps": [("unlink", b"b/a")],
    "victim": ("rename", b"a", b"b", 0),
}


@pytest.mark.parametrize("form", list(WhiteoutForm), ids=lambda form: form.value)
@settings(
    max_examples=int(os.environ.get("CRASH_EXAMPLES", "25")), deadline=None, suppress_health_check=list(HealthCheck)
)
@given(
    layers=st.lists(branches, min_size=2, max_size=3),
    lower_writable=st.booleans(),
    delete=st.sampled_from((DeleteMode.WHITEOUT, DeleteMode.ALL)),
    steps=st.lists(operations, max_size=5),
    victim=st.one_of(single, renames, renames),
)
@example(**OVER_A_DIRECTORY_WITH_MARKS)
def test_old_or_new(
    form: WhiteoutForm,
    layers: list[dict[bytes, str]],
    lower_writable: bool,
    delete: DeleteMode,
    steps: list[tuple[Any, ...]],
    victim: tuple[Any, ...],
) -> None:
    base = Path(tempfile.mkdtemp())
    options = UnionOptions(whiteouts=form, delete=delete, volatile=True)
    try:
        (base / "then").mkdir()
        for number, layer in enumerate(layers):
            make_branch(base / "then" / str(number), layer)
        union = opened(base / "then", len(layers), options, lower_writable=lower_writable)
        try:
            for step in steps:
                apply(UnionPaths(union), step)
        finally:
            union.close()
        check_every_death(base, len(layers), options, victim, lower_writable=lower_writable)
    finally:
        shutil.rmtree(base)


def opened(base: Path, count: int, options: UnionOptions, *, lower_writable: bool) -> Union:
    writable = 2 if lower_writable else 1
    stack = [
        Branch(os.fsencode(base / str(number)), Access.RW if number < writable else Access.RO)
        for number in range(count)
    ]
    return Union(BranchStack(tuple(stack)), options)


def check_every_death(
    base: Path, count: int, options: UnionOptions, victim: tuple[Any, ...], *, lower_writable: bool
) -> None:
    shown: list[dict[bytes, tuple[object, ...]]] = []
    finished = False
    while not finished:
        now = base / "now"
        subprocess.run(["cp", "-a", base / "then", now], check=True)
        union = opened(now, count, options, lower_writable=lower_writable)
        seen = UnionPaths(union)
        if not shown:
            shown.append(view(seen))
        # the parent's union only holds descriptors meanwhile
        finished = survives(len(shown) - 1, lambda seen=seen: apply(seen, victim))
        union.close()
        again = opened(now, count, options, lower_writable=lower_writable)
        shown.append(view(UnionPaths(again)))
        again.close()
        shutil.rmtree(now)
    old, new = shown[0], shown[-1]
    assume(len(shown) > 2)
    for changes, state in enumerate(shown[1:-1]):
        assert state in (old, new), f"{victim} dies after {changes} of {len(shown) - 2} changes"


def view(seen: UnionPaths) -> dict[bytes, tuple[object, ...]]:
    """What shows, without the number of links: names of one lower file are counted apart after a remount."""
    return {path: entry[:-1] for path, entry in tree(seen).items()}


MERGED_UPPER = {b"d": "dir", b"d/upper": "file", b"d/gone": "whiteout", b"d/s": "dir", b"d/s/own": "file"}
MERGED_LOWER = {
    b"d": "dir", b"d/gone": "file", b"d/f": "file", b"d/link": "link", b"d/s": "dir", b"d/s/g": "file",
    b"d/s/t": "dir", b"d/s/t/h": "file", b"d/empty": "dir",
}  # fmt: skip
RENAME_OF_MERGED = ("rename", b"d", b"D", 0)


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    """Two branches with a directory in both, and a file of the lower one with names in and beside it."""
    base = tmp_path / "then"
    base.mkdir()
    make_branch(base / "0", MERGED_UPPER)
    make_branch(base / "1", MERGED_LOWER)
    os.link(base / "1/d/f", base / "1/d/s/hard")
    for directory, _, _ in os.walk(base, topdown=False):
        os.utime(directory, ns=(1, 1_000_000_007))
    return base


def on_disk(root: Path) -> dict[str, tuple[object, ...]]:
    """What lies in a branch, with the times of all."""
    found: dict[str, tuple[object, ...]] = {}
    for place in sorted(root.rglob("*")):
        status = place.lstat()
        content = place.read_bytes() if place.is_file() and not place.is_symlink() else b""
        found[str(place.relative_to(root))] = (status.st_mode, status.st_nlink, status.st_mtime_ns, content)
    return found


def copied(base: Path, now: Path) -> None:
    subprocess.run(["cp", "-a", base, now], check=True)


def dies_in_a_rename(now: Path, options: UnionOptions, changes: int) -> bool:
    """Whether the union died, that number of changes after the begin of the rename of the merged directory."""
    union = opened(now, 2, options, lower_writable=False)
    try:
        return not survives(changes, lambda: apply(UnionPaths(union), RENAME_OF_MERGED))
    finally:
        union.close()


def dies_in_the_recovery(now: Path, options: UnionOptions, changes: int) -> bool:
    return not survives(changes, lambda: opened(now, 2, options, lower_writable=False).close())


def check_taken_back(base: Path, now: Path, options: UnionOptions) -> None:
    """A union of ``now`` shows the state before the rename and has nothing left of it, or the state after it."""
    again = opened(now, 2, options, lower_writable=False)
    try:
        names = UnionPaths(again).list(b"")
        assert names in ([b"d"], [b"D"])
    finally:
        again.close()
    assert not (now / "0/.wh..unionfs").exists()
    if names == [b"d"]:
        left, before = on_disk(now / "0"), on_disk(base / "0")
        # the kill may come between a change in a directory and the return of the directory's times
        assert {path: (*entry[:2], entry[3]) for path, entry in left.items()} == {
            path: (*entry[:2], entry[3]) for path, entry in before.items()
        }


@pytest.mark.parametrize("form", list(WhiteoutForm), ids=lambda form: form.value)
def test_what_a_rename_has_copied_is_taken_back(form: WhiteoutForm, merged: Path) -> None:
    options = UnionOptions(whiteouts=form, volatile=True)
    now = merged.parent / "now"
    dies, changes = True, 0
    while dies:
        copied(merged, now)
        dies = dies_in_a_rename(now, options, changes)
        check_taken_back(merged, now, options)
        shutil.rmtree(now)
        changes += 1
    assert changes > 30


@pytest.mark.parametrize("form", list(WhiteoutForm), ids=lambda form: form.value)
def test_taking_back_may_die_too(form: WhiteoutForm, merged: Path) -> None:
    options = UnionOptions(whiteouts=form, volatile=True)
    now = merged.parent / "now"
    every = 1 if "CRASH_EXAMPLES" in os.environ else 4
    died, changes = True, 9
    while died:
        dies, later = True, changes % every
        while dies:
            copied(merged, now)
            died = dies_in_a_rename(now, options, changes)
            dies = dies_in_the_recovery(now, options, later)
            check_taken_back(merged, now, options)
            shutil.rmtree(now)
            later += every
        changes += every * every + 1


@pytest.mark.parametrize("form", list(WhiteoutForm), ids=lambda form: form.value)
def test_what_was_changed_after_the_death_stays(form: WhiteoutForm, merged: Path) -> None:
    options = UnionOptions(whiteouts=form, volatile=True)
    now = merged.parent / "now"
    copied(merged, now)
    done = 0
    while not (now / "0/d/s/t/h").exists() or not (now / "0/d/f").exists():
        shutil.rmtree(now)
        copied(merged, now)
        assert dies_in_a_rename(now, options, done)
        done += 1
    times = os.stat(now / "0/d/s/t/h").st_mtime_ns
    (now / "0/d/s/t/h").write_bytes((now / "0/d/s/t/h").read_bytes().upper())
    os.utime(now / "0/d/s/t/h", ns=(times, times))
    (now / "0/d/new").write_bytes(b"new")
    os.link(now / "0/d/f", now / "0/d/another name")
    said: list[str] = []
    again = Union(
        BranchStack((Branch(os.fsencode(now / "0")), Branch(os.fsencode(now / "1"), Access.RO))),
        options,
        log=said.append,
    )
    try:
        seen = UnionPaths(again)
        assert seen.read(b"d/s/t/h") == b"CONTENT OF HT"
        assert seen.read(b"d/new") == b"new"
        assert seen.ino(b"d/another name") == seen.ino(b"d/f")
        assert seen.read(b"d/s/g") == b"content of gs"
        assert not (now / "0/d/link").is_symlink()
    finally:
        again.close()
    assert any("'d/s/t/h' was copied" in line for line in said)
    assert not (now / "0/.wh..unionfs").exists()
