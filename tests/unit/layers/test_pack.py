"""A branch becomes a layer: what is written, in which order, and that it is always the same bytes."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from layers.digest import sha256
from layers.errors import PackError
from layers.pack import PackResult, RootAttributes, write_layer
from layers.tar.entry import DIRECTORY, HARD_LINK, Entry
from layers.tar.reader import TarReader
from layers.testing.trees import describe, random_tree
from layers.unpack import apply_layer

PROJECT = Path(__file__).parents[3]
EMPTY_LAYER = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"


def pack(root: Path, **options: object) -> tuple[list[Entry], bytes, PackResult]:
    buffer = io.BytesIO()
    result = write_layer(root, buffer, **options)
    data = buffer.getvalue()
    assert (result.diff_id, result.size) == (sha256(data), len(data))
    entries = list(TarReader(io.BytesIO(data)))
    assert result.entries == len(entries)
    return entries, data, result


def names(root: Path, **options: object) -> list[bytes]:
    return [entry.name for entry in pack(root, **options)[0]]


def test_empty_branch_is_the_empty_layer_of_docker(tmp_path: Path) -> None:
    assert pack(tmp_path)[2] == PackResult(EMPTY_LAYER, 1024, 0, ())


def test_order(tmp_path: Path) -> None:
    for path in ("b/z", "b/.wh.a", "b-c", "a", ".wh.zz", "c/d/e"):
        (tmp_path / path).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / path).touch()
    assert names(tmp_path) == [b".wh.zz", b"a", b"b", b"b/.wh.a", b"b/z", b"b-c", b"c", b"c/d", b"c/d/e"]


def test_opaque_directories_in_either_form(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".wh..wh..opq").touch()
    (tmp_path / "a" / ".wh.x").touch()
    (tmp_path / "b").mkdir()
    os.setxattr(tmp_path / "b", "user.fuseoverlayfs.opaque", b"y")
    assert names(tmp_path) == [b"a", b"a/.wh..wh..opq", b"a/.wh.x", b"b", b"b/.wh..wh..opq"]
    assert all(not entry.xattrs for entry in pack(tmp_path)[0])


def test_marks_have_no_attributes_of_their_own(tmp_path: Path) -> None:
    (tmp_path / ".wh.x").write_bytes(b"")
    os.chmod(tmp_path / ".wh.x", 0o4777)
    assert pack(tmp_path)[0] == [Entry(b".wh.x", mode=0)]


def test_hard_links_point_to_the_first_name(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "m").write_bytes(b"content")
    os.link(tmp_path / "d" / "m", tmp_path / "z")
    os.link(tmp_path / "d" / "m", tmp_path / "a")
    entries = {entry.name: entry for entry in pack(tmp_path)[0]}
    assert (entries[b"a"].size, entries[b"d/m"].type, entries[b"d/m"].linkname) == (7, HARD_LINK, b"a")
    assert (entries[b"z"].type, entries[b"z"].linkname) == (HARD_LINK, b"a")


def test_sockets_are_left_out_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        entries, _, result = pack(tmp_path)
    assert (entries, result.notes) == ([], ('"s" is a socket: left out',))


def test_times_are_whole_seconds_and_clamped(tmp_path: Path) -> None:
    for name, seconds in (("old", 1000), ("new", 5000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, ns=(0, seconds * 1_000_000_000 + 999_999_999))
    (tmp_path / "l").symlink_to("x")
    times = {entry.name: entry.mtime_ns for entry in pack(tmp_path, epoch=3000)[0]}
    assert times == {b"old": 1000 * 1_000_000_000, b"new": 3000 * 1_000_000_000, b"l": 3000 * 1_000_000_000}
    os.utime(tmp_path / "new", ns=(0, 5000 * 1_000_000_000))
    first = pack(tmp_path, epoch=3000)[1]
    os.utime(tmp_path / "new", ns=(7, 6000 * 1_000_000_000 + 7))
    assert pack(tmp_path, epoch=3000)[1] == first


def test_root_is_written_only_when_it_changed(tmp_path: Path) -> None:
    before = RootAttributes.of(tmp_path.stat())
    assert names(tmp_path, root_before=before) == []
    os.chmod(tmp_path, 0o711)
    (entry,) = pack(tmp_path, root_before=before)[0]
    assert (entry.name, entry.type, entry.mode) == (b".", DIRECTORY, 0o711)
    assert names(tmp_path) == []


def test_attributes_of_the_machine_stay_behind(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    os.setxattr(tmp_path / "f", "user.kept", b"1")
    os.setxattr(tmp_path / "f", "user.overlay.redirect", b"2")
    if os.geteuid() == 0:
        os.setxattr(tmp_path / "f", "security.selinux", b"system_u:object_r:t:s0\0")
        os.setxattr(tmp_path / "f", "trusted.overlay.origin", b"3")
    (entry,) = pack(tmp_path)[0]
    assert entry.xattrs == {b"user.kept": b"1"}


def test_capabilities_of_files_survive(tmp_path: Path) -> None:
    source = tmp_path / "s"
    source.mkdir()
    (source / "f").write_bytes(b"x")
    capability = b"\x01\x00\x00\x02\x00\x04" + bytes(14)
    os.setxattr(source / "f", "security.capability", capability)
    apply_layer(io.BytesIO(pack(source)[1]), tmp_path / "t")
    assert os.getxattr(tmp_path / "t" / "f", "security.capability") == capability


@pytest.mark.parametrize("seed", range(6))
def test_same_tree_same_bytes(tmp_path: Path, seed: int) -> None:
    source = tmp_path / "a"
    source.mkdir()
    random_tree(source, seed)
    _, data, result = pack(source)
    assert write_layer(source, None) == result
    subprocess.run(["cp", "-a", "--preserve=all", source, tmp_path / "b"], check=True)
    assert pack(tmp_path / "b")[1] == data
    apply_layer(io.BytesIO(data), tmp_path / "c")
    assert pack(tmp_path / "c")[1] == data


@pytest.mark.parametrize("seed", range(4))
def test_tree_survives(tmp_path: Path, seed: int) -> None:
    source = tmp_path / "a"
    source.mkdir(mode=0o755)
    os.utime(source, (0, 0))
    random_tree(source, seed, marks=False)
    apply_layer(io.BytesIO(pack(source)[1]), tmp_path / "c")
    ours, theirs = describe(tmp_path / "c"), describe(source)
    ours.pop(b"")
    theirs.pop(b"")
    assert ours == theirs


def test_other_pythons_write_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.mkdir()
    random_tree(source, 1)
    code = "import sys, pathlib; from layers.pack import write_layer; print(write_layer(pathlib.Path(sys.argv[1]), None).diff_id)"
    found = [path for version in ("3.11", "3.12", "3.13") if (path := shutil.which(f"python{version}"))]
    working = [
        path for path in found if subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0
    ]
    for python in [*working, sys.executable]:
        done = subprocess.run([python, "-c", code, source], capture_output=True, text=True, check=True, cwd=PROJECT)
        assert done.stdout.strip() == pack(source)[2].diff_id


def test_file_that_shrinks_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * (4 << 20))

    class Shrinking(io.BytesIO):
        def write(self, data: bytes, /) -> int:
            os.truncate(path, 1 << 20)
            return super().write(data)

    with pytest.raises(PackError, match='"f" became shorter'):
        write_layer(tmp_path, Shrinking())


def test_missing_branch(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="missing"):
        write_layer(tmp_path / "missing", None)


@pytest.mark.parametrize("options", [["-tvf"], ["--delay-directory-restore", "-xf"]])
def test_gnu_tar_takes_it(tmp_path: Path, options: list[str]) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    target.mkdir()
    random_tree(source, 2, marks=False)
    done = subprocess.run(["tar", *options, "-"], input=pack(source)[1], capture_output=True, check=True, cwd=target)
    assert done.stderr == b""
    if "-xf" in options and os.geteuid() == 0:
        ours, theirs = describe(source), describe(target)
        for tree in (ours, theirs):
            tree.pop(b"")
            for path, node in tree.items():
                tree[path] = node._replace(xattrs=())
        assert theirs == ours


def test_memory_does_not_grow_with_the_layer(tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(512 << 20)
    code = """
import pathlib, resource, sys
from layers.pack import write_layer
def peak_kib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak_kib()
write_layer(pathlib.Path(sys.argv[1]), None)
print(peak_kib() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    assert int(done.stdout) < 32 << 10
