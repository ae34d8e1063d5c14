"""Names of lower files against a plain directory, with remounts between the operations (``inodes=stable``).

LINK_EXAMPLES is the number of cases for each form of whiteouts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.paths import Paths, PlainPaths, UnionPaths, tree
from property.test_union import _SAME_ERROR, apply
from unionfs.branch import Branch, BranchStack
from unionfs.types import Access, UnionOptions, WhiteoutForm
from unionfs.union import Union

DIRECTORIES = (b"d", b"e", b"d/e")
FILES = (b"a", b"b", b"d/a", b"d/b", b"d/c", b"e/a", b"d/e/a", b"d/e/b")
files = st.sampled_from(FILES)
directories = st.sampled_from(DIRECTORIES)
flags = st.sampled_from((0, 0, 1, 2))
steps = st.one_of(
    st.tuples(st.just("remount")),
    st.tuples(st.just("append"), files, st.just(b"z")),
    st.tuples(st.just("chmod"), files, st.sampled_from((0o600, 0o755))),
    st.tuples(st.just("stat"), files),
    st.tuples(st.just("unlink"), files),
    st.tuples(st.just("link"), files, files),
    st.tuples(st.just("rename"), files, files, flags),
    st.tuples(st.just("rename"), directories, directories, flags),
)


def shown(paths: Paths) -> tuple[dict[bytes, tuple[object, ...]], set[frozenset[bytes]]]:
    """What shows, without numbers of links, and which names lead to one file."""
    found = {path: entry[:-1] for path, entry in tree(paths).items()}
    names: dict[int, set[bytes]] = {}
    for path in found.keys() - set(DIRECTORIES):
        names.setdefault(paths.ino(path), set()).add(path)
    return found, {frozenset(group) for group in names.values()}


@pytest.mark.parametrize("form", list(WhiteoutForm), ids=lambda form: form.value)
@settings(
    max_examples=int(os.environ.get("LINK_EXAMPLES", "25")), deadline=None, suppress_health_check=list(HealthCheck)
)
@given(
    lower=st.dictionaries(files, st.integers(0, 2), min_size=3),
    forgetful=st.booleans(),
    operations=st.lists(steps, max_size=20),
)
def test_names_stay_together(
    form: WhiteoutForm, lower: dict[bytes, int], forgetful: bool, operations: list[tuple[Any, ...]]
) -> None:
    """``lower``: the files, and which of three contents, one file each, they are names of."""
    base = Path(tempfile.mkdtemp())
    branches = (Branch(os.fsencode(base / "top")), Branch(os.fsencode(base / "bottom"), Access.RO))
    options = UnionOptions(whiteouts=form, stable_inodes=True, volatile=True)
    try:
        (base / "top").mkdir()
        for directory in DIRECTORIES:
            (base / "bottom" / os.fsdecode(directory)).mkdir(parents=True)
        first: dict[int, Path] = {}
        for path, number in lower.items():
            place = base / "bottom" / os.fsdecode(path)
            if number in first:
                os.link(first[number], place)
            else:
                first[number] = place
                place.write_bytes(b"%d" % number)
        subprocess.run(["cp", "-a", base / "bottom", base / "plain"], check=True)
        plain = PlainPaths(base / "plain")
        union = Union(BranchStack(branches), options)
        try:
            seen = UnionPaths(union, forgetful=forgetful)
            for step in (*operations, ("remount",)):
                if step == ("remount",):
                    union.close()
                    union = Union(BranchStack(branches), options)
                    seen = UnionPaths(union, forgetful=forgetful)
                else:
                    expected, got = apply(plain, step), apply(seen, step)
                    assert expected == got or frozenset((expected, got)) in _SAME_ERROR, step
                assert shown(seen) == shown(plain), step
        finally:
            union.close()
        assert not (base / "top/.wh..unionfs").exists()
    finally:
        shutil.rmtree(base)
