"""Images in every form are read by other programs: same digests, same files."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from harness.inside import as_root
from harness.pybuild import Pybuild

DOCKERFILE = "FROM busybox\nRUN mkdir /d && echo content > /d/f && ln /d/f /d/g && rm /bin/yes\n"
# a plain user's buildah mounts in a namespace only; in what it calls vfs the directory is there outside too
BUILDAH_AS_ROOT = () if os.geteuid() == 0 else ("buildah", "unshare")
FORMS = {
    "uncompressed": "compression=uncompressed",
    "gzip, level 9": "compression=gzip,compression-level=9",
    "zstd": "compression=zstd,force-compression=true",
    "estargz": "compression=estargz,force-compression=true",
}


def run(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words[0]}: {done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text(DOCKERFILE)
    return directory


@pytest.mark.parametrize("form", FORMS)
def test_skopeo_umoci_and_buildah_read_it(small: Pybuild, context: Path, tmp_path: Path, form: str) -> None:
    layout = tmp_path / "layout"
    small.run("build", "-t", "made", "-o", f"type=oci,tar=false,dest={layout},{FORMS[form]}", context)
    [entry] = json.loads((layout / "index.json").read_text())["manifests"]
    copied = tmp_path / "copied"
    run("skopeo", "copy", f"oci:{layout}:made:latest", f"dir:{copied}")
    manifest = (layout / "blobs/sha256" / entry["digest"].removeprefix("sha256:")).read_bytes()
    assert (copied / "manifest.json").read_bytes() == manifest
    storage = ["--root", str(tmp_path / "storage"), "--runroot", str(tmp_path / "runroot"), "--storage-driver", "vfs"]
    name = run("buildah", *storage, "pull", "-q", f"oci:{layout}:made:latest").strip()
    container = run("buildah", *storage, "from", name).strip()
    root = Path(run(*BUILDAH_AS_ROOT, "buildah", *storage, "mount", container).strip())
    assert (root / "d/f").read_text() == "content\n"
    assert (root / "d/f").samefile(root / "d/g")
    assert not (root / "bin/yes").exists()
    run("buildah", *storage, "rm", container)
    run("buildah", *storage, "rmi", "-a", "-f")
    if form != "zstd":  # which umoci does not know
        bundle = tmp_path / "bundle"
        run(*as_root("umoci", "unpack", "--image", f"{layout}:made:latest", bundle))
        assert (bundle / "rootfs/d/f").read_text() == "content\n"


@pytest.mark.parametrize("compression", ["uncompressed", "gzip"])
def test_docker_s_archive_comes_back(small: Pybuild, context: Path, tmp_path: Path, compression: str) -> None:
    archive = tmp_path / "made.tar"
    small.run("build", "-t", "made", "-o", f"type=docker,dest={archive},compression={compression}", context)
    identity = json.loads(small.run("inspect", "made").stdout)[0]["Id"]
    config = json.loads(run("skopeo", "inspect", "--config", f"docker-archive:{archive}"))
    assert config["architecture"]
    other = Pybuild(tmp_path / "other")
    other.run("load", "-i", archive)
    assert json.loads(other.run("inspect", "made").stdout)[0]["Id"] == identity
    assert other.run("run", "made", "cat", "/d/g").stdout == "content\n"


def test_docker_s_media_types_in_a_registry(
    small: Pybuild, context: Path, tmp_path: Path, docker_registry: str
) -> None:
    name = f"{docker_registry}/forms:docker"
    small.run("build", "-o", f"type=registry,name={name},oci-mediatypes=false", context)
    manifest = json.loads(run("skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{name}"))
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert manifest["config"]["mediaType"] == "application/vnd.docker.container.image.v1+json"
    kinds = {layer["mediaType"] for layer in manifest["layers"]}
    assert kinds == {"application/vnd.docker.image.rootfs.diff.tar.gzip"}
    assert "annotations" not in manifest
    other = Pybuild(tmp_path / "other")
    other.run("pull", name)
    assert other.run("run", name, "cat", "/d/g").stdout == "content\n"
