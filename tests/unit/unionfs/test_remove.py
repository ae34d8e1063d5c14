"""unlink and rmdir: every state of two and three branches × access × delete mode, on the branches and through the union."""

from __future__ import annotations

import errno
import itertools
import os
import shutil

import pytest

from harness.paths import UnionPaths
from unionfs.branch import Branch, BranchStack
from unionfs.policy import Hide, plan_removal
from unionfs.resolve import Kind, Probe, instances, resolve
from unionfs.types import Access, DeleteMode, UnionOptions, WhiteoutForm
from unionfs.union import Union

STATES = ("absent", "file", "empty", "full", "symlink", "whiteout", "opaque")
KINDS = {
    "absent": Kind.ABSENT,
    "file": Kind.FILE,
    "symlink": Kind.FILE,
    "whiteout": Kind.WHITEOUT,
    "empty": Kind.DIRECTORY,
    "full": Kind.DIRECTORY,
    "opaque": Kind.DIRECTORY,
}


def make(root, state):
    place = root / "n"
    match state:
        case "file":
            place.write_text(f"of {root.name}")
        case "empty":
            place.mkdir()
        case "full":
            place.mkdir()
            (place / "inside").touch()
        case "symlink":
            place.symlink_to("target")
        case "whiteout":
            (root / ".wh.n").touch()
        case "opaque":
            place.mkdir()
            (place / ".wh..wh..opq").touch()


def visible(paths):
    """What shows at the name: None, or type and content."""
    try:
        mode = paths.stat(b"n").mode & 0o170000
    except FileNotFoundError:
        return None
    if mode == 0o040000:
        return mode, tuple(paths.list(b"n"))
    return mode, paths.read(b"n") if mode == 0o100000 else paths.readlink(b"n")


def expect(states, writable, mode):
    """errno, or what shows afterwards (the states that are left), by the tables alone."""
    probes = [Probe(at, KINDS[state], state == "opaque") for at, state in enumerate(states)]
    shown = resolve(probes, len(states))
    if not shown.visible:
        return errno.ENOENT
    if shown.kind is Kind.DIRECTORY and any(states[at] == "full" for at in shown.positions):
        return errno.ENOTEMPTY
    found = instances(probes)
    kept = [probe.position for probe in found[1:] if states[probe.position] == "full"]
    try:
        actions = plan_removal([probe.position for probe in found], writable, mode, kept)
    except OSError as error:
        return error.errno
    left = list(states)
    for action in actions:
        left[action.position] = (
            "whiteout" if isinstance(action, Hide) or left[action.position] == "whiteout" else "absent"
        )
    return left


@pytest.mark.parametrize("form", list(WhiteoutForm), ids=lambda form: form.value)
@pytest.mark.parametrize("mode", list(DeleteMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    ("count", "accesses"), [(2, ("rw ro", "rw rw", "ro rw", "ro ro")), (3, ("rw ro rw", "rw rw ro", "ro rw ro"))]
)
def test_every_state(tmp_path, count, accesses, mode, form):
    checked = 0
    for access in accesses:
        words = [Access(word) for word in access.split()]
        writable = [at for at, word in enumerate(words) if word is Access.RW]
        for states in itertools.product(STATES, repeat=count):
            if count == 3 and (hash(states) + len(access)) % 3 and states[0] not in {"absent", "whiteout"}:
                continue
            base = tmp_path / "stand"
            roots = [base / str(number) for number in range(count)]
            for root, state in zip(roots, states, strict=True):
                root.mkdir(parents=True)
                make(root, state)
            check(roots, words, states, writable, mode, form)
            shutil.rmtree(base)
            checked += 1
    assert checked > 100


def check(roots, words, states, writable, mode, form):
    stack = BranchStack(tuple(Branch(os.fsencode(root), word) for root, word in zip(roots, words, strict=True)))
    expected = expect(states, writable, mode)
    context = f"{states} {words} {mode} {form}"
    union = Union(stack, UnionOptions(delete=mode, whiteouts=form))
    try:
        paths = UnionPaths(union)
        before = visible(paths)
        remove = paths.rmdir if before and before[0] == 0o040000 else paths.unlink
        try:
            remove(b"n")
            got = 0
        except OSError as error:
            got = error.errno
        after = visible(paths)
    finally:
        union.close()
    again = Union(stack, UnionOptions())
    try:
        assert visible(UnionPaths(again)) == after, context
    finally:
        again.close()
    if isinstance(expected, int):
        assert got == expected, context
        assert after == before, context
        return
    assert got == 0, context
    shown = resolve([Probe(at, KINDS[state], state == "opaque") for at, state in enumerate(expected)], len(roots))
    assert (after is not None) == shown.visible, context
    if mode is not DeleteMode.FIRST:
        assert after is None, context
    for root, state in zip(roots, expected, strict=True):
        names = set(os.listdir(root)) - {".wh..unionfs"}
        if state == "absent":
            assert not names, context
        elif state == "whiteout":
            assert len(names) == 1, context
        else:
            assert "n" in names, context


def test_the_example_of_the_specification(stand):
    for name in ("a", "d", "b"):
        stand.put(1, name)
    for name in ("b", "c"):
        stand.put(0, name)
    paths = stand.paths(delete=DeleteMode.ALL)
    for name in (b"a", b"b", b"c", b"d"):
        paths.unlink(name)
    assert stand.names(0) == [".wh.a", ".wh.b", ".wh.d"]
    assert stand.names(1) == ["a", "b", "d"]


def test_all_on_writable_branches_leaves_nothing(stand_of):
    stand = stand_of("rw rw")
    stand.put(0, "b")
    stand.put(1, "b")
    paths = stand.paths(delete=DeleteMode.ALL)
    paths.unlink(b"b")
    assert (stand.names(0), stand.names(1)) == ([], [])


def test_first_lets_the_next_one_show_through(stand):
    stand.put(0, "f", "new")
    stand.put(1, "f", "old")
    paths = stand.paths(delete=DeleteMode.FIRST)
    paths.unlink(b"f")
    assert paths.read(b"f") == b"old"
    with pytest.raises(OSError) as error:
        paths.unlink(b"f")
    assert error.value.errno == errno.EROFS


def test_a_directory_is_empty_when_only_whiteouts_are_in_it(stand, form):
    stand.put(0, "d/upper")
    stand.put(1, "d/lower")
    stand.put(1, "d/sub/x")
    paths = stand.paths(whiteouts=form)
    for name in (b"d/upper", b"d/lower", b"d/sub/x"):
        paths.unlink(name)
    paths.rmdir(b"d/sub")
    paths.rmdir(b"d")
    assert paths.list(b"") == []
    assert len(stand.names(0)) == 1
    assert stand.paths().list(b"") == []


def test_a_removal_that_fails_changes_nothing_that_shows(stand_of, monkeypatch):
    stand = stand_of("rw rw")
    stand.put(0, "f", "top")
    stand.put(1, "f", "bottom")
    paths = stand.paths(delete=DeleteMode.ALL)
    unlink = os.unlink
    calls = []

    def second_fails(path, *args, **options):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.EIO, "broken")
        unlink(path, *args, **options)

    monkeypatch.setattr(os, "unlink", second_fails)
    with pytest.raises(OSError):
        paths.unlink(b"f")
    monkeypatch.undo()
    assert paths.read(b"f") == b"top"
    assert stand.names(1) == []
