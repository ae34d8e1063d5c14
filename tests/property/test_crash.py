"""A union that dies between any two system calls: its branches show the state before the operation, or the one after."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from harness.paths import UnionPaths, tree
from property.test_union import apply, branches, make_branch, operations, paths
from unionfs import _sys
from unionfs.branch import Branch, BranchStack
from unionfs.types import Access, DeleteMode, UnionOptions, WhiteoutForm
from unionfs.union import Union

CHANGING = (
    "chmod", "chown", "copy_file_range", "fchmod", "fchown", "ftruncate", "link", "mkdir", "mknod", "pwrite", "pwritev",
    "removexattr", "rename", "rmdir", "setxattr", "symlink", "truncate", "unlink", "utime", "write",
)  # fmt: skip
DIED = 7


class Life:
    """Ends the process instead of the change number ``changes``."""

    def __init__(self, changes: int) -> None:
        self._left = changes

    def spend(self) -> None:
        if not self._left:
            os._exit(DIED)
        self._left -= 1

    def mortal(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            self.spend()
            return function(*arguments, **keywords)

        return call

    def begin(self) -> None:
        """From now on, in this process, every system call that changes something counts."""
        for name in CHANGING:
            setattr(os, name, self.mortal(getattr(os, name)))
        _sys.renameat2 = self.mortal(_sys.renameat2)
        really_open = os.open

        def opening(path: Any, flags: int, *arguments: Any, **keywords: Any) -> int:
            if flags & (os.O_CREAT | os.O_TRUNC):
                self.spend()
            return really_open(path, flags, *arguments, **keywords)

        os.open = opening  # type: ignore[assignment]  # a function of the same signature, in a child that ends soon


def survives(changes: int, act: Callable[[], object]) -> bool:
    """Whether ``act``, in a child, came to its end within so many changes."""
    pid = os.fork()  # noqa: TID251 - a child that is to die, in a process without threads
    if pid == 0:
        try:
            Life(changes).begin()
            act()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in {0, DIED}, "the operation failed unexpectedly"
    return status == 0


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
