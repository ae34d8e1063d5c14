"""The file tree of a build equals that of ``docker build``."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.dockerd import Dockerd
from harness.pybuild import Pybuild
from harness.trees import Ignored, differences, read_tree

RULES = tomllib.loads((Path(__file__).parent / "differential.toml").read_text())
IGNORED = tuple(Ignored(rule["path"], tuple(rule["fields"]), rule["reason"]) for rule in RULES["ignored"])


def _tree_of_docker(dockerd: Dockerd, context: Path, target: Path) -> Path:
    archive = target.with_suffix(".tar")
    dockerd.run("build", "--network", "host", "--output", f"type=tar,dest={archive}", context)
    target.mkdir()
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", target, "--xattrs"], check=True)
    archive.unlink()
    return target


def unpacked_by_umoci(workshop: Pybuild, name: str, directory: Path) -> Path:
    """The root filesystem of an image of the store, unpacked by umoci from an OCI layout that skopeo copied."""
    workshop.run("save", "--format", "oci", "-o", directory / "image.tar", name)
    layout = directory / "layout"
    subprocess.run(
        ["skopeo", "copy", "--quiet", f"oci-archive:{directory / 'image.tar'}", f"oci:{layout}:image"], check=True
    )
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:image", directory / "bundle"], check=True)
    return directory / "bundle" / "rootfs"


@pytest.mark.slow
@pytest.mark.parametrize("example", ["arguments", "c-multistage", "nginx-static", "python-app"])
def test_tree_equals_that_of_docker_build(
    workshop: Pybuild, built: Callable[[str], str], dockerd: Dockerd, examples: Path, tmp_path: Path, example: str
) -> None:
    theirs = read_tree(_tree_of_docker(dockerd, examples / example, tmp_path / "docker"))
    ours = read_tree(unpacked_by_umoci(workshop, built(example), tmp_path))
    assert differences(ours, theirs, IGNORED) == []
