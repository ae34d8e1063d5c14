"""Every archive of the corpus either is refused and changes nothing, or makes only what it may, inside."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path

import pytest

from corpus.archives import hostile
from layers.compression import detect
from layers.digest import sha256
from layers.errors import ArchiveError, ContentMismatchError, StoreError
from layers.extraction import Rights
from layers.limits import Limits
from layers.testing.trees import describe
from layers.unpack import apply_layer
from unionfs.removal import remove_tree

NAMES = [case.name for case in hostile.cases(b"/outside/there")]


def outside_directory(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    return outside


@pytest.mark.parametrize(
    "index",
    [
        pytest.param(
            index, id=name, marks=[pytest.mark.root("has devices made")] if name == "a device through a link" else []
        )
        for index, name in enumerate(NAMES)
    ],
)
def test_archive(tmp_path: Path, index: int) -> None:
    outside = outside_directory(tmp_path)
    before = describe(outside)
    case = hostile.cases(os.fsencode(outside))[index]
    work = tmp_path / "work"
    work.mkdir()
    target = work / "target"
    as_it_is = "cut off" in case.name or detect(case.archive) != "none"
    stream = io.BytesIO(case.archive if as_it_is else hostile.whole(case.archive))
    if case.error is None:
        result = apply_layer(stream, target)
        assert set(describe(target)) == case.paths
        assert result.diff_id == sha256(stream.getvalue())
        assert os.listdir(work) == ["target"]
    else:
        with pytest.raises(ArchiveError, match=case.error) as raised:
            apply_layer(stream, target)
        assert str(raised.value).isprintable()
        assert len(str(raised.value)) < 500
        assert os.listdir(work) == []
    assert describe(outside) == before


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_archive_changes_nothing_when_its_digest_is_wrong(tmp_path: Path, index: int) -> None:
    outside = outside_directory(tmp_path)
    case = hostile.cases(os.fsencode(outside))[index]
    with pytest.raises((ArchiveError, ContentMismatchError)):
        apply_layer(io.BytesIO(hostile.whole(case.archive)), tmp_path / "target", expected=sha256(b"other"))
    assert sorted(os.listdir(tmp_path)) == ["outside"]
    assert os.listdir(outside) == ["kept"]


def test_archive_cut_off_anywhere_changes_nothing(tmp_path: Path) -> None:
    plain = hostile.whole(hostile.file(b"a", b"x" * 2000) + hostile.directory(b"d") + hostile.file(b"d/b"))
    packed = gzip.compress(plain, mtime=0)
    for data in [packed[:length] for length in range(2, len(packed), 7)]:
        with pytest.raises(ArchiveError):
            apply_layer(io.BytesIO(data), tmp_path / "target")
        assert os.listdir(tmp_path) == []


def test_bomb_by_ratio(tmp_path: Path) -> None:
    limits = Limits(ratio=100, ratio_free_bytes=1 << 20)
    with pytest.raises(ArchiveError, match="grew more than 100 times"):
        apply_layer(io.BytesIO(hostile.zip_bomb(1 << 30)), tmp_path / "target", limits=limits)
    assert os.listdir(tmp_path) == []


def test_bomb_by_total(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="more than 1000000 bytes"):
        apply_layer(io.BytesIO(hostile.zip_bomb(1 << 30)), tmp_path / "target", limits=Limits(total_bytes=1_000_000))
    assert os.listdir(tmp_path) == []


def test_bomb_by_count(tmp_path: Path) -> None:
    archive = hostile.whole(b"".join(hostile.file(b"%d" % number, b"") for number in range(50)))
    with pytest.raises(ArchiveError, match="more than 49 entries"):
        apply_layer(io.BytesIO(archive), tmp_path / "target", limits=Limits(entries=49))
    apply_layer(io.BytesIO(archive), tmp_path / "target", limits=Limits(entries=50))


def test_an_attribute_that_does_not_fit_is_named(tmp_path: Path) -> None:
    archive = hostile.pax(hostile.record(b"SCHILY.xattr.user.a", b"v" * 70_000)) + hostile.file(b"f")
    with pytest.raises(StoreError, match=r'entry "f": attribute "user\.a" of 70000 bytes does not fit'):
        apply_layer(io.BytesIO(hostile.whole(archive)), tmp_path / "target")
    assert os.listdir(tmp_path) == []


def test_deep_paths_are_made_and_removed(tmp_path: Path) -> None:
    deep = b"/".join([b"d"] * 300)
    archive = hostile.file(deep + b"/f")
    apply_layer(io.BytesIO(hostile.whole(archive)), tmp_path / "target")
    with pytest.raises(ArchiveError):
        apply_layer(io.BytesIO(hostile.whole(archive + hostile.file(b"../x"))), tmp_path / "other")
    assert os.listdir(tmp_path) == ["target"]
    remove_tree(tmp_path / "target")
    assert os.listdir(tmp_path) == []


def test_rights_of_a_plain_user(tmp_path: Path) -> None:
    archive = hostile.file(b"suid", mode=0o6755, uid=5, gid=6) + hostile.directory(b"d", 0o2755)
    archive += hostile.encode_header(hostile.Entry(b"null", hostile.CHARACTER_DEVICE, 0o666, major=1, minor=3))
    rights = Rights(owners=False, devices=False, setuid=False)
    result = apply_layer(io.BytesIO(hostile.whole(archive)), tmp_path / "target", rights=rights)
    tree = describe(tmp_path / "target")
    assert set(tree) == {b"", b"suid", b"d"}
    assert (tree[b"suid"].mode, tree[b"suid"].uid, tree[b"d"].mode) == (0o755, os.geteuid(), 0o755)
    assert result.notes == ('"null" is a device: left out',)


def test_marks_of_other_unions_do_not_come_from_archives(tmp_path: Path) -> None:
    records = b"".join(
        hostile.record(b"SCHILY.xattr." + key, b"y")
        for key in (b"trusted.overlay.opaque", b"user.overlay.whiteout", b"user.fuseoverlayfs.opaque", b"user.kept")
    )
    apply_layer(io.BytesIO(hostile.whole(hostile.pax(records) + hostile.file(b"f", b""))), tmp_path / "target")
    assert os.listxattr(tmp_path / "target" / "f") == ["user.kept"]


def test_target_that_is_not_empty_stays(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "there").touch()
    with pytest.raises(StoreError, match="target"):
        apply_layer(io.BytesIO(hostile.whole(hostile.file(b"f"))), target)
    assert os.listdir(target) == ["there"]
    assert os.listdir(tmp_path) == ["target"]
