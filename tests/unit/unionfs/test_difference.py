"""What differs between two states, and that it is a layer."""

from __future__ import annotations

import io
import os
import shutil
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layers.unpack import apply_layer
from unionfs.branch import Branch, OpenBranch
from unionfs.difference import Difference, Mark, State, compare, describe, write_tar
from unionfs.explain import explain
from unionfs.types import Access

from .test_merge import branches, build, union_tree, without_links


def differences(old: list[Path], new: list[Path], tar: io.BytesIO | None = None) -> list[str]:
    """One line for each difference, and for each directory that was entered; the layer goes into ``tar``."""
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(closing(State([Branch(os.fsencode(root)) for root in roots]))) for roots in (old, new)
        )
        if tar is not None:
            write_tar(compare(one, other), tar.write)
        return [describe(difference) for difference in compare(one, other)]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(olds=st.lists(branches, min_size=1, max_size=3), news=st.lists(branches, max_size=2), shared=branches)
def test_a_difference_applied_gives_the_new_state(tmp_path, olds, news, shared):
    base = tmp_path / "case"
    base.mkdir()
    try:
        roots = [base / str(number) for number in range(len(olds) + len(news) + 1)]
        for root, entries in zip(roots, [shared, *olds, *news], strict=True):
            build(root, entries)
        old = [*reversed(roots[1 : 1 + len(olds)]), roots[0]]
        new = [*reversed(roots[1 + len(olds) :]), roots[0]]
        tar = io.BytesIO()
        found = differences(old, new, tar)
        tar.seek(0)
        apply_layer(tar, base / "layer")
        expected = without_links(union_tree(*new))
        assert without_links(union_tree(base / "layer", *old)) == expected
        if without_links(union_tree(*old)) != expected:
            assert any(line[0] != "=" for line in found)
        # but for fractions of a second, which a layer does not hold
        assert {line[0] for line in differences([base / "layer", *old], new)} <= {"M", "="}
    finally:
        shutil.rmtree(base)


def test_what_counts_as_a_difference(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for root in (old, new):
        (root / "d/inner").mkdir(parents=True)
        for name in ("same", "content", "mode", "time", "attribute", "type"):
            (root / "d" / name).write_text("x")
            os.utime(root / "d" / name, ns=(1, 1))
        os.symlink("a", root / "d/link")
        os.utime(root / "d/link", ns=(1, 1), follow_symlinks=False)
    (new / "d/content").write_text("y")
    os.utime(new / "d/content", ns=(1, 1))
    (new / "d/mode").chmod(0o600)
    os.utime(new / "d/time", ns=(1, 2))
    os.setxattr(new / "d/attribute", "user.x", b"1")
    (new / "d/type").unlink()
    (new / "d/type").mkdir()
    (new / "d/inner").rmdir()
    assert differences([old], [new]) == [
        "= d", "M d/attribute", "M d/content", "D d/inner", "M d/mode", "M d/time", "M d/type (file → directory)",
    ]  # fmt: skip
    assert differences([new, old], [new, old]) == []


def test_what_is_shared_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("top/a", "low/a/b", "low/c"):
        (tmp_path / name).mkdir(parents=True)
    read: list[bytes] = []
    entries = State.entries
    monkeypatch.setattr(State, "entries", lambda self, path, extent: read.append(path) or entries(self, path, extent))
    assert differences([tmp_path / "low"], [tmp_path / "top", tmp_path / "low"]) == ["= a", "= a/b", "= c"]
    assert sorted(set(read)) == [b"", b"a"]


def test_a_mark_has_a_letter() -> None:
    assert describe(Difference(Mark.DELETED, b"a/\xff", None, None)) == "D a/\udcff"


def test_an_explanation(tmp_path: Path) -> None:
    for name in ("0/d", "1/d/opaque", "2/d/opaque"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("0/.wh.w", "1/w", "1/d/opaque/.wh..wh..opq", "1/d/f", "2/d/f", "2/d/opaque/x", "0/x", "3/d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "1/x").mkdir()
    opened = [
        OpenBranch(Branch(os.fsencode(tmp_path / str(position)), Access.RW if position == 1 else Access.RO), position)
        for position in range(4)
    ]
    one, other = (repr(str(tmp_path / name)) for name in "01")
    expected = {
        "w": (None, ["whiteout", f"file, hidden by the whiteout in {one}", "nothing", "nothing"]),
        "x": (0, ["file, shown", f"directory, hidden by the file in {one}", "nothing", "nothing"]),
        "d": (0, ["directory, shown", "directory, merged", "directory, merged", "file, hidden by the directory above"]),
        "d/f": (1, ["nothing", "file, shown", f"file, hidden by the file in {other}", "file 'd', hidden by the directory above"]),
        "d/opaque/x": (
            None,
            ["nothing 'd/opaque'", "nothing", f"directory 'd/opaque', hidden by the opaque directory in {other}"],
        ),
    }  # fmt: skip
    for path, (shown, sayings) in expected.items():
        explanation = explain(opened, path.encode())
        assert explanation.shown == shown
        assert [saying.says for saying in explanation.sayings][: len(sayings)] == sayings
    assert explain(opened, b"d/f").change == "changed in place"
    assert explain(opened, b"x").change == "cannot be changed"
    for branch in opened:
        branch.close()
