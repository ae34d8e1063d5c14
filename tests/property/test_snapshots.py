"""Snapshots among other operations, against copies of a plain directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.paths import Paths, PlainPaths, UnionPaths, tree
from property.test_union import apply, branches, make_branch, merge_naively, operations, through_link
from unionfs.branch import Branch, BranchStack
from unionfs.snapshots import Line, expand, roll_back, take_snapshot
from unionfs.types import Access, UnionOptions, WhiteoutForm
from unionfs.union import Union

# names of one file of which some were copied up are several files after a remount, so no links are made
changes = operations.filter(lambda step: step[0] != "link")
steps = st.one_of(changes, changes, changes, st.just(("snapshot",)), st.tuples(st.just("rollback"), st.integers(0, 9)))


def shown(paths: Paths) -> dict[bytes, tuple[object, ...]]:
    """Everything but the numbers of links."""
    return {path: entry[:-1] for path, entry in tree(paths).items()}


class _Model:
    """A plain directory and its copies by name."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.now = base / "plain"
        self.names: list[str] = []

    def keep(self, name: str) -> None:
        subprocess.run(["cp", "-a", self.now, self.base / f"kept-{name}"], check=True)
        self.names.append(name)

    def back(self, name: str) -> None:
        shutil.rmtree(self.now)
        subprocess.run(["cp", "-a", self.base / f"kept-{name}", self.now], check=True)


def _step(step: tuple[Any, ...], model: _Model, union: Union, line: Line, seen: UnionPaths) -> None:
    plain = PlainPaths(model.now)
    if step[0] == "snapshot":
        name = f"s{len(model.names)}"
        take_snapshot(union, line, name)
        model.keep(name)
    elif step[0] == "rollback":
        if model.names:
            name = model.names[step[1] % len(model.names)]
            seen.forget_all()
            aside = roll_back(union, line, name)
            model.keep(aside)
            model.back(name)
    elif not through_link(plain, step):
        apply(plain, step)
        apply(seen, step)


@settings(
    max_examples=int(os.environ.get("UNION_EXAMPLES", "60")), deadline=None, suppress_health_check=list(HealthCheck)
)
@given(
    layers=st.lists(branches, min_size=2, max_size=3),
    form=st.sampled_from(list(WhiteoutForm)),
    forgetful=st.booleans(),
    todo=st.lists(steps, max_size=25),
)
def test_snapshots_equal_copies(
    layers: list[dict[bytes, str]], form: WhiteoutForm, forgetful: bool, todo: list[tuple[Any, ...]]
) -> None:
    if os.geteuid() != 0:
        todo = [step for step in todo if step[0] != "chown"]
    base = Path(tempfile.mkdtemp())
    try:
        roots = [base / str(number) for number in range(len(layers))]
        for root, layer in zip(roots, layers, strict=True):
            make_branch(root, layer)
        model = _Model(base)
        merge_naively(roots, model.now)
        given = [Branch(os.fsencode(root), Access.RW if not number else Access.RO) for number, root in enumerate(roots)]
        options = UnionOptions(whiteouts=form)
        union, line = Union(BranchStack(expand(given)), options), Line(given[0].path)
        try:
            seen = UnionPaths(union, forgetful=forgetful)
            for step in todo:
                _step(step, model, union, line, seen)
                assert shown(seen) == shown(PlainPaths(model.now)), step
            seen.forget_all()
        finally:
            union.close()
            line.close()
        for name in (None, *model.names):
            again = Union(BranchStack(expand(given, at=name)), UnionOptions(read_only=True))
            kept = model.now if name is None else base / f"kept-{name}"
            try:
                assert shown(UnionPaths(again)) == shown(PlainPaths(kept)), name
            finally:
                again.close()
    finally:
        shutil.rmtree(base)
