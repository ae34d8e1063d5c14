"""A union and its oracle, side by side: operations, changes of branches, snapshots, remounts, changes from outside.

A World makes every step on both sides. Compared are: the answer of each step, what shows, what each branch and each
snapshot holds, what ``diff`` says of two states, and the inode number of each file as long as it is the same one.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from harness import marks
from harness.merged import Directory, Entry, Link, Refused, same, walk
from harness.past import Held, Mounting, Past, free_places, settled
from harness.paths import Paths, UnionPaths
from harness.tables import answer, shown_by
from unionfs.actions import Actions
from unionfs.branch import Branch, BranchStack
from unionfs.changes import Add, Change, Remove, SetAccess, encode_change
from unionfs.difference import Mark, State, compare
from unionfs.errors import UnionError
from unionfs.mountspec import decode_branches
from unionfs.snapshots import Line, expand
from unionfs.types import Access, CreatePolicy, DeleteMode, UnionOptions, WhiteoutForm
from unionfs.union import Union

Step = tuple[Any, ...]
_EITHER = [{errno.ENOENT, errno.ENOTDIR}, {errno.EISDIR, errno.ENOTEMPTY}, {errno.EINVAL, errno.ENOTEMPTY}]
_CHANGES_A_FILE = {"write", "append", "truncate", "chmod"}


class Side(Protocol):
    """A union, however it is reached; it lies on ``top`` in a base directory and on other branches."""

    ways: Sequence[Paths]
    keeps_line: bool
    """Whether the snapshots stay those of ``top`` when another branch is on top at a mount."""

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """What ``unionctl`` asks. Raises UnionError."""

    def close(self) -> None:
        """It is unmounted."""


MakeSide = Callable[[Path, Sequence[Branch], Mounting], Side]


class InProcess:
    """A union without a mount."""

    keeps_line = True

    def __init__(self, base: Path, branches: Sequence[Branch], mounting: Mounting) -> None:
        options = UnionOptions(
            DeleteMode(mounting.delete), WhiteoutForm(mounting.form), CreatePolicy(mounting.create),
            volatile=True, stable_inodes=mounting.stable,
        )  # fmt: skip
        self._union = Union(BranchStack(expand(branches)), options)
        self._line = Line(os.fsencode(base / "top"))
        self.ask = Actions(self._union, dict, self._line).answer
        self.ways = (UnionPaths(self._union), UnionPaths(self._union, forgetful=False))

    def close(self) -> None:
        """Nothing is open any more."""
        self.ways[1].forget_all()
        self._union.close()
        self._line.close()


class World:
    """Both sides, below ``base``, an empty directory. The caller closes it."""

    def __init__(
        self,
        base: Path,
        branches: list[tuple[str, Directory]],
        mounting: Mounting,
        make_side: MakeSide = InProcess,
    ) -> None:
        self._base = base
        self._make_side = make_side
        self._made = 0
        self.past = Past()
        self._numbers: dict[int, tuple[Entry, int]] = {}
        for number, (access, content) in enumerate(branches):
            self.past.stack.append(Held(self._new_branch(content, "" if number else "top"), access))
            self.past.model.branches.append(content)
        self._mount(mounting)

    # -- the union ----------------------------------------------------------------------------------------------
    def _new_branch(self, content: Directory, key: str = "") -> str:
        self._made += 1
        key = key or f"b{self._made}"
        (self._base / key).mkdir()
        marks.write(os.fsencode(self._base / key), content, ("aufs", "overlay")[self._made % 2])
        return key

    def _path(self, held: Held) -> bytes:
        directory = self._base / ".unionfs-snapshots" if held.snapshot else self._base
        return os.fsencode(directory / held.key)

    def _branch(self, held: Held) -> Branch:
        return Branch(self._path(held), Access(held.access))

    def _mount(self, mounting: Mounting) -> None:
        self._mounting = mounting
        given = [self._branch(held) for held in self.past.stack if not held.snapshot]
        self._side = self._make_side(self._base, given, mounting)
        self.past.set_rules(mounting)

    def close(self) -> None:
        """Nothing is open any more."""
        self._side.close()

    # -- steps --------------------------------------------------------------------------------------------------
    def step(self, step: Step) -> None:
        """Made on both sides, with the same answer. Raises AssertionError."""
        name, *arguments = step
        if hasattr(self, f"_do_{name}"):
            getattr(self, f"_do_{name}")(*arguments)
            self.past.set_rules(self._mounting)
            return
        before = self._shown(arguments[0])
        if name in _CHANGES_A_FILE and isinstance(before, Link if name == "chmod" else Link | Directory):
            return  # the kernel follows the link, or refuses, before the filesystem is asked
        way = self._side.ways[zlib.crc32(repr(step).encode()) % 2]
        expected = self._expect(name, arguments)
        got = answer(lambda: getattr(way, name)(*arguments))
        assert got == expected or {got, expected} in _EITHER, f"{step} answers {_word(got)}, expected {_word(expected)}"
        if name == "rename" and not got:
            self._settle()
        if name in _CHANGES_A_FILE and before is not None and id(before) in self._numbers:
            after = self._shown(arguments[0])
            assert after is not None
            self._numbers[id(after)] = (after, self._numbers[id(before)][1])

    def _settle(self) -> None:
        """Where a directory that was renamed may be opaque or not, the oracle goes on from what it is."""
        branches = self.past.model.branches
        for position, held_as in enumerate(self.past.stack):
            if held_as.access != "rw":
                continue
            held = marks.read(self._path(held_as))
            branches[position] = settled(branches[position], held)

    def paths(self) -> list[bytes]:
        """Everything that shows."""
        return [path for path, _ in walk(self.past.model.shown())]

    def _shown(self, path: bytes) -> Entry | None:
        try:
            shown = self.past.model.place(path).shown
        except Refused:
            return None
        return None if shown is None else shown[1]

    def _expect(self, name: str, arguments: list[Any]) -> int:
        model = self.past.model
        match name:
            case "mkdir":
                return model.answer("make", arguments[0], Directory({}))
            case "symlink":
                return model.answer("make", arguments[1], Link(arguments[0]))
            case _:
                return model.answer(name, *arguments)

    # -- steps of administration ----------------------------------------------------------------------------------
    def _ask(self, message: dict[str, Any], *, may: bool = True) -> dict[str, Any] | None:
        """The answer; None: refused, when it may be so."""
        refusal: UnionError | None = None
        told: dict[str, Any] | None = None
        try:
            told = self._side.ask(message)
        except UnionError as error:
            refusal = error
        assert may == (refusal is None), f"{message}: {told or refusal!r}"
        return told

    def _do_change(self, *changes: tuple[Any, ...]) -> None:
        """("add", where, access, content), ("remove", which), ("mode", which, access): all at once."""
        stack, branches = list(self.past.stack), list(self.past.model.branches)
        wanted: list[Change] = []
        for kind, which, *rest in changes:
            if kind == "add":
                at = free_places(stack)[which % len(free_places(stack))]
                held = Held(self._new_branch(rest[1]), rest[0])
                last = at == len(stack)
                beside = self._path(stack[at - last])
                wanted.append(Add(self._branch(held), None if last else beside, beside if last else None))
                stack.insert(at, held)
                branches.insert(at, rest[1])
                continue
            movable = [position for position, held in enumerate(stack) if not held.snapshot]
            at = movable[which % len(movable)]
            name = at if which % 2 else self._path(stack[at])
            if kind == "mode":
                wanted.append(SetAccess(name, Access(rest[0])))
                stack[at] = stack[at]._replace(access=rest[0])
            elif stack[at].key != "top":
                wanted.append(Remove(name))
                del stack[at], branches[at]
        told = self._ask({"do": "change", "changes": [encode_change(change) for change in wanted]})
        assert told is not None
        self.past.stack, self.past.model.branches = stack, branches
        assert decode_branches(told["branches"]) == tuple(map(self._branch, stack))

    def _do_snapshot(self, name: str) -> None:
        may = self.past.may_snapshot and name not in self.past.snapshots
        if self._ask({"do": "snapshot", "name": name}, may=may):
            self.past.snapshots.pop(name, None)
            self.past.put_aside(name, name)

    def _some_snapshot(self, which: int) -> str:
        return sorted(self.past.snapshots)[which % len(self.past.snapshots)]

    def _do_rollback(self, which: int) -> None:
        if self.past.snapshots:
            name = self._some_snapshot(which)
            told = self._ask({"do": "rollback", "name": name}, may=self.past.may_snapshot)
            if told:
                self.past.put_aside(told["kept"], name)

    def _do_drop(self, which: int) -> None:
        if self.past.snapshots:
            name = self._some_snapshot(which)
            may = not self.past.built_upon(name) and self.past.stack[0].key == "top"
            if self._ask({"do": "drop", "name": name}, may=may):
                del self.past.snapshots[name]

    def _do_remount(self, mounting: Mounting) -> None:
        self.close()
        if not self._side.keeps_line:
            self.past.leave_out_above_top()
        assert not any(os.path.lexists(self._path(held) + b"/.wh..unionfs") for held in self.past.stack)
        if not (mounting.stable and self._mounting.stable):
            # a copy and its origin are two from now on
            self._numbers.clear()
            self.past.part()
        self._mount(mounting)

    def _do_outside(self, which: int, path: bytes, entry: Entry | None) -> None:
        """Somebody changes a branch directly and says so."""
        position = which % len(self.past.stack)
        held, model, parts = self.past.stack[position], self.past.model, tuple(path.split(b"/"))
        if held.snapshot or not isinstance(model.at(position, parts[:-1]), Directory):
            return
        marks.put(self._path(held), parts, entry)
        model.put_alone(position, parts, entry)
        self._ask({"do": "refresh"})

    def _do_diff(self, which: int, other: int) -> None:
        """What differs between a snapshot and another, or now."""
        if not self.past.snapshots or self.past.stack[0].key != "top":
            return
        old = self._some_snapshot(which)
        names = [None, *sorted(self.past.snapshots)]
        new = names[other % len(names)]
        told = self._ask({"do": "states", "names": [one for one in (old, new) if one is not None]})
        assert told is not None
        states = [State(decode_branches(one)) for one in told["states"]]
        try:
            found = {one.path: one.mark.value for one in compare(*states) if one.mark is not Mark.ENTERED}
        finally:
            for state in states:
                state.close()
        same = self.past.same_in(old, new)
        found = {path: word for path, word in found.items() if not (word == "M" and path in same)}
        expected = self.past.difference(old, new)
        assert found == expected, f"diff {old} {new}: {found}, expected {expected}"

    # -- comparing ----------------------------------------------------------------------------------------------
    def check(self) -> None:
        """Everything is as the oracle says. Raises AssertionError."""
        expected = self.past.model.shown()
        shown = shown_by(self._side.ways[0])
        assert shown == expected, f"shown is {shown}, expected {expected}"
        self._check_numbers(expected)
        for held, wanted in zip(self.past.stack, self.past.model.branches, strict=True):
            holds = marks.read(self._path(held))
            assert same(wanted, holds), f"{held} holds {holds}, expected {wanted}"
        for name, kept in self.past.snapshots.items():
            holds = marks.read(self._path(Held(name, "ro", snapshot=True)))
            assert same(kept.content, holds), f"snapshot {name} holds {holds}, expected {kept.content}"

    def _check_numbers(self, shown: dict[bytes, Entry]) -> None:
        """A file, which is one object of the oracle however it is moved and copied up, keeps its number."""
        before, self._numbers = self._numbers, {}
        for path, entry in walk(shown):
            if not isinstance(entry, Directory):
                number = self._side.ways[0].ino(path)
                known = before.get(id(entry), (entry, number))[1]
                assert known == number, f"number of {path!r} was {known}, is {number}"
                self._numbers[id(entry)] = (entry, number)


def _word(code: int) -> str:
    return errno.errorcode[code] if code else "done"
