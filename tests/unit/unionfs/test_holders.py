"""Which branches hold what a union shows at a path: each of them, and nothing else, is what is merged there."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from unionfs.branch import Branch, open_branches
from unionfs.explain import holders
from unionfs.types import Access

TOP = ("d/", "d/.wh.gone", "d/over", "o/", "o/.wh..wh..opq", "o/top", ".wh.hidden", "f/", "f/new")
MIDDLE = ("d/", "d/gone", "d/over/", "d/over/x", "o/", "o/middle", "hidden", "f", "only/", "only/deep/")
BOTTOM = ("d/", "d/low", "o/", "f/", "f/old", "only/", "only/deep/", "only/deep/file", "cut/", "cut/x/")
CASES = {
    "": "top middle bottom",
    "d": "top middle bottom",
    "d/gone": "",
    "d/low": "bottom",
    "d/over": "top",
    "d/over/x": "",
    "o": "top",
    "o/middle": "",
    "hidden": "",
    "f": "top",
    "f/new": "top",
    "f/old": "",
    "only/deep": "middle bottom",
    "only/deep/file": "bottom",
    "only/deep/file/below": "",
    "absent": "",
    "absent/deep": "",
    "cut/x": "bottom",
}


@pytest.mark.parametrize("path", CASES)
def test_the_branches_of_what_is_shown(path: str, tmp_path: Path) -> None:
    for name, entries in (("top", TOP), ("middle", MIDDLE), ("bottom", BOTTOM)):
        for entry in entries:
            place = tmp_path / name / entry
            place.parent.mkdir(parents=True, exist_ok=True)
            if entry.endswith("/"):
                place.mkdir(exist_ok=True)
            else:
                place.touch()
    with ExitStack() as stack:
        names = ("top", "middle", "bottom")
        opened = open_branches(tuple(Branch(os.fsencode(tmp_path / name), Access.RO) for name in names))
        for branch in opened:
            stack.enter_context(closing(branch))
        found = holders(opened, path.encode())
    assert [os.path.basename(os.fsdecode(one.branch.path)) for one in found] == CASES[path].split()
