"""Snapshots: what each step leaves on the branches and in the union, and after a kill at any instant."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from harness.paths import UnionPaths
from unionfs.branch import Branch, BranchStack
from unionfs.errors import BranchBusyError, SnapshotError
from unionfs.lineage import Note, check_name, decode_note, encode_note, name_aside, plan_chain, plan_drop
from unionfs.snapshots import Line, expand, roll_back, take_snapshot
from unionfs.types import ROOT_INO, Access, Caller, UnionOptions
from unionfs.union import Union

from .conftest import Stand

A, B, C = Note("l", None, 1), Note("l", "a", 2), Note("l", "b", 3)
ASIDE = Note("l", "a", 4)
NOTES = {"a": A, "b": B, "c": C, "a~1": ASIDE}


@pytest.mark.parametrize(("start", "chain"), [(None, ()), ("a", ("a",)), ("c", ("c", "b", "a")), ("a~1", ("a~1", "a"))])
def test_chain(start: str | None, chain: tuple[str, ...]) -> None:
    assert plan_chain(NOTES, start) == chain


def test_chain_with_a_gap() -> None:
    with pytest.raises(SnapshotError, match="snapshot 'a' is not there"):
        plan_chain({"b": B}, "b")
    with pytest.raises(SnapshotError, match="snapshot 'a' is not there"):
        plan_chain({"a": B}, "a")


@pytest.mark.parametrize(
    ("name", "refusal"),
    [("c", None), ("a~1", None), ("b", "the union is built upon it"), ("a", "got a~1, b"), ("z", "is not there")],
)
def test_what_may_be_dropped(name: str, refusal: str | None) -> None:
    head = Note("l", "b")
    if refusal is None:
        plan_drop(NOTES, head, name)
    else:
        with pytest.raises(SnapshotError, match=refusal):
            plan_drop(NOTES, head, name)


def test_names() -> None:
    assert name_aside(NOTES, "a") == "a~2"
    assert name_aside(NOTES, "b") == "b~1"
    for name in ("a", "2026-11-22_10.30", "A+b"):
        assert check_name(name) == name
    for name in ("", ".a", "a/b", "a~1", "-a", "a b", "x" * 201):
        with pytest.raises(SnapshotError, match="expected letters"):
            check_name(name)


def test_notes_cross_unchanged() -> None:
    assert decode_note(encode_note(ASIDE)) == ASIDE
    for content in (b"", b"{}", b"[]", b"1"):
        with pytest.raises((ValueError, KeyError, TypeError)):
            decode_note(content)


class Mounted:
    """A union as the daemon has it, with its line of snapshots."""

    def __init__(self, stand: Stand, **options: Any) -> None:
        self.union = Union(BranchStack(expand(stand.branches())), UnionOptions(**options))
        stand.unions.append(self.union)
        self.line = Line(os.fsencode(stand.roots[0]))
        self.paths = UnionPaths(self.union)

    def take(self, name: str) -> None:
        take_snapshot(self.union, self.line, name)

    def back(self, name: str) -> str:
        return roll_back(self.union, self.line, name)

    def names(self) -> list[str]:
        return [one.name for one in self.line.snapshots()]

    def close(self) -> None:
        self.union.close()
        self.line.close()


@pytest.fixture
def mounted(stand: Stand) -> Iterator[Mounted]:
    stand.put(1, "low", "low")
    stand.put(1, "dir/deep", "deep")
    one = Mounted(stand)
    yield one
    one.close()


def shown(stand: Stand, at: str | None = None) -> dict[bytes, Any]:
    """What a union mounted anew shows, as content by path."""
    branches = expand(stand.branches(), at=at)
    union = Union(BranchStack(branches), UnionOptions(read_only=True))
    paths = UnionPaths(union)
    try:
        return contents(paths)
    finally:
        union.close()


def contents(paths: UnionPaths) -> dict[bytes, Any]:
    found: dict[bytes, Any] = {}
    pending = [b""]
    while pending:
        directory = pending.pop()
        for name in paths.list(directory):
            path = directory + b"/" + name if directory else name
            if paths.stat(path).mode & 0o170000 == 0o040000:
                found[path] = None
                pending.append(path)
            else:
                found[path] = paths.read(path)
    return found


def test_a_snapshot_keeps_what_was(mounted: Mounted, stand: Stand) -> None:
    paths = mounted.paths
    paths.write(b"new", b"1")
    root = paths.stat(b""), paths.ino(b"")
    number = paths.ino(b"new")
    before = contents(paths)
    mounted.take("one")
    assert contents(paths) == before == shown(stand)
    assert (paths.stat(b""), paths.ino(b"")) == root
    assert stand.names(0) == [".wh..wh.snapshot"]
    paths.append(b"new", b"2")
    paths.append(b"dir/deep", b"er")
    paths.unlink(b"low")
    assert paths.ino(b"new") == number
    assert sorted(stand.names(0)) == [".wh..wh.snapshot", ".wh.low", "dir", "new"]
    after = contents(paths)
    assert after == {b"new": b"12", b"dir": None, b"dir/deep": b"deeper"} == shown(stand)
    assert shown(stand, at="one") == before
    accesses = [(os.fsdecode(one.path), one.access) for one in mounted.union.stack.branches]
    assert accesses == [
        (str(stand.roots[0]), Access.RW),
        (str(stand.base / ".unionfs-snapshots/one"), Access.RO),
        (str(stand.roots[1]), Access.RO),
    ]


def test_a_rollback_and_its_undoing(mounted: Mounted, stand: Stand) -> None:
    paths = mounted.paths
    first = contents(paths)
    mounted.take("one")
    paths.write(b"a", b"a")
    second = contents(paths)
    mounted.take("two")
    paths.write(b"b", b"b")
    third = contents(paths)
    assert mounted.back("one") == "one~1"
    assert contents(paths) == first == shown(stand)
    paths.write(b"c", b"c")
    assert mounted.back("two") == "two~1"
    assert contents(paths) == second == shown(stand)
    assert mounted.back("one~1") == "one~1~1"
    assert contents(paths) == third == shown(stand)
    assert mounted.names() == ["one", "two", "one~1", "two~1", "one~1~1"]
    assert [one.name for one in mounted.line.snapshots() if one.current] == ["one", "two", "one~1"]
    assert shown(stand, at="two~1") == first | {b"c": b"c"}


def test_dropping(mounted: Mounted, stand: Stand) -> None:
    mounted.take("one")
    mounted.paths.write(b"a", b"a")
    mounted.take("two")
    before = contents(mounted.paths)
    for name in ("one", "two", "three"):
        with pytest.raises(SnapshotError):
            mounted.line.drop(name)
    mounted.back("one")
    (left,) = mounted.line.drop("two~1" if "two~1" in mounted.names() else "one~1")
    assert os.fsdecode(left).startswith(str(stand.base / ".unionfs-snapshots/.dropped-"))
    assert len(mounted.line.drop("two")) == 2
    assert mounted.names() == ["one"]
    assert contents(mounted.paths) == {name: value for name, value in before.items() if name != b"a"}


def test_what_keeps_a_snapshot_from_being_taken(mounted: Mounted, stand: Stand) -> None:
    union, paths = mounted.union, mounted.paths
    paths.write(b"file", b"x")
    attr = union.lookup(ROOT_INO, b"file", Caller(0, 0, 1))
    handle = union.open(attr.ino, os.O_WRONLY, Caller(0, 0, 1))
    with pytest.raises(BranchBusyError, match="1 open files are written to") as busy:
        mounted.take("one")
    assert busy.value.inos == (attr.visible_ino,)
    union.release(handle)
    union.forget(attr.ino, 1)
    assert mounted.names() == []
    assert os.listdir(stand.base / ".unionfs-snapshots") == []
    mounted.take("one")
    for name, refusal in (("one", "is there already"), ("a/b", "expected letters")):
        with pytest.raises(SnapshotError, match=refusal):
            mounted.take(name)
    with pytest.raises(SnapshotError, match="snapshot 'none' is not there"):
        mounted.back("none")
    union.change_branches([one._replace(access=Access.RO) for one in union.stack.branches])
    with pytest.raises(SnapshotError, match="expected the top branch to be writable"):
        mounted.take("two")


def test_a_reader_goes_on(mounted: Mounted) -> None:
    union = mounted.union
    mounted.paths.write(b"file", b"old")
    attr = union.lookup(ROOT_INO, b"file", Caller(0, 0, 1))
    handle = union.open(attr.ino, os.O_RDONLY, Caller(0, 0, 1))
    mounted.take("one")
    mounted.paths.append(b"file", b"er")
    assert union.read(handle, 0, 99) == b"older"
    union.release(handle)
    union.forget(attr.ino, 1)


def test_a_missing_snapshot(mounted: Mounted, stand: Stand) -> None:
    mounted.take("one")
    os.rename(stand.base / ".unionfs-snapshots/one", stand.base / "elsewhere")
    with pytest.raises(SnapshotError, match=r"snapshot 'one' is not there: .* lacks it \(snapdir=\)"):
        expand(stand.branches())
    with pytest.raises(SnapshotError, match="snapshot 'none' is not there"):
        expand([Branch(os.fsencode(stand.roots[1]))], at="none")
    os.rename(stand.base / "elsewhere", stand.base / ".unionfs-snapshots/one")


def test_two_lines_in_one_directory(stand_of: Callable[[str], Stand]) -> None:
    stand = stand_of("rw rw")
    one = Mounted(stand)
    one.take("one")
    one.close()
    stand.roots.reverse()
    other = Mounted(stand)
    other.paths.write(b"x", b"")
    with pytest.raises(SnapshotError, match="is there already"):
        other.take("one")
    other.take("two")
    assert other.names() == ["two"]
    other.close()


def test_stable_numbers(stand: Stand) -> None:
    stand.put(1, "low", "low")
    one = Mounted(stand, stable_inodes=True)
    one.paths.append(b"low", b"er")
    before = one.paths.ino(b""), one.paths.ino(b"low")
    one.take("one")
    one.paths.append(b"low", b"!")
    assert (one.paths.ino(b""), one.paths.ino(b"low")) == before
    one.close()
    again = Mounted(stand, stable_inodes=True)
    assert (again.paths.ino(b""), again.paths.ino(b"low")) == before
    again.close()


class Countdown:
    """Kills the process with SIGKILL when so many lines of the modules were run."""

    def __init__(self, lines: int) -> None:
        self._left = lines

    def __call__(self, frame: FrameType, event: str, _argument: object) -> Countdown | None:
        if not frame.f_code.co_filename.endswith(("snapshots.py", "lineage.py", "restack.py")):
            return None
        if event == "line":
            self._left -= 1
            if self._left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def killed_after(lines: int, act: Callable[[], object]) -> bool:
    """Whether a child that did ``act`` was killed before it had done so many lines of it."""
    pid = os.fork()  # noqa: TID251 - a child that is to be killed, in a process without threads
    if pid == 0:
        sys.settrace(Countdown(lines))
        act()
        sys.settrace(None)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("step", ["snapshot", "rollback"])
def test_a_kill_leaves_the_old_state_or_the_new(step: str, tmp_path: Path) -> None:
    outcomes: set[bool] = set()
    lines = 0
    while True:
        base = tmp_path / str(lines)
        base.mkdir()
        stand = Stand(base)
        stand.put(1, "low", "low")
        one = Mounted(stand)
        one.take("one")
        one.paths.write(b"later", b"")
        name, act = ("two", one.take) if step == "snapshot" else ("one", one.back)
        old, first = shown(stand), shown(stand, at="one")
        was_killed = killed_after(lines, lambda act=act, name=name: act(name))  # type: ignore[misc]  # bound at once
        one.union.close()
        one.line.close()
        again = Mounted(stand)
        now = contents(again.paths)
        made = len(again.names()) > 1
        outcomes.add(made)
        assert now == (first if made and step == "rollback" else old)
        assert shown(stand, at="one") == first
        again.paths.write(b"and on", b"")
        if not made:
            act_again = again.take if step == "snapshot" else again.back
            act_again(name)
        assert len(again.names()) == 2
        again.close()
        if not was_killed:
            break
        lines += 3
    assert outcomes == {False, True}
