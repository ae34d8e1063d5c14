"""snapmerge: OUT shows what the union of the snapshots over it showed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.paths import PlainPaths, UnionPaths, tree
from unionfs.branch import Branch, BranchStack
from unionfs.cli import snapmerge
from unionfs.errors import UnionError
from unionfs.merge import merge
from unionfs.types import Access
from unionfs.union import Union

PATHS = ("a", "b", "a/a", "a/b", "b/a", "a/a/a", "a/a/b")
KINDS = ("dir", "opaque", "file", "link", "whiteout", "hard")
branches = st.dictionaries(st.sampled_from(PATHS), st.sampled_from(KINDS), max_size=7)


def build(root: Path, entries: dict[str, str]) -> None:
    root.mkdir()
    first = None
    for path, kind in sorted(entries.items()):
        place = root / path
        if any(os.path.lexists(parent) and (parent.is_symlink() or not parent.is_dir()) for parent in place.parents):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(place):
            continue
        if kind in {"dir", "opaque"}:
            place.mkdir(mode=0o750)
            if kind == "opaque":
                (place / ".wh..wh..opq").touch()
        elif kind == "link":
            place.symlink_to(f"of-{root.name}")
        elif kind == "whiteout":
            (place.parent / f".wh.{place.name}").touch()
        elif kind == "hard" and first is not None:
            os.link(first, place)
        else:
            place.write_text(f"{path} of {root.name}")
            first = place


def union_tree(*roots: Path) -> dict[bytes, tuple[object, ...]]:
    union = Union(BranchStack(tuple(Branch(os.fsencode(root), Access.RO) for root in roots)))
    try:
        return tree(UnionPaths(union))
    finally:
        union.close()


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(layers=st.lists(branches, min_size=2, max_size=4), keep=st.booleans(), bottom=branches)
def test_the_result_shows_what_the_union_showed(tmp_path, layers, keep, bottom):
    base = tmp_path / "case"
    base.mkdir()
    try:
        roots = [base / str(number) for number in range(len(layers))]
        for root, layer in zip(roots, layers, strict=True):
            build(root, layer)
        out, *snapshots = roots
        build(base / "bottom", bottom)
        expected = union_tree(*reversed(roots))
        below = union_tree(*reversed(roots), base / "bottom")
        lines: list[str] = []
        untouched = tree(PlainPaths(out))
        merge(out, snapshots, keep_whiteouts=keep, dry_run=True, report=lines.append)
        assert tree(PlainPaths(out)) == untouched
        for _ in range(2):
            merge(out, snapshots, keep_whiteouts=keep, dry_run=False, report=lines.append)
            assert without_links(union_tree(out)) == without_links(expected)
            if keep:
                assert without_links(union_tree(out, base / "bottom")) == without_links(below)
        assert not (out / ".wh..unionfs").exists()
    finally:
        shutil.rmtree(base)


def without_links(found):
    """Without the number of links: names of one file in several snapshots are several files."""
    return {path: entry[:-1] for path, entry in found.items()}


def test_metadata_links_holes_and_times_come_along(tmp_path):
    out, snapshot = tmp_path / "out", tmp_path / "s"
    (out / "d").mkdir(parents=True)
    (snapshot / "d").mkdir(parents=True)
    (snapshot / "d/f").write_text("x")
    os.setxattr(snapshot / "d/f", "user.x", b"1")
    os.link(snapshot / "d/f", snapshot / "hard")
    with (snapshot / "sparse").open("wb") as file:
        file.truncate(1 << 24)
    os.chmod(snapshot / "d", 0o711)
    os.utime(snapshot / "d", ns=(1, 2_000_000_003))
    merge(out, [snapshot], keep_whiteouts=False, dry_run=False, report=lambda _line: None)
    assert (out / "d").stat().st_mtime_ns == 2_000_000_003
    assert (out / "d").stat().st_mode & 0o777 == 0o711
    assert os.path.samefile(out / "d/f", out / "hard")
    assert os.getxattr(out / "hard", "user.x") == b"1"
    assert (out / "sparse").stat().st_blocks == 0


def test_the_report_names_what_is_done(tmp_path):
    out, snapshot = tmp_path / "out", tmp_path / "s"
    out.mkdir()
    (out / "old").touch()
    (snapshot / "d").mkdir(parents=True)
    (snapshot / "d/f").touch()
    (snapshot / ".wh.old").touch()
    lines: list[str] = []
    merge(out, [snapshot], keep_whiteouts=True, dry_run=True, report=lines.append)
    assert lines == ["remove old", "keep whiteout old", "make directory d", "write d/f"]
    assert os.listdir(out) == ["old"]


def test_what_cannot_be_merged_is_refused_by_name(tmp_path):
    for name in ("out", "s"):
        (tmp_path / name).mkdir()
    for snapshots in ([], [tmp_path / "none"], [tmp_path / "s", tmp_path / "s"], [tmp_path / "out"]):
        with pytest.raises(UnionError):
            merge(tmp_path / "out", snapshots, keep_whiteouts=False, dry_run=False, report=print)


def test_nothing_outside_of_out_is_touched(tmp_path):
    out, snapshot, outside = tmp_path / "out", tmp_path / "s", tmp_path / "outside"
    for directory in (out / "sub", snapshot / "sub", snapshot / "to-outside", snapshot / "fresh", outside / "d"):
        directory.mkdir(parents=True)
    (outside / "f").write_text("safe")
    # what is a directory in the snapshot is a link in OUT, and the other way round
    (out / "to-outside").symlink_to(outside)
    (out / "fresh").symlink_to("../outside")
    (out / "file").symlink_to(outside / "f")
    (snapshot / "to-outside/f").write_text("evil")
    (snapshot / "to-outside/.wh.d").touch()
    (snapshot / "fresh/.wh..wh..opq").touch()
    (snapshot / "fresh/f").symlink_to(outside / "f")
    (snapshot / "file").write_text("evil")
    (snapshot / "sub/up").symlink_to("..")
    os.chmod(snapshot / "to-outside", 0o777)
    for place in (snapshot, snapshot / "sub"):
        for mark in (".wh.", ".wh..", ".wh..."):
            (place / mark).touch()
    (snapshot / ".wh..unionfs").symlink_to(outside)
    before = tree(PlainPaths(outside))
    merge(out, [snapshot], keep_whiteouts=False, dry_run=False, report=lambda _line: None)
    assert tree(PlainPaths(outside)) == before
    assert (out / "to-outside/f").read_text() == (out / "file").read_text() == "evil"
    assert (out / "fresh/f").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["out", "outside", "s"]
    assert sorted(os.listdir(out)) == ["file", "fresh", "sub", "to-outside"]


def test_a_link_in_place_of_outs_own_directory_is_refused(tmp_path):
    for name in ("out", "s", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "s/file").touch()
    (tmp_path / "out/.wh..unionfs").symlink_to(tmp_path / "outside")
    with pytest.raises(NotADirectoryError):
        merge(tmp_path / "out", [tmp_path / "s"], keep_whiteouts=False, dry_run=False, report=print)
    assert os.listdir(tmp_path / "outside") == []


def test_type_changes_replace(tmp_path):
    kinds = {
        "file": lambda place: place.write_text("x"),
        "dir": lambda place: (place / "sub").mkdir(parents=True),
        "link": lambda place: place.symlink_to("x"),
        "fifo": os.mkfifo,
        "device": lambda place: os.mknod(place, 0o060600, os.makedev(7, 9)),
    }
    out, snapshot = tmp_path / "out", tmp_path / "s"
    for root in (out, snapshot):
        root.mkdir()
    for old, make_old in kinds.items():
        for new, make_new in kinds.items():
            make_old(out / f"{old}-{new}")
            make_new(snapshot / f"{old}-{new}")
    merge(out, [snapshot], keep_whiteouts=False, dry_run=False, report=lambda _line: None)
    for old in kinds:
        for new in kinds:
            place = out / f"{old}-{new}"
            assert os.lstat(place).st_mode == os.lstat(snapshot / place.name).st_mode, place.name
            assert os.lstat(place).st_rdev == os.lstat(snapshot / place.name).st_rdev


COMMAND = {
    "a dry run": (["-n", "out", "s"], 0, "write f\n", ""),
    "both flags": (["-nk", "out", "--", "s"], 0, "write f\n", ""),
    "a merge": (["out", "s"], 0, "", ""),
    "no snapshot": (["out"], 2, "", "snapmerge: expected OUT and at least one snapshot\nhint: snapmerge --help\n"),
    "unknown option": (["-x", "out", "s"], 2, "", "snapmerge: option '-x' is unknown\nhint: snapmerge --help\n"),
    "missing": (["out", "none"], 1, "", "snapmerge: branch 'none': expected a directory: no such file or directory\n"),
    "itself": (["out", "out"], 1, "", "snapmerge: branch 'out': is already there as 'out'\n"),
    "inside": (["out", "out/d"], 1, "", "snapmerge: branch 'out/d': lies inside branch 'out'\n"),
}


@pytest.mark.parametrize(("words", "status", "out", "err"), COMMAND.values(), ids=COMMAND)
def test_the_command(words, status, out, err, tmp_path, monkeypatch, capfd):
    (tmp_path / "out/d").mkdir(parents=True)
    (tmp_path / "s").mkdir()
    (tmp_path / "s/f").touch()
    monkeypatch.chdir(tmp_path)
    assert snapmerge.main(words) == status
    assert capfd.readouterr() == (out, err)
    assert (tmp_path / "out/f").exists() == (words == ["out", "s"])
