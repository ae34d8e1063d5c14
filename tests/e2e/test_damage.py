"""A blob whose content changed at equal length: who reads it says so, and who brings it again has a store that is right."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from harness.pybuild import Pybuild
from layers.store import Store
from layers.testing.docker_registry import DockerRegistry

KINDS = ("index", "manifest", "config", "layer")
BUILD = 'FROM scratch\nCOPY data /data\nCMD ["/data"]\n'


def make_context(directory: Path) -> Path:
    directory.mkdir()
    # larger than what is read whenever somebody asks for it
    (directory / "data").write_bytes(b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(1 << 14)))
    (directory / "Dockerfile").write_text(BUILD)
    return directory


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return make_context(tmp_path / "context")


def blob(root: Path, name: str, kind: str) -> Path:
    """The file of the image's index, or of a part of its manifest for this machine."""
    with Store(root) as store:
        entry = store.find(name)
        assert entry is not None
        image = store.image(name)
        digest = {
            "index": entry.digest,
            "manifest": image.descriptor.digest,
            "config": image.id,
            "layer": image.manifest.layers[0].digest,
        }[kind]
        return store.blobs.path(digest)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def is_right(path: Path) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def read_by_skopeo(root: Path, name: str) -> None:
    """Another program finds the image whole."""
    command = ["skopeo", "copy", "--all", f"oci:{root}:{name}", f"dir:{root}-read"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def once(docker_registry: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store with an image of two platforms that it pulled, and its name."""
    directory = tmp_path_factory.mktemp("damage")
    name = f"{docker_registry}/damage:1"
    context = make_context(directory / "context")
    Pybuild(directory / "made").run(
        "build", "-q", "-t", name, "--platform", "linux/amd64,linux/arm64", "--push", context
    )
    Pybuild(directory / "pulled").run("pull", "-q", "--all-platforms", name)
    return directory / "pulled", name


@pytest.fixture
def pulled(once: tuple[Path, str], tmp_path: Path) -> tuple[Pybuild, str]:
    """A store of the test's own like that."""
    source, name = once
    subprocess.run(["cp", "-a", source, tmp_path / "store"], check=True)
    return Pybuild(tmp_path / "store"), name


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_is_said_and_healed_by_a_pull(pulled: tuple[Pybuild, str], tmp_path: Path, kind: str) -> None:
    other, name = pulled
    path = blob(other.root, name, kind)
    damage(path)
    done = other.attempt("save", "-o", tmp_path / "out.tar", name)
    assert done.returncode == 1
    assert f'error: blob "{path}" is damaged' in done.stderr
    assert "hint: pull, load or build it again" in done.stderr
    other.run("pull", "-q", "--all-platforms", name)
    assert is_right(path)
    assert path.stat().st_mode & 0o777 == 0o644
    read_by_skopeo(other.root, name)
    assert other.run("cache verify").stdout.count("\n") == 1


def test_what_is_small_is_healed_without_having_been_found(pulled: tuple[Pybuild, str]) -> None:
    other, name = pulled
    paths = [blob(other.root, name, kind) for kind in ("index", "manifest", "config")]
    for path in paths:
        damage(path)
    other.run("pull", "-q", "--all-platforms", name)
    assert all(is_right(path) for path in paths)


def test_pulling_one_platform_over_a_damaged_index(pulled: tuple[Pybuild, str]) -> None:
    other, name = pulled
    damage(blob(other.root, name, "index"))
    assert other.attempt("cache verify").returncode == 1
    other.run("pull", "-q", name)
    other.run("inspect", name)
    assert other.run("images", "-q").stdout.count("\n") == 1


@pytest.mark.parametrize("kind", ["manifest", "layer"])
def test_verify_tells_of_each_and_another_platform_is_never_taken_instead(
    pulled: tuple[Pybuild, str], kind: str
) -> None:
    other, name = pulled
    path = blob(other.root, name, kind)
    assert other.run("cache verify").stdout.count("\n") == 1
    damage(path)
    for again in (False, True):
        done = other.attempt("cache verify")
        assert done.returncode == 1, again
        assert f"damaged: {path}\n" in done.stdout
        assert f'not whole: {name}: blob "{path}" is damaged' in done.stdout
        assert "error: 1 blob is damaged, 1 image is not whole" in done.stderr
    if kind != "layer":
        assert other.attempt("inspect", name).returncode == 1
        listed = other.attempt("images")
        assert listed.returncode == 1
        assert listed.stderr.startswith(f"error: image {name}: blob")
    # what cannot be read can be removed all the same
    other.run("rmi", name)
    assert other.run("images", "-q").stdout == ""
    assert other.run("cache verify").returncode == 0


def test_a_push_finds_what_is_damaged(pulled: tuple[Pybuild, str], tmp_path: Path) -> None:
    other, name = pulled
    path = blob(other.root, name, "layer")
    damage(path)
    with DockerRegistry(tmp_path / "registry") as registry:
        new = f"{registry.host}/app:1"
        other.run("tag", name, new)
        done = other.attempt("push", new)
        assert done.returncode == 1
        assert f'error: blob "{path}" is damaged' in done.stderr
        other.run("pull", "-q", name)
        other.run("push", "-q", new)


def test_a_build_asks_the_registry_for_a_base_that_is_damaged(pulled: tuple[Pybuild, str], tmp_path: Path) -> None:
    other, name = pulled
    path = blob(other.root, name, "config")
    damage(path)
    (tmp_path / "Dockerfile").write_text(f"FROM {name}\nENV a=b\n")
    done = other.attempt("build", "--pull=never", "-f", tmp_path / "Dockerfile", tmp_path)
    assert done.returncode == 1
    assert f'hint: it is here, but blob "{path}" is damaged' in done.stderr
    other.run("build", "-q", "-t", "made", "-f", tmp_path / "Dockerfile", tmp_path)
    read_by_skopeo(other.root, "made:latest")


def test_a_build_brings_what_a_damaged_result_was(pybuild: Pybuild, context: Path) -> None:
    pybuild.run("build", "-q", "-t", "made", context)
    path = blob(pybuild.root, "made", "layer")
    damage(path)
    assert pybuild.attempt("cache verify").returncode == 1
    pybuild.run("build", "-q", "-t", "made", context)
    assert is_right(path)
    assert pybuild.run("cache verify").returncode == 0


def test_loading_brings_what_is_damaged(pybuild: Pybuild, context: Path, tmp_path: Path) -> None:
    pybuild.run("build", "-q", "-t", "made", context)
    pybuild.run("save", "-o", tmp_path / "made.tar", "made")
    path = blob(pybuild.root, "made", "layer")
    damage(path)
    assert pybuild.attempt("save", "-o", tmp_path / "again.tar", "made").returncode == 1
    assert not (tmp_path / "again.tar").exists()
    pybuild.run("load", "-i", tmp_path / "made.tar")
    assert is_right(path)
    pybuild.run("save", "-o", tmp_path / "again.tar", "made")
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "made.tar").read_bytes()
