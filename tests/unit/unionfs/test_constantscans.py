"""Directories of branches that never change are read once for several unions, and shown as if each had read them."""

from __future__ import annotations

import contextlib
import os
import random
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.paths import UnionPaths
from unionfs.branch import Branch, BranchStack
from unionfs.constantscans import ConstantScans
from unionfs.types import Access, UnionOptions, WhiteoutForm
from unionfs.union import Union

NAMES = [b"a", b"b", b"c", b"d"]
STEPS, CHANGES = 12, 25


@pytest.fixture
def scans() -> Iterator[ConstantScans]:
    made = ConstantScans()
    yield made
    made.close()


def over(lower: list[Path], upper: Path, scans: ConstantScans | None, **options: object) -> Union:
    """A union of ``upper`` and the branches ``lower``, which lie below it from the last to the first."""
    upper.mkdir(exist_ok=True)
    branches = (Branch(os.fsencode(upper)), *(Branch(os.fsencode(root), Access.RO) for root in reversed(lower)))
    return Union(BranchStack(branches), UnionOptions(**{"constant_branches": True, **options}), scans=scans)


def show(paths: UnionPaths, path: bytes = b"") -> dict[bytes, object]:
    """All that is shown below ``path``: directories as dictionaries, files as what they hold."""
    shown: dict[bytes, object] = {}
    for name in paths.list(path):
        place = path + b"/" + name if path else name
        shown[name] = show(paths, place) if stat.S_ISDIR(paths.stat(place).mode) else paths.read(place)
    return shown


def change(paths: UnionPaths, dice: random.Random) -> None:
    """Something is made, removed or moved, if that can be done."""
    path, other = (b"/".join(dice.choices(NAMES, k=dice.randint(1, 3))) for _ in range(2))
    with contextlib.suppress(OSError):
        match dice.randrange(6):
            case 0 | 1:
                paths.write(path, b"%d" % dice.randrange(1000))
            case 2 | 3:
                paths.mkdir(path)
            case 4:
                paths.rename(path, other)
            case _:
                remove(paths, path)


def remove(paths: UnionPaths, path: bytes) -> None:
    if not stat.S_ISDIR(paths.stat(path).mode):
        paths.unlink(path)
        return
    for name in paths.list(path):
        remove(paths, path + b"/" + name)
    paths.rmdir(path)


@pytest.mark.parametrize("form", list(WhiteoutForm))
@pytest.mark.parametrize("most_names", [1 << 16, 20])
@pytest.mark.parametrize("seed", range(8))
def test_steps_on_steps_see_what_they_would_see_without(
    tmp_path: Path, form: WhiteoutForm, most_names: int, seed: int
) -> None:
    dice = random.Random(seed)
    lower: list[Path] = []
    with closing(ConstantScans(most_names)) as scans:
        for step in range(STEPS):
            upper = tmp_path / str(step)
            with closing(over(lower, upper, None, whiteouts=form)) as plain:
                expected = show(UnionPaths(plain))
            with closing(over(lower, upper, scans, whiteouts=form)) as union:
                paths = UnionPaths(union)
                assert show(paths) == expected
                for _ in range(CHANGES):
                    change(paths, dice)
            lower.append(upper)
    assert any(expected.values())


def test_a_directory_is_read_once(tmp_path: Path, scans: ConstantScans) -> None:
    lower, places = tmp_path / "lower", [tmp_path / "one", tmp_path / "two"]
    (lower / "d").mkdir(parents=True)
    with closing(over([lower], places[0], scans)) as union:
        assert show(UnionPaths(union)) == {b"d": {}}
    # nobody does that
    (lower / "d/new").write_text("new")
    with closing(over([lower], places[1], scans)) as union:
        assert show(UnionPaths(union)) == {b"d": {}}
    with closing(over([lower], places[1], scans, constant_branches=False)) as union:
        assert show(UnionPaths(union)) == {b"d": {b"new": b"new"}}


def test_what_can_be_written_is_read_each_time(tmp_path: Path, scans: ConstantScans) -> None:
    for count in range(3):
        with closing(over([], tmp_path / "upper", scans)) as union:
            paths = UnionPaths(union)
            assert len(paths.list(b"")) == count
            paths.write(b"%d" % count, b"")


def test_a_branch_that_took_the_place_of_another_is_another(tmp_path: Path, scans: ConstantScans) -> None:
    lower = tmp_path / "lower"
    for count in range(20):
        lower.mkdir()
        (lower / str(count)).touch()
        with closing(over([lower], tmp_path / "upper", scans)) as union:
            assert UnionPaths(union).list(b"") == [b"%d" % count]
        (lower / str(count)).unlink()
        lower.rmdir()


def test_nothing_is_held_afterwards(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    scans = ConstantScans(most_names=10)
    for number in range(5):
        lower = tmp_path / str(number)
        (lower / "d").mkdir(parents=True)
        for name in range(4):
            (lower / "d" / str(name)).touch()
        with closing(over([lower], tmp_path / "upper", scans)) as union:
            show(UnionPaths(union))
    # two branches of a directory and five names each are too many
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    scans.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)
