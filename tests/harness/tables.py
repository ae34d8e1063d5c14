"""Cases of the decision tables as data, and a stand that carries many of them out in one union.

A case says what the branches hold at one name or two, and an operation; the oracle is ``harness.merged``. Each has a
directory of its own in the union, which lies in all branches, so that hundreds of cases share one union.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from harness import marks
from harness.merged import Directory, Entry, File, Link, Merged, Whiteout, same
from harness.paths import Paths, UnionPaths
from unionfs.branch import Branch, BranchStack
from unionfs.types import Access, CreatePolicy, DeleteMode, UnionOptions, WhiteoutForm
from unionfs.union import Union

STATES = ("absent", "file", "empty", "full", "symlink", "whiteout", "opaque")
"""What a branch may hold at a name."""
MORE_STATES = ("marks", "opaque full", "beside")
"""A directory with nothing but a whiteout in it, an opaque one with a file, a file beside its own whiteout."""
SINGLE = ("unlink", "rmdir", "create", "mkdir", "symlink", "chmod")
RENAMES = ("rename", "noreplace", "exchange")
_FLAGS = {"rename": 0, "noreplace": 1, "exchange": 2}

States = tuple[str, ...]


class Case(NamedTuple):
    """``states`` of the name ``a``, top first, and of ``b`` where the operation needs two names.

    ``homes`` says what the branches hold at the directory of ``a`` ("dir", "opaque", "absent"), dir in all when it is
    not given; ``other_homes`` the same of the directory of ``b``, which is that of ``a`` when it is not given.
    """

    operation: str
    states: States
    others: States = ()
    homes: States = ()
    other_homes: States = ()

    def __str__(self) -> str:
        words = [self.operation, "/".join(self.states)]
        words += ["in", "/".join(self.homes)] if self.homes else []
        words += ["onto", "/".join(self.others)] if self.others else []
        words += ["in", "/".join(self.other_homes)] if self.other_homes else []
        return " ".join(words)


class Setting(NamedTuple):
    """How the union of a case is mounted; ``marks`` is the form of those that are there already."""

    access: str
    delete: str = "whiteout"
    form: str = "aufs"
    marks: str = "aufs"
    create: str = "parent"

    @property
    def writable(self) -> tuple[int, ...]:
        return tuple(position for position, word in enumerate(self.access.split()) if word == "rw")


def settings(count: int) -> Iterator[Setting]:
    """Every setting for so many branches."""
    for access in itertools.product(("rw", "ro"), repeat=count):
        for delete, form, old in itertools.product(DeleteMode, WhiteoutForm, WhiteoutForm):
            yield Setting(" ".join(access), delete.value, form.value, old.value)


def single_cases(count: int, states: Sequence[str] = STATES) -> Iterator[Case]:
    """Every operation on one name in every state."""
    for chosen in itertools.product(states, repeat=count):
        for operation in SINGLE:
            yield Case(operation, chosen)


def rename_cases(count: int, states: Sequence[str] = STATES) -> Iterator[Case]:
    """Every rename from every state onto every state."""
    for chosen in itertools.product(states, repeat=count):
        for others in itertools.product(states, repeat=count):
            for operation in RENAMES:
                yield Case(operation, chosen, others)


def wide_cases(count: int, number: int, seed: str) -> Iterator[Case]:
    """So many cases as chance has it, in directories that lie in some branches only, or are opaque in some."""
    chance = random.Random(seed)
    states, homes = (*STATES, *MORE_STATES), ("dir", "dir", "absent", "opaque")

    def some(words: Sequence[str]) -> States:
        return tuple(chance.choices(words, k=count))

    for _ in range(number):
        operation = chance.choice((*SINGLE, *RENAMES, *RENAMES))
        if operation in SINGLE:
            yield Case(operation, some(states), homes=some(homes))
        else:
            yield Case(operation, some(states), some(states), some(homes), chance.choice(((), some(homes))))


def spread(cases: Sequence[Case], share: float, seed: str) -> list[Case]:
    """So large a share of the cases, the same for the same seed."""
    if share >= 1:
        return list(cases)
    return random.Random(seed).sample(cases, max(1, round(len(cases) * share)))


def entry(state: str, position: int, form: str) -> Entry | None:
    """What a branch holds that is in the state."""
    inside = File(b"of %d" % position)
    return {
        "file": inside,
        "symlink": Link(b"target of %d" % position),
        "empty": Directory({}),
        "full": Directory({b"inside": inside, b"only %d" % position: inside}),
        "opaque": Directory({}, opaque=True),
        "opaque full": Directory({b"inside": inside}, opaque=True),
        "marks": Directory({b"inside": Whiteout(form)}),
        "whiteout": Whiteout(form),
        "beside": Whiteout("aufs", inside),
    }.get(state)


def _homes(case: Case, position: int, form: str) -> dict[bytes, Entry]:
    """The directories of a case in a branch."""
    a, b = (entry(states[position], position, form) if states else None for states in (case.states, case.others))
    found: dict[bytes, Entry] = {}
    named = {b"a": a} if case.other_homes else {b"a": a, b"b": b}
    for name, states, held in ((b"h", case.homes, named), (b"k", case.other_homes, {b"b": b})):
        state = states[position] if states else "dir" if name == b"h" else "absent"
        if state != "absent":
            entries = {each: what for each, what in held.items() if what is not None}
            found[name] = Directory(entries, opaque=state == "opaque")
    return found


def _paths(case: Case) -> tuple[bytes, bytes]:
    return b"h/a", b"k/b" if case.other_homes else b"h/b"


def _apply_model(model: Merged, case: Case) -> int:
    a, b = _paths(case)
    match case.operation:
        case "create":
            return model.answer("make", a, File(b"new"))
        case "mkdir":
            return model.answer("make", a, Directory({}))
        case "symlink":
            return model.answer("make", a, Link(b"new"))
        case "chmod":
            return model.answer("chmod", a, 0o700)
        case "unlink" | "rmdir":
            return model.answer(case.operation, a)
        case _:
            return model.answer("rename", a, b, _FLAGS[case.operation])


def _apply_union(paths: UnionPaths, case: Case, top: bytes) -> None:
    a, b = (top + b"/" + path for path in _paths(case))
    match case.operation:
        case "create":
            paths.write(a, b"new", os.O_CREAT | os.O_EXCL)
        case "mkdir":
            paths.mkdir(a)
        case "symlink":
            paths.symlink(b"new", a)
        case "chmod":
            # a link has no mode; its times are changed instead
            if stat.S_ISLNK(paths.stat(a).mode):
                paths.utime(a, 1, 1)
            else:
                paths.chmod(a, 0o700)
        case "unlink":
            paths.unlink(a)
        case "rmdir":
            paths.rmdir(a)
        case _:
            paths.rename(a, b, _FLAGS[case.operation])


def shown_by(paths: Paths, top: bytes = b"") -> dict[bytes, Entry]:
    """What a union shows in a directory, in the words of the oracle."""
    found: dict[bytes, Entry] = {}
    for name in paths.list(top):
        path = top + b"/" + name if top else name
        status = paths.stat(path)
        mode = stat.S_IMODE(status.mode)
        if stat.S_ISDIR(status.mode):
            found[name] = Directory(shown_by(paths, path), None, mode)
        elif stat.S_ISLNK(status.mode):
            found[name] = Link(paths.readlink(path))
        else:
            found[name] = File(paths.read(path), mode)
    return found


def answer(call: Callable[[], object]) -> int:
    """0, or the errno."""
    try:
        call()
    except OSError as error:
        return error.errno or 0
    return 0


class Difference(NamedTuple):
    """A case, and what was not as the oracle says."""

    case: Case
    setting: Setting
    what: str


def carry_out(cases: Sequence[Case], setting: Setting) -> list[Difference]:
    """All cases, in one union; where it differs from the oracle: the answer, what shows, what the branches hold."""
    base = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        return list(_carry_out(base, cases, setting))
    finally:
        shutil.rmtree(base)


def _carry_out(base: Path, cases: Sequence[Case], setting: Setting) -> Iterator[Difference]:
    count = len(setting.access.split())
    roots = [os.fsencode(base / str(position)) for position in range(count)]
    tops = [b"%05d" % number for number in range(len(cases))]
    models: list[Merged] = []
    for case in cases:
        branches = [Directory(_homes(case, position, setting.marks)) for position in range(count)]
        models.append(Merged(branches, setting.writable, setting.delete, setting.form, setting.create))
    for position, root in enumerate(roots):
        holds = {top: model.branches[position] for top, model in zip(tops, models, strict=True)}
        os.mkdir(root)
        marks.write(root, Directory(dict(holds)), setting.marks)
    for which, what in _differences(roots, tops, cases, models, setting):
        yield Difference(cases[which], setting, what)


def _differences(
    roots: Sequence[bytes], tops: Sequence[bytes], cases: Sequence[Case], models: Sequence[Merged], setting: Setting
) -> Iterator[tuple[int, str]]:
    branches = tuple(Branch(root, Access(word)) for root, word in zip(roots, setting.access.split(), strict=True))
    options = UnionOptions(
        delete=DeleteMode(setting.delete), whiteouts=WhiteoutForm(setting.form), create=CreatePolicy(setting.create)
    )
    union = Union(BranchStack(branches), options)
    try:
        ways = (UnionPaths(union, forgetful=True), UnionPaths(union, forgetful=False))
        for number, (case, top, model) in enumerate(zip(cases, tops, models, strict=True)):
            paths = ways[number % 2]
            if number % 3:  # one in three comes to a name nobody has looked at
                yield from _compare_shown(number, "before", model, shown_by(paths, top))
            expected = _apply_model(model, case)
            got = answer(lambda paths=paths, case=case, top=top: _apply_union(paths, case, top))  # type: ignore[misc]
            if got != expected:
                yield number, f"answers {_word(got)}, expected {_word(expected)}"
            yield from _compare_shown(number, "after", model, shown_by(paths, top))
        ways[1].forget_all()
    finally:
        union.close()
    held = [marks.read(root) for root in roots]
    for number, (top, model) in enumerate(zip(tops, models, strict=True)):
        for position, branch in enumerate(held):
            holds = branch.entries.get(top)
            if not same(model.branches[position], holds):
                yield number, f"branch {position} holds {holds}, expected {model.branches[position]}"
    yield from _look_again(branches, tops, models)


def _look_again(
    branches: tuple[Branch, ...], tops: Sequence[bytes], models: Sequence[Merged]
) -> Iterator[tuple[int, str]]:
    again = Union(BranchStack(branches), UnionOptions(read_only=True))
    try:
        shown = shown_by(UnionPaths(again))
    finally:
        again.close()
    for number, (top, model) in enumerate(zip(tops, models, strict=True)):
        directory = shown[top]
        assert isinstance(directory, Directory)
        yield from _compare_shown(number, "after a remount", model, directory.entries)


def _compare_shown(number: int, when: str, model: Merged, shown: dict[bytes, Entry]) -> Iterator[tuple[int, str]]:
    expected = model.shown()
    if expected != shown:
        yield number, f"{when} the union shows {shown}, expected {expected}"


def _word(code: int) -> str:
    return errno.errorcode[code] if code else "done"
