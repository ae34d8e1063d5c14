"""Passthrough where branches lie on other file systems than a plain one."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse.conftest import attached, statistics
from unionfs.branch import Branch
from unionfs.client import UnionServer
from unionfs.files import CACHED_BYTES
from unionfs.mounting import attach, stack_depth
from unionfs.types import Access, UnionOptions

pytestmark = pytest.mark.fuse


@contextlib.contextmanager
def overlay(base: Path, lower: Path) -> Iterator[Path]:
    """An overlayfs above ``lower``, as the root of a container is one."""
    for name in ("over", "over-upper", "over-work"):
        (base / name).mkdir()
    options = f"lowerdir={lower},upperdir={base}/over-upper,workdir={base}/over-work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, base / "over"], check=True)
    try:
        yield base / "over"
    finally:
        subprocess.run(["umount", base / "over"], check=True)


@pytest.mark.root("has the kernel read by itself")
def test_branches_on_overlayfs_pass_through(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    content = bytes(CACHED_BYTES + 1)
    (tree / "sub/inner").write_bytes(content)
    with overlay(tmp_path, tree) as place, UnionServer.start() as server:
        (place / "top").mkdir()
        branches = [Branch(os.fsencode(place / "top")), Branch(os.fsencode(place / "sub"), Access.RO)]
        assert stack_depth(branch.path for branch in branches) == 2
        mount = server.mount(branches, UnionOptions(), passthrough="fast")
        attach(mount.fd, os.fsencode(root))
        os.close(mount.fd)
        assert (root / "inner").read_bytes() == content
        (root / "new").write_bytes(b"new")
        with open(root / "inner", "ab") as file:
            file.write(b" and more")
        assert (root / "inner").read_bytes() == content + b" and more"
        subprocess.run(["umount", root], check=True)
        told = statistics(mount)
        assert told is not None
        assert not {"READ", "WRITE"} & told["opcodes"].keys()
        assert (place / "top/inner").read_bytes() == content + b" and more"


def test_overlayfs_lies_above_a_union(tree: Path, tmp_path: Path) -> None:
    with UnionServer.start() as server, attached(server, tree, tmp_path / "root") as root:
        assert stack_depth([os.fsencode(tree)]) == 1
        with overlay(tmp_path, root) as place:
            assert (place / "sub/inner").read_bytes() == b"inner"


@pytest.mark.parametrize("passthrough", ["fast", "off"])
def test_small_files_are_in_the_cache_when_they_are_open(tree: Path, tmp_path: Path, passthrough: str) -> None:
    root, top = tmp_path / "root", tmp_path / "top"
    root.mkdir()
    top.mkdir()
    odd = bytes(range(256)) * 20 + b"odd"  # more than a page, and no whole number of them
    (tree / "odd").write_bytes(odd)
    with UnionServer.start() as server:
        branches = [Branch(os.fsencode(top)), Branch(os.fsencode(tree), Access.RO)]
        mount = server.mount(branches, UnionOptions(), passthrough=passthrough)
        attach(mount.fd, os.fsencode(root))
        os.close(mount.fd)
        for _ in range(2):
            assert (root / "odd").read_bytes() == odd
            assert (root / "sub/inner").read_bytes() == b"inner"
        with open(root / "sub/inner", "rb") as reader:
            (root / "sub/inner").write_bytes(b"changed by another")
            assert reader.read() == b"changed by another"
        assert (root / "sub/inner").read_bytes() == b"changed by another"
        (root / "sub/inner").write_bytes(b"short")
        assert (root / "sub/inner").read_bytes() == b"short"
        subprocess.run(["umount", root], check=True)
        told = statistics(mount)
    assert told is not None
    assert told["opcodes"].get("READ", 0) <= 2, "only what was written is asked for"
