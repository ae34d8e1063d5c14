"""scripts/bases.py: the mirror it takes, the archive it writes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def bases() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "scripts" / "bases.py"
    specification = importlib.util.spec_from_file_location("bases", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


DEB822 = """\
Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main
"""


@pytest.mark.parametrize(
    ("texts", "mirror"),
    [
        ([DEB822], "http://mirror.example/debian"),
        (["deb http://a.example/debian bookworm main contrib\n"], "http://a.example/debian"),
        (["deb [signed-by=/k.gpg arch=amd64] http://a.example/d/ bookworm main\n"], "http://a.example/d"),
        (["deb http://other.example/ubuntu jammy main\n", DEB822], "http://mirror.example/debian"),
        (["deb http://other.example/ubuntu jammy main\n"], "http://deb.debian.org/debian"),
        (["# deb http://off.example/debian bookworm main\n"], "http://deb.debian.org/debian"),
        ([], "http://deb.debian.org/debian"),
    ],
)
def test_mirror_is_the_machines_own(
    bases: ModuleType, monkeypatch: pytest.MonkeyPatch, texts: list[str], mirror: str
) -> None:
    monkeypatch.setattr(bases, "_source_texts", lambda: iter(texts))
    assert bases.machine_mirror() == mirror


def test_archive_describes_its_layer(bases: ModuleType, tmp_path: Path) -> None:
    def write_root(path: Path) -> None:
        with tarfile.open(path, "w") as tar:
            tar.addfile(tarfile.TarInfo("etc"))

    bases.BASES["tiny"] = bases.Base("tiny:1", ("true",), write_root, "1")
    root, archive = bases.make("tiny", tmp_path)
    with tarfile.open(archive) as tar:
        [manifest] = json.load(tar.extractfile("manifest.json"))
        config = json.load(tar.extractfile(manifest["Config"]))
        layer = tar.extractfile(manifest["Layers"][0]).read()
    assert manifest["RepoTags"] == ["tiny:1"]
    assert layer == root.read_bytes()
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    written = archive.stat()
    assert bases.make("tiny", tmp_path) == (root, archive)
    assert archive.stat().st_mtime_ns == written.st_mtime_ns
    assert {path.name for path in tmp_path.iterdir()} == {root.name, archive.name, ".tiny.lock"}


def test_base_that_cannot_be_made_leaves_nothing(bases: ModuleType, tmp_path: Path) -> None:
    def write_root(path: Path) -> None:
        path.write_bytes(b"half")
        raise bases.BaseError("no mirror")

    bases.BASES["tiny"] = bases.Base("tiny:1", ("true",), write_root, "1")
    with pytest.raises(bases.BaseError, match="no mirror"):
        bases.make("tiny", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".tiny.lock"]


@pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed")
def test_busybox_root_is_the_same_every_time(bases: ModuleType, tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        bases.write_busybox_root(tmp_path / name)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = {member.name: member for member in tar}
    assert members["bin/sh"].linkname == "bin/busybox"
    assert members["tmp"].mode == 0o1777


def test_unknown_base_is_a_usage_error(project_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, project_root / "scripts" / "bases.py", "plan9"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "plan9" in done.stderr
