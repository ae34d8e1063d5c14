"""What skopeo and umoci make of a store, an unpacked image and archives; and what we make of theirs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from layers.archive import write_docker_archive, write_oci_archive
from layers.ensure import ensure_unpacked
from layers.load import load
from layers.snapshotter import Snapshotter
from layers.store import Store, StoredImage
from layers.testing.images import random_image
from layers.testing.trees import describe
from layers.validate import validate_store
from unionfs.delta import ChangeKind, iter_changes

pytestmark = pytest.mark.e2e

NAMES = ["hello:latest", "127.0.0.1:5000/team/app:1.2", "ghcr.io/a/b:x"]


def run(*arguments: str | Path) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "store") as made:
        yield made
        validate_store(made)


@pytest.mark.parametrize("name", NAMES)
def test_skopeo_reads_the_store_as_it_lies(store: Store, name: str) -> None:
    image = random_image(store, name, 1)
    random_image(store, "other", 2)
    found = json.loads(run("skopeo", "inspect", f"oci:{store.root}:{name}"))
    assert found["Digest"] == image.descriptor.digest
    assert found["Layers"] == [layer.digest for layer in image.manifest.layers]
    assert found["Env"] == list(image.config.env)
    assert run("skopeo", "inspect", "--raw", "--config", f"oci:{store.root}:{name}").encode() == image.config.to_bytes()


def test_skopeo_copies_out_of_the_store_and_into_it(store: Store, tmp_path: Path) -> None:
    image = random_image(store, "hello", 1)
    run("skopeo", "copy", f"oci:{store.root}:hello:latest", f"oci:{tmp_path}/copy:hello:latest")
    run("skopeo", "copy", f"oci:{tmp_path}/copy:hello:latest", f"oci:{store.root}:team/back:1")
    back = store.image("team/back:1")
    assert back.id == image.id
    assert ensure_unpacked(store, back.manifest, back.config) == image.config.rootfs.chain_ids[-1]
    with Store(tmp_path / "copy") as taken_over:
        copied = taken_over.image("hello")
        assert ensure_unpacked(taken_over, copied.manifest, copied.config) == image.config.rootfs.chain_ids[-1]
        assert [describe(path) for path in Snapshotter(taken_over).view(image.config.rootfs.chain_ids[-1])]


def test_archives_are_read_by_skopeo(store: Store, tmp_path: Path) -> None:
    image = random_image(store, "hello", 1)
    with open(tmp_path / "oci.tar", "wb") as out:
        write_oci_archive(store, [(image.descriptor, "hello:latest")], out)
    with open(tmp_path / "docker.tar", "wb") as out:
        write_docker_archive(store, [(image, ["hello:latest"])], out)
    for source in (
        f"oci-archive:{tmp_path}/oci.tar:hello:latest",
        f"docker-archive:{tmp_path}/docker.tar:hello:latest",
    ):
        assert run("skopeo", "inspect", "--raw", "--config", source).encode() == image.config.to_bytes()
        run("skopeo", "copy", source, f"dir:{tmp_path}/dir")
        shutil.rmtree(tmp_path / "dir")


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_archives_of_skopeo_are_read(store: Store, tmp_path: Path, kind: str) -> None:
    image = random_image(store, "hello", 1)
    run("skopeo", "copy", f"oci:{store.root}:hello:latest", f"{kind}:{tmp_path}/a.tar:127.0.0.1:5000/x:1")
    with Store(tmp_path / "other") as other, open(tmp_path / "a.tar", "rb") as stream:
        (loaded,) = load(other, stream)
        assert loaded.names == ("127.0.0.1:5000/x:1",)
        found = other.image("127.0.0.1:5000/x:1")
        assert found.config.rootfs == image.config.rootfs
        assert ensure_unpacked(other, found.manifest, found.config) == image.config.rootfs.chain_ids[-1]
        validate_store(other)


def plain(store: Store, image: StoredImage, target: Path) -> None:
    """The image's root, made from its unpacked layers by the rules of the marks alone."""
    target.mkdir(mode=0o755)
    for layer in reversed(Snapshotter(store).view(image.config.rootfs.chain_ids[-1])):
        for change in iter_changes(layer):
            path = target / os.fsdecode(change.path)
            if change.kind is ChangeKind.WHITEOUT:
                remove(path)
            elif change.kind is ChangeKind.OPAQUE_DIRECTORY:
                if change.path:
                    remove(path)
                else:
                    for below in path.iterdir():
                        remove(below)
                path.mkdir(exist_ok=True)
            elif change.is_directory:
                if path.is_symlink() or (path.exists() and not path.is_dir()):
                    remove(path)
                path.mkdir(exist_ok=True)
            else:
                remove(path)
                subprocess.run(
                    ["cp", "-a", "--", Path(os.fsdecode(layer)) / os.fsdecode(change.path), path], check=True
                )


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("seed", range(4))
def test_umoci_unpacks_the_same_tree(store: Store, tmp_path: Path, seed: int) -> None:
    image = random_image(store, "hello", seed, layers=3)
    run("umoci", "unpack", "--image", f"{store.root}:hello:latest", tmp_path / "bundle")
    theirs = describe(tmp_path / "bundle" / "rootfs")
    plain(store, image, tmp_path / "plain")
    ours = describe(tmp_path / "plain")
    assert set(ours) == set(theirs)
    for path in sorted(ours):
        if ours[path].kind != "40000":
            assert ours[path]._replace(link=b"") == theirs[path]._replace(link=b""), path


def test_umoci_repacks_and_we_unpack(store: Store, tmp_path: Path) -> None:
    random_image(store, "hello", 1)
    run("umoci", "unpack", "--image", f"{store.root}:hello:latest", tmp_path / "bundle")
    rootfs = tmp_path / "bundle" / "rootfs"
    (rootfs / "added").write_text("added")
    gone = next(path for path in sorted(rootfs.iterdir()) if path.is_file() and path.name != "added")
    gone.unlink()
    run("umoci", "repack", "--image", f"{store.root}:repacked", tmp_path / "bundle")
    image = store.image("repacked")
    top = ensure_unpacked(store, image.manifest, image.config)
    assert top is not None
    changes = {change.path: change.kind for change in iter_changes(Snapshotter(store).view(top)[0])}
    assert changes[b"added"] is ChangeKind.FILE
    assert changes[os.fsencode(gone.name)] is ChangeKind.WHITEOUT
