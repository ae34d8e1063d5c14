"""``unionctl diff --tar`` as a layer: umoci, skopeo and our own unpacking make of it what the union shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.trees import Ignored, differences, read_tree
from harness.unions import PROJECT, mounted
from layers.ensure import ensure_unpacked
from layers.snapshotter import Snapshotter
from layers.store import Store

pytestmark = [pytest.mark.e2e, pytest.mark.fuse]

ROOT = Ignored(".", ("mode", "owner"), "a layer says nothing about the root")


def run(*words: object) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{words[0]}: {done.stderr}"
    return done.stdout


def unionctl(*words: object) -> str:
    return run(sys.executable, "-m", "unionfs.cli.unionctl", *words)


def furnish(root: Path) -> None:
    for name in ("plain", "emptied/sub", "moved/deep", "replaced", "to-file", "kept"):
        (root / name).mkdir(parents=True)
        (root / name / "file").write_text(name)
    for name in ("gone", "to-dir", "to-link", "changed", "mode", "first"):
        (root / name).write_text(name)
    os.link(root / "first", root / "second")
    (root / "link").symlink_to("plain/file")


def change(root: Path) -> None:
    (root / "gone").unlink()
    (root / "to-dir").unlink()
    (root / "to-dir").mkdir()
    (root / "to-dir/new").touch()
    (root / "to-link").unlink()
    (root / "to-link").symlink_to("/absolute/target")
    run("rm", "-r", root / "replaced", root / "to-file", root / "emptied/sub")
    (root / "replaced").mkdir(mode=0o700)
    (root / "to-file").write_text("now a file")
    os.rename(root / "moved", root / "elsewhere")
    (root / "changed").write_text("with more in it")
    os.setxattr(root / "changed", "user.key", b"\0value\xff")
    os.chown(root / "mode", 3, 4)
    (root / "mode").chmod(0o4711)
    (root / "plain").chmod(0o1777)
    for name in ("one", "two", "three"):
        (root / "kept" / name).touch() if name == "one" else os.link(root / "kept/one", root / "kept" / name)
    with open(root / "sparse", "wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"middle")
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "device", 0o020600, os.makedev(1, 3))
    (root / ("long" * 60)).write_text("x")
    (root / "größe").write_text("x")


def test_umoci_skopeo_and_pybuild_take_it(tmp_path: Path) -> None:
    top, low, m, layout = (tmp_path / name for name in ("top", "low", "m", "layout"))
    for directory in (top, low, m):
        directory.mkdir()
    furnish(low)
    with mounted([top, low], m):
        run("tar", "--create", "--xattrs", "--file", tmp_path / "base.tar", "--directory", m, ".")
        unionctl(m, "snapshot", "base")
        change(m)
        with open(tmp_path / "diff.tar", "wb") as out:
            subprocess.run(
                [sys.executable, "-m", "unionfs.cli.unionctl", m, "diff", "--tar", "base"],
                env={**os.environ, "PYTHONPATH": str(PROJECT)}, stdout=out, check=True,
            )  # fmt: skip
        expected = read_tree(m)
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:made")
    for layer in ("base.tar", "diff.tar"):
        run("umoci", "raw", "add-layer", "--image", f"{layout}:made", tmp_path / layer)
    run("umoci", "unpack", "--image", f"{layout}:made", tmp_path / "bundle")
    assert differences(read_tree(tmp_path / "bundle/rootfs"), expected, (ROOT,)) == []
    run("skopeo", "copy", f"oci:{layout}:made", f"oci:{tmp_path}/copied:made")
    with Store(tmp_path / "copied") as store:
        image = store.image("made")
        ensure_unpacked(store, image.manifest, image.config)
        branches = Snapshotter(store).view(image.config.rootfs.chain_ids[-1])
        with mounted(branches, m, writable=0):
            assert differences(read_tree(m), expected, (ROOT,)) == []
